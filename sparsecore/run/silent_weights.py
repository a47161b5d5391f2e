"""A learner whose network computes with a part of its weights, and trains all of them, as Top-KAST does."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.data.images import Batch, Split
from sparsecore.engine.arrays import Array, Arrays, Gradient, InputNorms, WeightMomentum
from sparsecore.engine.forward_view import SilentValues, VisibleWeights
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore.learning.ledger import Ledger
from sparsecore.learning.protocols import Learner, Totals

_SILENT = "silent"


class ViewedLearner:
    """Implements :class:`sparsecore.learning.protocols.Learner` on a learner of any backend.

    Silent weights are zero in the other learner while it computes outputs, gradients and its state, and have their
    values for optimizer steps, perturbations and updates. The state has them in an array of their own, so that the
    values of a checkpoint are those that the network computes with.

    Args:
        learner: has all values.
        arrays: the operations of its backend.
        visible: returns which weights the network computes with now; called again after each change of the topology
            or of the whole state.
    """

    def __init__(self, learner: Learner, arrays: Arrays, visible: Callable[[], VisibleWeights]) -> None:
        self._learner, self._arrays, self._find_visible = learner, arrays, visible
        self._visible: VisibleWeights | None = None
        self._silent = SilentValues(lambda: learner.values, learner.set_values, arrays)

    @property
    def visible(self) -> VisibleWeights:
        """The weights that the network computes with now."""
        if self._visible is None:
            self._visible = self._find_visible()
        return self._visible

    @property
    def values(self) -> Array:
        """The values of all weights, (N,), read-only and valid until the next call that changes them."""
        self._silent.show()
        return self._learner.values

    def train(self, batch: Batch, learning_rate: float) -> None:
        """Compute the gradients of a batch, and take an optimizer step."""
        self.backward(batch)
        self.optimizer_step(learning_rate)

    def backward(self, batch: Batch, *, dense: bool = False) -> Gradient | None:
        """Compute the gradients of all weights, by the outputs that the visible ones give."""
        self._hide()
        return self._learner.backward(batch, dense=dense)

    def optimizer_step(self, learning_rate: float) -> None:
        """Take an optimizer step of all weights."""
        self._silent.show()
        self._learner.optimizer_step(learning_rate)

    @property
    def weight_gradient(self) -> Array:
        """The gradient of all weights, (N,), from :meth:`backward` to :meth:`optimizer_step`."""
        return self._learner.weight_gradient

    def set_weight_gradient(self, weight_gradient: Array) -> None:
        """Replace the gradient of all weights, (N,)."""
        self._learner.set_weight_gradient(weight_gradient)

    @property
    def momentum(self) -> WeightMomentum | None:
        """The learner's function from a tensor's name to the momentum of all its weights; None where it has none."""
        found: WeightMomentum | None = getattr(self._learner, "momentum", None)
        return found

    @property
    def measure_inputs(self) -> Callable[[], InputNorms] | None:
        """The learner's function that makes the next backward pass measure inputs; None where it has none."""
        found: Callable[[], InputNorms] | None = getattr(self._learner, "measure_inputs", None)
        return found

    @property
    def backward_at(self) -> Callable[[Batch, Topology], Array] | None:
        """A backward pass that returns the gradients at inactive positions, too; None where the learner has none."""
        of_learner: Callable[[Batch, Topology], Array] | None = getattr(self._learner, "backward_at", None)
        if of_learner is None:
            return None

        def backward_at(batch: Batch, candidates: Topology) -> Array:
            self._hide()
            return of_learner(batch, candidates)

        return backward_at

    def upcoming(self, plan: Iterator[Batch]) -> Iterator[Batch]:
        """The batches of a plan, whose images may be loaded before they are asked for."""
        prepared: Iterator[Batch] = getattr(self._learner, "upcoming", iter)(plan)
        return prepared

    def totals(self) -> Totals:
        """The sums since :meth:`reset_totals`."""
        return self._learner.totals()

    def reset_totals(self) -> None:
        """Set the sums to zero."""
        self._learner.reset_totals()

    def evaluate(self, split: Split) -> Totals:
        """The sums over a split, by the outputs that the visible weights give."""
        self._hide()
        return self._learner.evaluate(split)

    def set_values(self, values: Array) -> None:
        """Replace the values of all weights, (N,)."""
        self._learner.set_values(values)
        self._silent.forget()

    def reallocate(self, reallocation: Reallocation) -> None:
        """Replace the topology and the values of all weights."""
        self._learner.reallocate(reallocation)
        self._silent.forget()
        self._visible = None

    def other_parameters(self) -> dict[str, NDArray[Any]]:
        """Copies of the parameters that are not sparse, by name."""
        return self._learner.other_parameters()

    def memory(self) -> Ledger:
        """The bytes of the trained parameters, their gradients, indices and optimizer state."""
        return self._learner.memory()

    def state(self) -> dict[str, NDArray[Any]]:
        """The state of the learner with zeros for silent weights, whose values, (N,), are named ``silent``."""
        silent = self._hide()
        return {**self._learner.state(), _SILENT: self._arrays.to_numpy(silent).copy()}

    def load_state(self, topology: Topology, state: Mapping[str, NDArray[Any]]) -> None:
        """Resume from the buffers that :meth:`state` returned.

        Raises:
            InputError: a buffer is missing or has another shape.
        """
        if _SILENT not in state:
            raise InputError(f"the saved state has no values of silent weights; it has: {', '.join(sorted(state))}")
        if state[_SILENT].shape != (topology.size,):
            raise InputError(f"{_SILENT} must have the shape {(topology.size,)}; given {state[_SILENT].shape}")
        self._learner.load_state(topology, {name: array for name, array in state.items() if name != _SILENT})
        seen, silent = self._arrays.to_numpy(self._learner.values), state[_SILENT]
        if np.any((seen != 0) & (silent != 0)):
            raise InputError(f"a weight has a value in {_SILENT} and another one that the network computes with")
        self.set_values(self._learner.values + self._arrays.from_numpy(silent))
        self._visible = None

    def _hide(self) -> Array:
        return self._silent.hide(self.visible)
