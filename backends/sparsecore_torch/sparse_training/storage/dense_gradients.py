"""Dense gradients of weights in compact storage, for strategies that ask for them."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parameter import Parameter

from sparsecore.engine.topology import Topology
from sparsecore_torch.arrays import active_indices, gather


class DenseGradients:
    """Sums the dense gradients of backward passes, from a cleared gradient of the values to the optimizer's step.

    A tensor hook is not enough: dense gradients pass through backward once, and what happens to the gradient of the
    values afterwards (a sum over micro-batches, unscaling, clipping by norm) has to happen to them as well.

    Args:
        values: the Parameter whose gradient is followed.
    """

    def __init__(self, values: Parameter) -> None:
        self._values = values
        self._sums: dict[int, Tensor] = {}
        self._is_between_passes = True
        self._factor: Tensor | None = None
        register: Any = values.register_post_accumulate_grad_hook
        self._handle = register(self._after_pass)

    def add(self, index: int, gradient: Tensor) -> None:
        """Add a dense gradient of one tensor, in a backward pass.

        Args:
            index: of the tensor in the layout.
            gradient: of the tensor's shape; it is summed in the dtype of the values.
        """
        if self._is_between_passes:
            self._is_between_passes = False
            if self._values.grad is None or not self._values.grad.any():
                self._sums.clear()  # a new sum begins, whatever became of the last one
        self._factor = None
        gradient = gradient.detach().to(self._values.dtype)
        self._sums[index] = self._sums[index] + gradient if index in self._sums else gradient

    def reduce(self, topology: Topology) -> None:
        """Average over ranks, as the gradient of the values is averaged. Collective.

        Args:
            topology: whose tensors are averaged in order; a rank without a gradient adds zeros.
        """
        ranks = world_size()
        if ranks > 1:
            for index, shape in enumerate(topology.layout.shapes):
                own = self._sums.get(index)
                summed = self._values.new_zeros(shape) if own is None else own.contiguous()
                dist.all_reduce(summed)
                self._sums[index] = summed / ranks

    def of(self, index: int, topology: Topology) -> Tensor:
        """Return the dense gradient of a tensor as the optimizer would get it.

        Args:
            index: of the tensor in the layout.
            topology: the active positions.

        Returns:
            Row-major, (D_i,).
        """
        if index not in self._sums:
            return self._values.new_zeros(topology.layout.sizes[index])
        if self._factor is None:
            self._factor = self._scale(topology)
        return self._sums[index].reshape(-1) * self._factor

    def close(self) -> None:
        """Drop all gradients, and stop collecting."""
        self._handle.remove()
        self._sums.clear()

    def _after_pass(self, _: Tensor) -> None:
        self._is_between_passes = True

    def _scale(self, topology: Topology) -> Tensor:
        """Return the factor by which the gradient of the values has been multiplied since the passes; on the device."""
        ours = torch.cat([self._active_entries(index, topology) for index in range(len(topology.layout))])
        one = ours.new_ones((), dtype=torch.float64)
        theirs = self._values.grad
        if theirs is None:
            return one
        lost = ~(theirs.isfinite() & ours.isfinite())
        whole, sums = (each.double().masked_fill(lost, 0.0) for each in (theirs, ours))
        products, squares = whole @ sums, sums @ sums
        unscaled = (theirs == ours).all() | (squares == 0) | (products == 0)
        # no branch, which would wait for the device
        return torch.where(unscaled, one, products / squares)

    def _active_entries(self, index: int, topology: Topology) -> Tensor:
        indices = active_indices(topology, index)
        return gather(self._sums[index], indices) if index in self._sums else self._values.new_zeros(len(indices))


def world_size() -> int:
    """Return the number of ranks in torch's process group, 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
