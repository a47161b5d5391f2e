"""Gradients of dense parameters on their way to the optimizer: only for active weights, or whole where asked."""

from collections.abc import Callable, Mapping
from typing import Any, Final, final
from weakref import ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsecore.errors import InputError
from sparsecore_torch._torch_internals import accumulates, are_transforms_active, is_batched
from sparsecore_torch.sparse_training.optimizers.step_hooks import Given, after_closure
from sparsecore_torch.tensors import is_non_overlapping_and_dense

_INTEGERS: Final = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@final
class BitMask:
    """The mask of one tensor, which lets through what is active.

    For each size of entries that it is used on there is one integer tensor, in the memory format of the parameter. It
    is changed in place and never replaced, so that what was compiled with it stays valid.

    Args:
        mask: -1 where a weight is, 0 elsewhere; int8, of the tensor's shape.
        like: the parameter.
    """

    def __init__(self, mask: Tensor, like: Tensor) -> None:
        self._by_size = {like.element_size(): torch.empty_like(like, dtype=_INTEGERS[like.element_size()]).copy_(mask)}

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that is kept."""
        return tuple(self._by_size.values())

    @property
    def active(self) -> Tensor:
        """True where a weight is; a new tensor."""
        return self._any != 0

    def change(self, mask: Tensor) -> None:
        """Become another mask."""
        for bits in self._by_size.values():
            bits.copy_(mask)

    def fill(self, tensor: Tensor) -> None:
        """Make the inactive entries zero, in place and unseen by autograd."""
        bits = self._bits_for(tensor)
        plain = tensor.detach() if tensor.requires_grad else tensor
        plain.view(bits.dtype).bitwise_and_(bits)

    def lift(self, tensor: Tensor, bits: int) -> None:
        """Give inactive entries, all of which are zero, these bits, in place."""
        mask = self._bits_for(tensor)
        # -1 times the bits goes from active entries and comes back; a second mask would take memory
        tensor.detach().view(mask.dtype).add_(mask, alpha=bits).add_(bits)

    def filled(self, tensor: Tensor) -> Tensor:
        """The tensor with zeros for the inactive entries; a new one."""
        bits = self._bits_for(tensor)
        if tensor.requires_grad or are_transforms_active():  # of a backward pass that is differentiated itself
            return torch.where(bits != 0, tensor, 0.0)
        try:
            return tensor.view(bits.dtype).bitwise_and(bits).view(tensor.dtype)
        except RuntimeError:
            if not is_batched(tensor):
                raise
            return torch.where(bits != 0, tensor, 0.0)

    def inactive_run(self) -> slice | None:
        """The longest run of inactive entries in memory, as a slice of the flat memory; None where there is none."""
        bits = self._any
        if not is_non_overlapping_and_dense(bits):
            return None
        flat = bits.as_strided((bits.numel(),), (1,))
        ends = torch.tensor([bits.numel()], device=bits.device)
        edges = torch.cat([ends.new_tensor([-1]), flat.nonzero().reshape(-1), ends])
        gaps = edges.diff() - 1
        length, at = (int(one) for one in gaps.max(0))
        first = int(edges[at]) + 1
        return slice(first, first + length) if length else None

    @property
    def _any(self) -> Tensor:
        return next(iter(self._by_size.values()))

    def _bits_for(self, tensor: Tensor) -> Tensor:
        size = tensor.element_size()
        if size not in self._by_size:
            self._by_size[size] = self._any.to(_INTEGERS[size])
        bits = self._by_size[size]
        if bits.device != tensor.device:
            raise InputError(
                f"a tensor of {bits.device} has moved to {tensor.device} since sparsify was called; move the model to "
                "its device first"
            )
        return bits


@final
class GradientMasker:
    """Takes away the gradients of inactive positions.

    They go as they are accumulated, in place. What has changed gradients since, or put others there, is noticed before
    the optimizer steps, by the versions that torch counts, and they are masked once more. In a step whose dense
    gradient is asked for they stay until the optimizer is about to step: only then are gradients whole, unscaled, and
    reduced over ranks. They are put aside, and the optimizer again sees only what belongs to active weights.

    Attributes:
        handles: of all hooks, for their removal.

    Args:
        optimizer: what takes the step.
        parameters: the sparse tensors by name.
        masks: their masks.
        before_step: called when the gradients of a step are as the optimizer is to see them.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        parameters: Mapping[str, nn.Parameter],
        masks: Mapping[str, BitMask],
        before_step: Callable[[], None],
    ) -> None:
        self._parameters = parameters
        self._masks = masks
        self._follow = before_step
        self._dense = False
        self._aside: dict[str, Tensor] = {}
        self._masked: dict[str, tuple[Any, int]] = {}
        self.handles: list[RemovableHandle] = []
        for name, parameter in parameters.items():
            register: Any = parameter.register_post_accumulate_grad_hook
            self.handles.append(parameter.register_hook(self._arriving(name)))  # type: ignore[no-untyped-call]
            self.handles.append(register(self._accumulated(name)))
        before = torch.compiler.disable(self._before_step)  # type: ignore[no-untyped-call]
        self.handles.append(optimizer.register_step_pre_hook(before))

    def expect(self, *, dense: bool) -> None:
        """Whether the gradients of the next step are to be whole; those of the last one are forgotten."""
        self._dense = dense
        self._aside = {}

    def gradient(self, name: str) -> Tensor:
        """The gradient that was put aside, flat; zeros where none had come."""
        if name in self._aside:
            return self._aside[name].reshape(-1)
        return torch.zeros_like(self._parameters[name]).detach().reshape(-1)

    def _arriving(self, name: str) -> Callable[[Tensor], Tensor | None]:
        """For each gradient on its way to a parameter."""
        mask = self._masks[name]
        with torch.enable_grad():
            node: Any = torch.autograd.graph.get_gradient_edge(self._parameters[name]).node

        def arrive(gradient: Tensor) -> Tensor | None:
            check_layout(name, gradient)
            if self._dense:
                return _finite_at_least(gradient, mask)
            if accumulates(node) and not gradient.requires_grad:
                return None  # it is masked where it is accumulated, which takes no memory
            return mask.filled(gradient)

        return arrive

    def _accumulated(self, name: str) -> Callable[[Tensor], None]:
        """For each gradient that a parameter has received."""
        mask = self._masks[name]

        def settle(parameter: Tensor) -> None:
            gradient = parameter.grad
            if gradient is not None and not self._dense:
                if not gradient.requires_grad:  # else it has been masked on its way
                    mask.fill(gradient)
                self._note(name, gradient)

        return settle

    def _before_step(self, optimizer: Optimizer, given: tuple[Any, ...], named: dict[str, Any]) -> Given | None:
        return after_closure(given, named, lambda: self._prepare(optimizer))

    @torch.no_grad()
    def _prepare(self, optimizer: Optimizer) -> None:
        if self._dense:
            self._put_aside(optimizer)
        for name, parameter in self._parameters.items():
            gradient = parameter.grad
            if gradient is not None and not self._is_masked(name, gradient):
                check_layout(name, gradient)
                if gradient.requires_grad or gradient.is_inference() or not is_non_overlapping_and_dense(gradient):
                    parameter.grad = gradient = self._masks[name].filled(gradient)
                else:
                    self._masks[name].fill(gradient)
                self._note(name, gradient)
        self._follow()

    def _put_aside(self, optimizer: Optimizer) -> None:
        scale = getattr(optimizer, "grad_scale", None)  # a GradScaler leaves it to fused optimizers to unscale
        for name, parameter in self._parameters.items():
            gradient = parameter.grad
            if gradient is None:
                self._aside.pop(name, None)
            # a step that has raised left behind what is masked, and the whole gradient is put aside already
            elif name not in self._aside or not self._is_masked(name, gradient):
                self._aside[name] = gradient.detach().clone() if scale is None else gradient.detach() / scale
                self._masked.pop(name, None)

    def _note(self, name: str, gradient: Tensor) -> None:
        self._masked[name] = (ref(gradient), gradient._version)

    def _is_masked(self, name: str, gradient: Tensor) -> bool:
        reference, version = self._masked.get(name, (None, 0))
        return reference is not None and reference() is gradient and gradient._version == version


def check_layout(name: str, gradient: Tensor) -> None:
    """Raise an :class:`InputError` if a gradient is sparse itself."""
    if gradient.layout is not torch.strided:
        raise InputError(f"the gradient of {name} is sparse ({gradient.layout}); make its layer with sparse=False")


def _finite_at_least(gradient: Tensor, mask: BitMask) -> Tensor:
    """The whole gradient, but zero where it is inactive and not finite: no clipping or scaling is to see that."""
    return torch.where(mask.active, gradient, gradient.nan_to_num(0.0, 0.0, 0.0))
