"""Gradients of inactive weights in compact storage, for strategies that ask for them: of all, or of candidates."""

from collections.abc import Callable
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parameter import Parameter
from torch.optim import Optimizer

from sparsecore.engine.topology import Topology
from sparsecore_torch._torch_internals.compilation import untraced
from sparsecore_torch._torch_internals.optimizers import is_within_own_step
from sparsecore_torch.arrays import gather_active
from sparsecore_torch.sparse_training.optimizers.step_hooks import Given, after_closure


class DenseGradients:
    """Sums the dense gradients of backward passes, from a cleared gradient of the values to the optimizer's step.

    Where candidates are given, of each dense gradient only the entries of active weights and of candidates are kept.

    A tensor hook is not enough: dense gradients pass through backward once, and what happens to the gradient of the
    values afterwards (a sum over micro-batches, unscaling, clipping by norm) has to happen to them as well.

    Args:
        values: the Parameter whose gradient is followed.
        kept: the gradient of the values when the optimizer was about to step.
        topology: the active positions.
        candidates: the inactive positions whose gradients are asked for; None for all.
    """

    def __init__(
        self, values: Parameter, kept: "KeptGradient", topology: Topology, candidates: Topology | None = None
    ) -> None:
        self._values = values
        self._kept_gradient = kept
        self._topology = topology
        self._candidates = candidates
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
        gradient = self._kept(index, gradient.detach()).to(self._values.dtype)
        self._sums[index] = self._sums[index] + gradient if index in self._sums else gradient

    def reduce(self) -> None:
        """Average over ranks, as the gradient of the values is averaged. Collective; a rank without one adds zeros."""
        ranks = world_size()
        if ranks > 1:
            for index in range(len(self._topology.layout)):
                own = self._sums.get(index)
                summed = self._values.new_zeros(self._shape(index)) if own is None else own.contiguous()
                dist.all_reduce(summed)
                self._sums[index] = summed / ranks

    def of(self, index: int) -> Tensor:
        """Return the dense gradient of a tensor as the optimizer would get it.

        Args:
            index: of the tensor in the layout.

        Returns:
            Row-major, (D_i,).

        Raises:
            RuntimeError: only the gradients of candidates are kept.
        """
        if self._candidates is not None:
            raise RuntimeError("only the gradients of candidates have been collected")
        return self._scaled(index).reshape(-1)

    def of_candidates(self) -> Tensor:
        """Return the gradients of the candidates as the optimizer would get them, one entry for each.

        Raises:
            RuntimeError: the gradients of all positions are kept.
        """
        if self._candidates is None:
            raise RuntimeError("no candidates have been named")
        counts = self._topology.counts.tolist()
        return torch.cat([self._scaled(index)[count:] for index, count in enumerate(counts)])

    def _scaled(self, index: int) -> Tensor:
        if index not in self._sums:
            return self._values.new_zeros(self._shape(index))
        if self._factor is None:
            self._factor = self._scale()
        if self._factor.device.type == "cpu" and self._factor == 1:  # no device is waited for
            return self._sums[index]
        return self._sums[index] * self._factor

    def _kept(self, index: int, gradient: Tensor) -> Tensor:
        """Return what is kept of a dense gradient: all of it, or the entries of active weights and of candidates."""
        if self._candidates is None:
            return gradient
        return torch.cat([gather_active(gradient, each, index) for each in (self._topology, self._candidates)])

    def _shape(self, index: int) -> tuple[int, ...]:
        if self._candidates is None:
            return self._topology.layout.shapes[index]
        return (int(self._topology.counts[index] + self._candidates.counts[index]),)

    def close(self) -> None:
        """Drop all gradients, and stop collecting."""
        self._handle.remove()
        self._sums.clear()

    def _after_pass(self, _: Tensor) -> None:
        self._is_between_passes = True

    def _scale(self) -> Tensor:
        """Return the factor by which the gradient of the values has been multiplied since the passes; on the device."""
        ours = torch.cat([self._active_entries(index) for index in range(len(self._topology.layout))])
        one = ours.new_ones((), dtype=torch.float64)
        theirs = self._kept_gradient.copy
        if theirs is None or (ours.device.type == "cpu" and torch.equal(theirs, ours)):
            return one
        lost = ~(theirs.isfinite() & ours.isfinite())
        whole, sums = (each.double().masked_fill(lost, 0.0) for each in (theirs, ours))
        products, squares = whole @ sums, sums @ sums
        unscaled = (theirs == ours).all() | (squares == 0) | (products == 0)
        # no branch, which would wait for the device
        return torch.where(unscaled, one, products / squares)

    def _active_entries(self, index: int) -> Tensor:
        count = int(self._topology.counts[index])
        if index not in self._sums:
            return self._values.new_zeros(count)
        if self._candidates is not None:
            return self._sums[index][:count]
        return gather_active(self._sums[index], self._topology, index)


@final
class KeptGradient:
    """Copies the gradient of the values when the optimizer is about to step, in steps in which that is expected.

    By then it is complete, unscaled and clipped; what strategies and the optimizer do to it afterwards is not in the
    copy.

    Attributes:
        is_expected: whether the next step's gradient is copied.
        copy: that of the last such step, (N,); None where none had arrived.

    Args:
        optimizer: takes the steps.
        values: returns the Parameter.
    """

    def __init__(self, optimizer: Optimizer, values: Callable[[], Tensor]) -> None:
        self.is_expected = False
        self.copy: Tensor | None = None
        self._values = values
        self._handle = optimizer.register_step_pre_hook(untraced(self._before_step))

    def close(self) -> None:
        """Remove the hook."""
        self._handle.remove()

    def _before_step(self, optimizer: Optimizer, given: tuple[Any, ...], named: dict[str, Any]) -> Given | None:
        if not self.is_expected or is_within_own_step(optimizer):
            return None
        return after_closure(given, named, lambda: self._keep(optimizer))

    @torch.no_grad()
    def _keep(self, optimizer: Optimizer) -> None:
        gradient, scale = self._values().grad, getattr(optimizer, "grad_scale", None)
        if gradient is None:
            self.copy = None
        else:  # a GradScaler leaves it to fused optimizers to unscale
            self.copy = gradient.detach().clone() if scale is None else gradient.detach() / scale


def world_size() -> int:
    """Return the number of ranks in torch's process group, 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
