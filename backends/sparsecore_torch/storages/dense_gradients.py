"""The dense gradients of one optimizer step, for strategies that grow where the gradient is large."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parameter import Parameter

from sparsecore.topology import Topology
from sparsecore_torch.materialize import gather, places


class DenseGradients:
    """Sums the dense gradients of backward passes, from a cleared gradient of the values to the optimizer's step.

    A tensor hook could not: dense gradients pass through backward once, and what is done to the gradient of the values
    afterwards (a sum over micro-batches, a loss scale taken out, clipping by norm) has to be done to them as well.
    """

    def __init__(self, values: Parameter) -> None:
        self._values = values
        self._sums: dict[int, Tensor] = {}
        self._is_between_passes = True
        self._factor: Tensor | None = None
        register: Any = values.register_post_accumulate_grad_hook
        self._handle = register(self._after_pass)

    def add(self, index: int, gradient: Tensor) -> None:
        """A dense gradient of the tensor of this index has arrived."""
        if self._is_between_passes:
            self._is_between_passes = False
            if self._values.grad is None or not self._values.grad.any():
                self._sums.clear()  # a new sum, whatever became of an earlier one
        self._factor = None
        gradient = gradient.detach().to(self._values.dtype)
        self._sums[index] = self._sums[index] + gradient if index in self._sums else gradient

    def reduce(self, topology: Topology) -> None:
        """Where several ranks train together, take the mean over them, as is done to the gradient of the values."""
        ranks = world_size()
        if ranks > 1:
            for index, shape in enumerate(topology.layout.shapes):
                own = self._sums.get(index)
                summed = self._values.new_zeros(shape) if own is None else own.contiguous()
                dist.all_reduce(summed)
                self._sums[index] = summed / ranks

    def of(self, index: int, topology: Topology) -> Tensor:
        """The dense gradient of this tensor as the optimizer would have had it: D_i entries, row-major."""
        if index not in self._sums:
            return self._values.new_zeros(topology.layout.sizes[index])
        if self._factor is None:
            self._factor = self._scale(topology)
        return self._sums[index].reshape(-1) * self._factor

    def close(self) -> None:
        """Let go of them all."""
        self._handle.remove()
        self._sums.clear()

    def _after_pass(self, _: Tensor) -> None:
        self._is_between_passes = True

    def _scale(self, topology: Topology) -> Tensor:
        """By what the gradient of the values has been multiplied since it was the sum of the passes; on the device."""
        ours = torch.cat([self._at_weights(index, topology) for index in range(len(topology.layout))])
        one = ours.new_ones((), dtype=torch.float64)
        theirs = self._values.grad
        if theirs is None:
            return one
        lost = ~(theirs.isfinite() & ours.isfinite())
        whole, sums = (each.double().masked_fill(lost, 0.0) for each in (theirs, ours))
        products, squares = whole @ sums, sums @ sums
        unscaled = (theirs == ours).all() | (squares == 0) | (products == 0)
        # no branch, for which the device would be waited for
        return torch.where(unscaled, one, products / squares)

    def _at_weights(self, index: int, topology: Topology) -> Tensor:
        inside = places(topology, index)
        return gather(self._sums[index], inside) if index in self._sums else self._values.new_zeros(len(inside))


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
