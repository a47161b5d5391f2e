"""The learner of the JAX backend: the only object that changes, which holds immutable buffers and replaces them."""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.data.images import Batch, Split, augmented
from sparsecore.engine.arrays import Gradient, InputNorms
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore.host.input_norms import InputMeter, input_norms
from sparsecore.host.parameters import concatenated
from sparsecore.learning.ledger import Bytes, Ledger
from sparsecore.learning.protocols import Task, Totals
from sparsecore.learning.saved_states import check_saved, check_shape
from sparsecore_jax.arrays import JaxArray, JaxArrays
from sparsecore_jax.experiment.compilation import CompiledNetwork
from sparsecore_jax.experiment.devices import Placement, with_64_bits
from sparsecore_jax.experiment.network import Buffers, Examples, Gradients, JaxNetwork
from sparsecore_jax.experiment.optimizers import MOMENTUM, YoungCorrections, rule_of, step_numbers

_PIXELS, _MOST_IMAGES = 1 << 17, 1 << 10
"""At most so many pixels and images are evaluated at a time."""


class JaxLearner:
    """A network in training; implements :class:`sparsecore.learning.protocols.Learner`.

    A backward pass and the optimizer step after it are one compiled function, unless a strategy asks for gradients in
    between: the backward pass waits until its results are needed. The host waits for the device only where it reads.

    Args:
        task: the network, its start values, the data and the optimizer.
        placement: the devices.
        dtype: of parameters and optimizer state.
        activation_dtype: of activations.
    """

    def __init__(self, task: Task, placement: Placement, dtype: str, activation_dtype: str) -> None:
        self._task, self._placement, self._dtype = task, placement, np.dtype(dtype)
        self._topology, self._rule = task.topology, rule_of(task.optimizer)
        self._compiled = CompiledNetwork.of(JaxNetwork.of(task, self._rule, dtype, activation_dtype), placement)
        self._young = (
            YoungCorrections.of(task.young, getattr(task.optimizer, "betas"))  # noqa: B009 - Adam and AdamW have them
            if task.corrects_young_weights
            else None
        )
        others = [parameter for parameter in task.parameters if not parameter.sparse]
        self._trained = [parameter for parameter in others if parameter.trained]
        self._statistics = [parameter for parameter in others if not parameter.trained]
        values = JaxArrays().to_numpy(task.values)
        dense, running = (
            concatenated(some, task.other_parameters, dtype) for some in (self._trained, self._statistics)
        )
        self._steps = 0
        self._waiting: Examples | None = None
        self._gradients: Gradients | None = None
        self._meters: dict[str, InputMeter] = {}
        with with_64_bits():
            self._moments = placement.put(np.stack([task.images.mean, task.images.std]))
            self._buffers: Buffers = {
                name: placement.put(vector) for name, vector in self._start(values, dense, running).items()
            }
            self._positions = placement.put(self._topology.host_positions)

    @property
    def values(self) -> JaxArray:
        """The N sparse values, valid until the next call that changes them."""
        return JaxArray(self._buffers["values"])

    def train(self, batch: Batch, learning_rate: float) -> None:
        """Compute the gradients, and take an optimizer step."""
        self.backward(batch)
        self.optimizer_step(learning_rate)

    def backward(self, batch: Batch, *, dense: bool = False) -> Gradient | None:
        """Compute the gradients of the mean loss over a batch, now or when they are needed.

        Args:
            batch: the training images.
            dense: whether gradients of all positions are computed, too.

        Returns:
            None, or from a tensor's name to its dense gradient, (D_i,), row-major.
        """
        self._compute_gradients()
        self._waiting, self._gradients = self._examples(batch), None
        if not dense and not self._meters:
            return None
        gradients, layout = self._compute_gradients(dense=dense), self._topology.layout
        return (lambda name: JaxArray(gradients.tensors[layout.index(name)])) if dense and gradients else None

    def measure_inputs(self) -> InputNorms:
        """Measure the inputs of the sparse tensors in the next backward pass.

        Returns:
            From a tensor's name to the norms of its layer's inputs, (in,), in the learner's dtype, valid after that
            pass.
        """
        self._meters = {name: InputMeter() for name in self._topology.layout.names}
        norms = input_norms(self._meters, self._dtype)
        return lambda name: JaxArray(norms(name))

    def optimizer_step(self, learning_rate: float) -> None:
        """Take one optimizer step by the gradients.

        Raises:
            InputError: there are none, as no backward pass has come before.
        """
        if self._waiting is None and self._gradients is None:
            raise InputError("an optimizer step takes the gradients of a backward pass, and none has come before it")
        self._steps += 1
        numbers = step_numbers(self._task.optimizer, float(learning_rate), self._steps)
        young = None if self._young is None else self._young.arguments(numbers)
        with with_64_bits():
            if self._waiting is not None:
                self._buffers = self._compiled.step(self._buffers, self._positions, self._waiting, numbers, young)
            else:
                self._buffers = self._compiled.optimizer_step(self._buffers, self._gradients, numbers, young)
        self._waiting = self._gradients = None

    def totals(self) -> Totals:
        """The sums since :meth:`reset_totals`; the host waits for the device."""
        self._compute_gradients()
        return _totals(self._buffers["totals"])

    def reset_totals(self) -> None:
        """Set the sums to zero."""
        self._compute_gradients()
        self._replace(totals=np.zeros(3))

    def evaluate(self, split: Split) -> Totals:
        """The sums over all examples of a split, with running statistics and without augmentation."""
        self._compute_gradients()
        with with_64_bits():
            totals = self._placement.put(np.zeros(3))
            for examples in self._in_batches(split):
                totals = self._compiled.evaluation(self._buffers, self._positions, examples, totals)
        return _totals(totals)

    @property
    def weight_gradient(self) -> JaxArray:
        """The gradient of the N sparse values, from :meth:`backward` to the optimizer's step.

        Raises:
            InputError: there is none, as no backward pass has come before.
        """
        return JaxArray(self._present_gradients().values)

    def set_weight_gradient(self, weight_gradient: Any) -> None:
        """Replace the gradient of the N sparse values before the optimizer's step.

        Args:
            weight_gradient: (N,).

        Raises:
            InputError: it has another shape, or no backward pass has come before.
        """
        present = self._present_gradients()
        check_shape("weight_gradient", weight_gradient, present.values.shape)
        self._gradients = attrs.evolve(present, values=self._put(weight_gradient))

    def momentum(self, name: str) -> JaxArray | None:
        """SGD's momentum of a tensor's active weights, (N_i,); None with other optimizers and without one.

        Args:
            name: of the tensor.
        """
        if not getattr(self._task.optimizer, "momentum", 0):
            return None
        return JaxArray(self._buffers[MOMENTUM])[self._topology.slots(name)]

    def set_values(self, values: Any) -> None:
        """Replace the N sparse values, and keep the optimizer's state.

        Args:
            values: (N,).

        Raises:
            InputError: they have another shape.
        """
        check_shape("values", values, self._buffers["values"].shape)
        self._compute_gradients()  # by the values before
        self._buffers = {**self._buffers, "values": self._put(values)}

    def reallocate(self, reallocation: Reallocation) -> None:
        """Replace the topology and its values; optimizer state follows its weights and is zero for grown ones.

        SGD's momentum of grown weights is that of the reallocation.
        """
        self._compute_gradients()
        self._gradients = None  # of weights that are others now
        buffers, moved = self._buffers, {}
        for name in self._rule.state:
            carry = reallocation.carry_momentum if name == MOMENTUM else reallocation.carry
            moved[name] = self._put(carry(JaxArray(buffers[name])))
        if self._young is not None:
            arrays = reallocation.after.arrays
            marks = reallocation.carry(JaxArray(buffers["young"]))
            moved["young"] = self._put(arrays.put(marks, reallocation.grown_slots, 1), np.dtype(np.int32))
        self._buffers = {**buffers, **moved, "values": self._put(reallocation.values)}
        self._move(reallocation.after)

    def other_parameters(self) -> dict[str, NDArray[Any]]:
        """Copies of the parameters that are not sparse, including running statistics, by name and in their shapes."""
        self._compute_gradients()
        copies = {}
        for buffer, parameters in (("dense", self._trained), ("running", self._statistics)):
            vector, first = np.asarray(self._buffers[buffer]), 0
            for parameter in parameters:
                last = first + int(np.prod(parameter.shape))
                copies[parameter.name] = vector[first:last].reshape(parameter.shape).copy()
                first = last
        return copies

    def memory(self) -> Ledger:
        """The bytes of the trained parameters, their gradients, indices and optimizer state, on each device."""
        buffers = self._buffers
        weights = sum(buffers[name].nbytes for name in ("values", "dense"))
        state = sum(buffers[prefix + name].nbytes for prefix in ("", "dense_") for name in self._rule.state)
        indices, on_host = self._positions.nbytes, self._topology.host_positions
        measured = indices + (0 if np.shares_memory(on_host, np.asarray(self._positions)) else on_host.nbytes)
        return Ledger(Bytes(weights, weights), Bytes(indices, measured), Bytes(weights, weights), Bytes(state, state))

    def state(self) -> dict[str, NDArray[Any]]:
        """All buffers except the topology's positions, by the names of the host backends."""
        self._compute_gradients()
        saved = {name: np.array(buffer) for name, buffer in self._buffers.items()}
        return {**saved, "steps": np.array([self._steps])}

    def load_state(self, topology: Topology, state: Mapping[str, NDArray[Any]]) -> None:
        """Resume from the buffers that :meth:`state` returned; nothing changes before all of them have been checked.

        Args:
            topology: the topology that they belong to.
            state: the buffers by name, which are copied; those of a host backend fit, too.

        Raises:
            InputError: a buffer is missing or has another shape.
        """
        others = (np.asarray(self._buffers[name]) for name in ("dense", "running"))
        expected = self._start(np.zeros(topology.size, self._dtype), *others)
        check_saved(state, {**{name: like.shape for name, like in expected.items()}, "steps": (1,)})
        self._waiting = self._gradients = None
        self._replace(**{name: np.asarray(state[name]).astype(like.dtype) for name, like in expected.items()})
        self._steps = int(state["steps"][0])
        self._move(topology)

    def _start(self, values: NDArray[Any], dense: NDArray[Any], running: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return all buffers before the first step, by name."""
        state = {name: np.zeros_like(values) for name in self._rule.state}
        dense_state = {f"dense_{name}": np.zeros_like(dense) for name in self._rule.state}
        young = {} if self._young is None else {"young": np.zeros(len(values), np.int32)}
        vectors = {"values": values.astype(self._dtype), **state, "dense": dense, **dense_state, "running": running}
        return {**vectors, **young, "totals": np.zeros(3)}

    def _move(self, topology: Topology) -> None:
        self._topology = topology
        with with_64_bits():
            self._positions = self._placement.put(topology.host_positions)

    def _put(self, vector: Any, dtype: np.dtype[Any] | None = None) -> Any:
        with with_64_bits():
            return self._placement.put(JaxArrays().to_numpy(vector).astype(dtype or self._dtype, copy=False))

    def _replace(self, **vectors: NDArray[Any]) -> None:
        with with_64_bits():
            self._buffers = {**self._buffers, **{name: self._placement.put(one) for name, one in vectors.items()}}

    def _compute_gradients(self, *, dense: bool = False) -> Gradients | None:
        """Run the backward pass that waits, if one does, and return the gradients that there are."""
        if self._waiting is not None:
            meters, self._meters = self._meters, {}
            with with_64_bits():
                self._buffers, self._gradients = self._compiled.gradients(
                    self._buffers, self._positions, self._waiting, dense=dense, measured=bool(meters)
                )
            self._waiting = None
            for name, squares in self._gradients.squares.items():
                if name in meters:
                    meters[name].add(np.asarray(squares))
        return self._gradients

    def _present_gradients(self) -> Gradients:
        gradients = self._compute_gradients()
        if gradients is None:
            raise InputError("there is a gradient only from a backward pass to the optimizer step after it")
        return gradients

    def _examples(self, batch: Batch) -> Examples:
        split = self._task.images.train
        return self._shared(augmented(split.images, batch), split.labels[batch.rows])

    def _in_batches(self, split: Split) -> Iterator[Examples]:
        """Divide a split into batches of one size, the last of which ends with examples that do not count."""
        height, width = split.images.shape[1:3]
        devices = len(self._placement.devices)
        count = min(max(1, _PIXELS // (height * width)), _MOST_IMAGES, len(split))
        count = -(-count // devices) * devices
        for first in range(0, len(split), count):
            images, labels = split.images[first : first + count], split.labels[first : first + count]
            missing = count - len(labels)
            if missing:
                images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
                labels = np.concatenate([labels, np.full(missing, -1)])
            yield self._shared(images, labels)

    def _shared(self, images: NDArray[np.uint8], labels: NDArray[np.integer[Any]]) -> Examples:
        with with_64_bits():
            share = self._placement.share
            return Examples(share(images), share(labels.astype(np.int32)), self._moments)


def _totals(vector: Any) -> Totals:
    loss, correct, examples = np.asarray(vector).tolist()
    return Totals(loss, int(correct), int(examples))
