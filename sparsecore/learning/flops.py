"""Floating-point operations of layers, counted as the papers on sparse training count them.

A weight of a linear layer or of a convolution is multiplied and added once for each vector or pixel that it is applied
to: two operations, its *uses* being the number of these. The backward pass takes twice the operations of the forward
pass: as many for the gradients of the inputs and for those of the weights. In a step in which a strategy asks for the
dense gradient, as RigL's updates do, the gradients of the weights take as many as in a dense layer (Evci et al. 2020,
appendix H). Where it asks for gradients at candidates, these count as gradients of weights. Silent weights, which
Top-KAST trains and does not compute with, are used for the gradients of weights alone: the forward pass and the
gradients of the inputs go through the others (Jayakumar et al. 2020, section 2). Norms, activation functions, biases
and products without weights, as in attention, are not counted.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Counts
from sparsecore.engine.topology import Topology


def _zeros(tensors: int) -> NDArray[np.int64]:
    return np.zeros(tensors, np.int64)


_ADDED = ("candidates", "silent")
"""The sums that files of before there were such weights lack."""


@attrs.frozen(eq=False)
class StepSums:
    """Sums over the steps of a training, from which its operations follow however often a weight is used.

    Attributes:
        steps: the number of steps.
        weights: int64, for each sparse tensor the sum over all steps of the number of its active weights.
        dense_gradient_steps: the number of steps with dense gradients.
        dense_gradient_weights: as ``weights``, over these steps alone.
        candidates: int64, for each sparse tensor the sum over all other steps of the number of candidates whose
            gradients were computed.
        silent: as ``weights``, of those of them that the network did not compute with.
    """

    steps: int
    weights: NDArray[np.int64]
    dense_gradient_steps: int
    dense_gradient_weights: NDArray[np.int64]
    candidates: NDArray[np.int64]
    silent: NDArray[np.int64]

    @classmethod
    def none(cls, tensors: int) -> "StepSums":
        """Return the sums before the first step.

        Args:
            tensors: the number of sparse tensors.
        """
        return cls(0, _zeros(tensors), 0, *(_zeros(tensors) for _ in range(3)))

    def after(
        self,
        counts: Counts,
        *,
        dense_gradient: bool,
        candidates: Counts | None = None,
        silent: Counts | None = None,
    ) -> "StepSums":
        """Return the sums after another step.

        Args:
            counts: the number of active weights of each tensor in this step.
            dense_gradient: whether the gradient of all positions was asked for.
            candidates: the number of candidates of each tensor whose gradients were asked for; None for none.
            silent: the number of active weights of each tensor that the network did not compute with; None for none.
        """
        more = counts if dense_gradient else 0
        few = 0 if dense_gradient or candidates is None else candidates
        return StepSums(
            self.steps + 1,
            self.weights + counts,
            self.dense_gradient_steps + dense_gradient,
            self.dense_gradient_weights + more,
            self.candidates + few,
            self.silent + (0 if silent is None else silent),
        )

    def dump(self) -> dict[str, Any]:
        """Return numbers and lists of numbers, which JSON can represent."""
        return {
            "steps": self.steps,
            "weights": self.weights.tolist(),
            "dense_gradient_steps": self.dense_gradient_steps,
            "dense_gradient_weights": self.dense_gradient_weights.tolist(),
            "candidates": self.candidates.tolist(),
            "silent": self.silent.tolist(),
        }

    @classmethod
    def load(cls, saved: Any, tensors: int, steps: int, *, has_silent: bool = False) -> "StepSums | None":
        """Return the sums of :meth:`dump`.

        Args:
            saved: the dumped sums; None where there are none, as in files of before they were counted.
            tensors: the number of sparse tensors.
            steps: the number of steps of the training that they belong to.
            has_silent: whether a strategy makes weights silent.

        Returns:
            The sums; None where there are none, or those of silent weights are missing, and the training has taken
            steps.

        Raises:
            ValueError: they are no such sums, or of another number of tensors or steps.
        """
        if saved is None:
            return None if steps else cls.none(tensors)
        names = {field.name for field in attrs.fields(cls)}
        if not isinstance(saved, Mapping) or saved.keys() | set(_ADDED) != names:
            raise ValueError(f"the sums over its steps are no table of {', '.join(sorted(names))}")
        numbers = [saved["steps"], saved["dense_gradient_steps"]]
        lists = [
            saved["weights"],
            saved["dense_gradient_weights"],
            *(saved.get(name, [0] * tensors) for name in _ADDED),
        ]
        if any(not isinstance(each, list) or len(each) != tensors for each in lists):
            raise ValueError(f"the sums over its steps are not of {tensors} tensors")
        if any(type(number) is not int or not 0 <= number < 2**63 for number in [*numbers, *chain(*lists)]):
            raise ValueError("the sums over its steps are not whole numbers of at least 0")
        if not 0 <= saved["dense_gradient_steps"] <= saved["steps"] == steps:
            raise ValueError(f"the sums over its steps are of {saved['steps']} steps, and it has taken {steps}")
        if has_silent and steps and "silent" not in saved:
            return None
        weights, dense_gradient_weights, *added = (np.array(each, np.int64) for each in lists)
        parts = {"dense_gradient_weights": dense_gradient_weights, "silent": added[_ADDED.index("silent")]}
        for name, part in parts.items():
            if (part > weights).any():
                raise ValueError(f"the sums over its steps have more in {name!r} than in 'weights'")
        return cls(saved["steps"], weights, saved["dense_gradient_steps"], dense_gradient_weights, *added)


@attrs.frozen
class TensorFlops:
    """The operations of a weight tensor.

    Attributes:
        name: of the tensor.
        positions: the number of its positions.
        active: the number of its active weights now; all positions of a dense tensor.
        used: how many of these the network computes with: all that are not silent.
        inference_dense: the operations of a forward pass if all positions were active.
        training: the operations of all steps so far; None where it is not known what the first of them were.
        training_dense: these if all positions had been active in all steps.
    """

    name: str
    positions: int
    active: int
    used: int
    inference_dense: int
    training: int | None
    training_dense: int

    @property
    def inference(self) -> int:
        """The operations of a forward pass with the weights that are used."""
        return self.inference_dense * self.used // self.positions


@attrs.frozen
class Flops:
    """The operations of a network, in inference and in training so far.

    Attributes:
        tensors: those of each weight tensor that products use, sparse and dense ones.
        steps: the number of steps of training.
        without_weights: operations of a forward pass in products without a weight, as those of attention scores, which
            are no part of the sums.
        unused: the sparse tensors that are in no product, such as those of embeddings.
    """

    tensors: tuple[TensorFlops, ...]
    steps: int
    without_weights: int = 0
    unused: tuple[str, ...] = ()

    @property
    def inference(self) -> int:
        """The operations of a forward pass."""
        return sum(tensor.inference for tensor in self.tensors)

    @property
    def inference_dense(self) -> int:
        """The operations of a forward pass of the dense network."""
        return sum(tensor.inference_dense for tensor in self.tensors)

    @property
    def training(self) -> int | None:
        """The operations of all steps so far; None where it is not known what the first of them were."""
        known = [tensor.training for tensor in self.tensors if tensor.training is not None]
        return sum(known) if len(known) == len(self.tensors) else None

    @property
    def training_dense(self) -> int:
        """The operations of as many steps of the dense network."""
        return sum(tensor.training_dense for tensor in self.tensors)

    def totals(self) -> dict[str, int | None]:
        """Return the sums by name: inference and training, each as it is and of the dense network."""
        return {name: getattr(self, name) for name in ("inference", "inference_dense", "training", "training_dense")}

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("tensor", "inference", "dense", "training so far", "dense")]
        rows += [_row(one.name, one) for one in self.tensors]
        rows.append(_row("all", self))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "   ".join(
                cell.ljust(width) if index == 0 else cell.rjust(width) for index, (cell, width) in enumerate(pairs)
            )
            for pairs in (list(zip(row, widths, strict=True)) for row in rows)
        ]
        rule = "─" * (len(lines[0]) + 4)
        shown = [f"  {lines[0]}", rule, *(f"  {line}" for line in lines[1:]), f"training so far: {self.steps:,} steps"]
        if self.without_weights:
            shown.append(f"not counted: {self.without_weights:.3g} in products without weights, as in attention")
        if self.unused:
            shown.append(f"in no product: {', '.join(self.unused)}")
        return "\n".join(shown)


def _row(name: str, counted: TensorFlops | Flops) -> tuple[str, ...]:
    numbers = (counted.inference, counted.inference_dense, counted.training, counted.training_dense)
    return (name, *("unknown" if number is None else f"{number:.3g}" for number in numbers))


@attrs.frozen(eq=False)
class ForwardPass:
    """The operations of a forward pass, if all weights were active.

    Attributes:
        of_tensors: by the name of the parameter, in the order of their first use; of a tied one by its first name.
        sizes: the number of positions of each of these.
        without_weights: the operations of products of which no operand is a parameter.
    """

    of_tensors: Mapping[str, int]
    sizes: Mapping[str, int]
    without_weights: int = 0

    @classmethod
    def load(cls, saved: Any) -> "ForwardPass":
        """Return the forward pass of which ``attrs.asdict`` has made ``saved``.

        Raises:
            ValueError: it was not made of a forward pass.
        """
        forward = cls(**saved)
        numbers = [*forward.of_tensors.values(), *forward.sizes.values(), forward.without_weights]
        if forward.of_tensors.keys() != forward.sizes.keys() or any(type(one) is not int or one < 0 for one in numbers):
            raise ValueError("the operations of a forward pass are no whole numbers by tensor")
        return forward


def flops(
    forward: ForwardPass, topology: Topology, sums: StepSums | None, steps: int, silent: Counts | None = None
) -> Flops:
    """Return the operations of a network.

    Args:
        forward: of the batch that each step is taken to have had.
        topology: the active weights now of the sparse tensors, in the order of ``sums``; others are dense.
        sums: over the steps so far; None where they are not known.
        steps: the number of steps so far.
        silent: the number of active weights of each sparse tensor that the network does not compute with now; None for
            none.
    """
    names, counts = topology.layout.names, topology.counts
    used = counts if silent is None else counts - silent
    order = {name: index for index, name in enumerate(names)}
    found = []
    for name, dense in forward.of_tensors.items():
        size, training_dense = forward.sizes[name], 3 * dense * steps
        training: int | None = training_dense
        active = now = size
        if name in order:
            training = None if sums is None else dense * _weight_steps(sums, order[name], size) // size
            active, now = int(counts[order[name]]), int(used[order[name]])
        found.append(TensorFlops(name, size, active, now, dense, training, training_dense))
    unused = tuple(name for name in names if name not in forward.of_tensors)
    return Flops(tuple(found), steps, forward.without_weights, unused)


def _weight_steps(sums: StepSums, tensor: int, size: int) -> int:
    """Return by how many weight tensors of one weight all passes of all steps amount to, for one use a step."""
    weights, of_dense_steps = int(sums.weights[tensor]), int(sums.dense_gradient_weights[tensor])
    of_gradients = size * sums.dense_gradient_steps - of_dense_steps + int(sums.candidates[tensor])
    return 3 * weights - 2 * int(sums.silent[tensor]) + of_gradients
