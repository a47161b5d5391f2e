"""Masks the gradients of dense parameters on their way to the optimizer, or keeps them dense where a strategy asks."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol, final
from weakref import ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore_torch._torch_internals.autograd import are_transforms_active, is_accumulating, is_batched, tensor_hooks
from sparsecore_torch._torch_internals.compilation import untraced
from sparsecore_torch._torch_internals.optimizers import is_within_own_step
from sparsecore_torch._torch_internals.tensors import write_count
from sparsecore_torch.arrays import TorchArrays, put_entries
from sparsecore_torch.sparse_training.optimizers.step_hooks import Given, after_closure
from sparsecore_torch.sparse_training.storage import sparse_weights
from sparsecore_torch.sparse_training.storage.gradient_picks import GradientPicks
from sparsecore_torch.tensors import have_equal_order, is_non_overlapping_and_dense

_INTEGERS: Final = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


_PACKAGE: Final = f"{__name__.partition('.')[0]}."

_BEGINNING: Final = 1 << 12
"""The number of entries in which a run of inactive ones is looked for first."""

_CHUNK: Final = 1 << 18
"""The number of entries that are masked at a time on the CPU: torch converts the masks of all of them at once."""


@final
class BitMask:
    """The mask of one tensor, applied by a bitwise "and": one byte an entry, in the memory format of the parameter.

    It is changed in place and never replaced, so that what was compiled with it stays valid.

    Args:
        mask: -1 for active weights, 0 elsewhere; int8, of the tensor's shape.
        like: the parameter.
    """

    def __init__(self, mask: Tensor, like: Tensor) -> None:
        self._bits = torch.empty_like(like, dtype=torch.int8).copy_(mask)
        self._is_full: bool | None = None

    @property
    def bits(self) -> Tensor:
        """-1 for active weights, 0 elsewhere; int8, the tensor that is kept."""
        return self._bits

    @property
    def active(self) -> Tensor:
        """True for active weights; a new tensor."""
        return self._bits != 0

    @property
    def is_full(self) -> bool:
        """Whether all weights are known to be active, so that there is nothing to mask.

        False also on other devices than the CPU, which would be waited for, and in graphs, which serve later masks too.
        """
        if self._bits.device.type != "cpu" or torch.compiler.is_compiling():
            return False
        if self._is_full is None:
            bits = self._bits
            if is_non_overlapping_and_dense(bits):  # of a mask that is not full a few entries are enough
                bits = bits.as_strided((min(bits.numel(), _BEGINNING),), (1,))
            self._is_full = bool(bits.all()) and bool(self._bits.all())
        return self._is_full

    def change(self, mask: Tensor) -> None:
        """Take over another mask, in the form that the constructor takes."""
        self._bits.copy_(mask)
        self._is_full = None

    def move(self, pruned: Tensor, grown: Tensor) -> None:
        """Take over the mask after an update.

        Args:
            pruned: row-major indices of the weights that were pruned, int64.
            grown: those of the weights that have grown, which may be some of the same.
        """
        put_entries(self._bits, pruned, 0)
        put_entries(self._bits, grown, -1)
        self._is_full = None

    def fill(self, tensor: Tensor) -> None:
        """Set the inactive entries of a tensor to zero, in place and unseen by autograd."""
        self._check_device(tensor)
        if self.is_full:
            return
        for entries, bits in self._chunks(tensor):
            entries.bitwise_and_(bits)

    def set_inactive_bits(self, tensor: Tensor, bits: int) -> None:
        """Set the inactive entries of a tensor to one value, in place.

        Args:
            tensor: whose inactive entries are zero.
            bits: of the value, as an integer.
        """
        self._check_device(tensor)
        if self.is_full:
            return
        # active entries lose the bits to -1 times them, and get them back; a second mask would take memory
        for entries, mask in self._chunks(tensor):
            entries.add_(mask, alpha=bits).add_(bits)

    def filled(self, tensor: Tensor) -> Tensor:
        """Return a copy of a tensor in which the inactive entries are zero; differentiable where that is needed."""
        self._check_device(tensor)
        if tensor.requires_grad or are_transforms_active():  # of a backward pass that is differentiated itself
            return torch.where(self._bits != 0, tensor, 0.0)
        try:
            return tensor.view(_INTEGERS[tensor.element_size()]).bitwise_and(self._bits).view(tensor.dtype)
        except RuntimeError:
            if not is_batched(tensor):
                raise
            return torch.where(self._bits != 0, tensor, 0.0)

    def inactive_run(self, length: int) -> slice | None:
        """Return a run of inactive entries, as a slice of the flat memory; None if there is none.

        Args:
            length: a run of as many entries at the beginning does, else the longest of the whole tensor is returned.
        """
        bits = self._bits
        if self.is_full or not is_non_overlapping_and_dense(bits):
            return None
        flat = bits.as_strided((bits.numel(),), (1,))
        for looked_at in (_BEGINNING, _CHUNK):
            run = _longest_run(flat[:looked_at])
            if len(flat) <= looked_at or (run is not None and run.stop - run.start >= length):
                return run
        return _longest_run(flat)

    def _chunks(self, tensor: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        """Return the entries of a tensor as integers of their size with their masks, in parts that a cache can hold."""
        plain, bits = tensor.detach() if tensor.requires_grad else tensor, self._bits
        entries = plain.view(_INTEGERS[plain.element_size()])
        if plain.numel() <= _CHUNK or plain.device.type != "cpu":
            return ((entries, bits),)
        if not (have_equal_order(plain, bits) and is_non_overlapping_and_dense(bits)):
            return ((entries, bits),)
        size = (plain.numel(),)
        flat = (one.as_strided(size, (1,), one.storage_offset()) for one in (entries, bits))
        return zip(*(torch.split(one, _CHUNK) for one in flat), strict=True)

    def _check_device(self, tensor: Tensor) -> None:
        if self._bits.device != tensor.device:
            raise InputError(
                f"a tensor of {self._bits.device} has moved to {tensor.device} since sparsify was called; move the "
                "model to its device first"
            )


def _longest_run(bits: Tensor) -> slice | None:
    """Return the longest run of zeros in a vector; None if there is none."""
    ends = torch.tensor([len(bits)], device=bits.device)
    edges = torch.cat([ends.new_tensor([-1]), TorchArrays(bits.device).nonzero(bits != 0), ends])
    gaps = edges.diff() - 1
    length, at = (int(one) for one in gaps.max(0))
    first = int(edges[at]) + 1
    return slice(first, first + length) if length else None


class Gradients(Protocol):
    """Masks the gradients of the sparse tensors.

    Attributes:
        handles: of all hooks, for their removal.
    """

    handles: list[RemovableHandle]

    @property
    def is_kept_in_place(self) -> bool:
        """Whether the Parameters themselves have dense gradients after the step."""
        ...

    def expect(
        self,
        *,
        dense: bool,
        in_place: bool = False,
        active: Topology | None = None,
        candidates: Topology | None = None,
    ) -> None:
        """Prepare for the gradients of the next step; those of the last step are forgotten.

        Args:
            dense: whether they are kept dense, or masked.
            in_place: whether no masked gradients are needed beside dense ones, which may thus stay where they are.
            active: the active positions, where the gradients at these are asked for.
            candidates: other positions at which the gradients are asked for.
        """
        ...

    def clean(self, name: str, pruned: Tensor) -> None:
        """Set the gradient of a tensor to zero where its weights are inactive since an update.

        Args:
            name: of the tensor.
            pruned: row-major indices of the weights that were pruned, int64.
        """
        ...

    def active_gradient(self) -> Tensor:
        """Return the gradients at the active positions that were expected, (N,), at least float32."""
        ...

    def candidate_gradient(self) -> Tensor:
        """Return the gradients at the candidates that were expected, one entry for each, at least float32."""
        ...

    def gradient(self, name: str) -> Tensor:
        """Return the dense gradient of a tensor in the last step.

        Args:
            name: of the tensor.

        Returns:
            (D_i,), row-major; zeros where none has arrived.
        """
        ...


@final
class GradientMasker:
    """Masks gradients as they are accumulated.

    This is done in place. What changes gradients afterwards, or puts others in their place, is noticed before the
    optimizer steps, by torch's count of writes, and they are masked once more. In a step whose dense gradients a
    strategy asks for they stay dense until the optimizer is about to step: only then are they complete, unscaled, and
    reduced over ranks. A copy is kept for the strategy, and the optimizer gets masked gradients as in every step; where
    an update takes the place of its step, they stay dense until after the update, and there is no copy.

    Attributes:
        handles: of all hooks, for their removal.

    Args:
        optimizer: takes the step.
        parameters: the sparse tensors by name.
        masks: their masks.
        before_step: called when the gradients of a step are ready for the optimizer.
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
        self._act_before_step = before_step
        self._dense = self._in_place = False
        self._picks = GradientPicks()
        self._dense_gradients: dict[str, Tensor] = {}
        self._masked: dict[str, tuple[Any, int]] = {}
        self.handles: list[RemovableHandle] = []
        for name, parameter in parameters.items():
            register: Any = parameter.register_post_accumulate_grad_hook
            self.handles.append(parameter.register_hook(self._arrival_hook(name)))  # type: ignore[no-untyped-call]
            self.handles.append(register(self._accumulation_hook(name)))
        before = untraced(self._before_step)
        self.handles.append(optimizer.register_step_pre_hook(before))

    @property
    def is_kept_in_place(self) -> bool:
        """Whether the Parameters themselves have dense gradients after the step."""
        return self._in_place

    def expect(
        self,
        *,
        dense: bool,
        in_place: bool = False,
        active: Topology | None = None,
        candidates: Topology | None = None,
    ) -> None:
        """Keep the gradients of the next step dense, or mask them; those of the last step are forgotten."""
        self._dense, self._in_place = dense, in_place
        self._picks = GradientPicks(active, candidates)
        self._dense_gradients = {}

    def clean(self, name: str, pruned: Tensor) -> None:
        """Set the gradient of a tensor to zero where its weights are inactive since an update."""
        gradient = self._parameters[name].grad
        if gradient is None:
            return
        if not self._is_masked(name, gradient):
            self._masks[name].fill(gradient)
            return
        put_entries(gradient, pruned, 0.0)
        self._note(name, gradient)

    def active_gradient(self) -> Tensor:
        """Return the gradients at the active positions, (N,), zeros where none has arrived."""
        return self._picks.joined(self._picks.active, self._parameters)

    def candidate_gradient(self) -> Tensor:
        """Return the gradients at the candidates, zeros where none has arrived."""
        return self._picks.joined(self._picks.candidates, self._parameters)

    def gradient(self, name: str) -> Tensor:
        """Return the dense gradient of a tensor in the last step, (D_i,), row-major; zeros where none has arrived."""
        if name in self._dense_gradients:
            return self._dense_gradients[name].reshape(-1)
        return torch.zeros_like(self._parameters[name]).detach().reshape(-1)

    def _arrival_hook(self, name: str) -> Callable[[Tensor | None], Tensor | None]:
        """Return a hook for each gradient on its way to a parameter."""
        mask = self._masks[name]
        with torch.enable_grad():
            node: Any = torch.autograd.graph.get_gradient_edge(self._parameters[name]).node

        def arrive(gradient: Tensor | None) -> Tensor | None:
            if gradient is None:  # of a function of autograd whose result does not depend on the tensor
                return None
            _check_strided(name, gradient)
            if mask.is_full:
                return None
            if self._stays_dense:
                return _finite_where_inactive(gradient, mask)
            if is_accumulating(node) and not gradient.requires_grad:
                return None  # it is masked when it has been accumulated, which takes no memory
            return mask.filled(gradient)

        return arrive

    def _accumulation_hook(self, name: str) -> Callable[[Tensor], None]:
        """Return a hook for each gradient that a parameter has accumulated."""
        mask = self._masks[name]

        def accumulated(parameter: Tensor) -> None:
            gradient = parameter.grad
            if gradient is not None and not self._stays_dense:
                # one that is differentiated itself has been masked on its way, and one of the kernels is zero elsewhere
                if not gradient.requires_grad and not _is_of_kernels(parameter, gradient):
                    mask.fill(gradient)
                self._note(name, gradient)

        return accumulated

    def _before_step(self, optimizer: Optimizer, given: tuple[Any, ...], named: dict[str, Any]) -> Given | None:
        # a step may change gradients before it calls that of its base class
        is_kept = (self._dense or self._picks.are_expected) and not is_within_own_step(optimizer)
        return after_closure(given, named, lambda: self._prepare(optimizer, is_kept=is_kept))

    @torch.no_grad()
    def _prepare(self, optimizer: Optimizer, *, is_kept: bool) -> None:
        if is_kept:
            self._pick(optimizer)
            if self._dense:
                self._keep_dense(optimizer)
        for name, parameter in self._parameters.items():
            gradient = None if self._in_place else parameter.grad
            if gradient is not None and not self._is_masked(name, gradient):
                _check_strided(name, gradient)
                if gradient.requires_grad or gradient.is_inference() or not is_non_overlapping_and_dense(gradient):
                    parameter.grad = gradient = self._masks[name].filled(gradient)
                else:
                    self._masks[name].fill(gradient)
                self._note(name, gradient)
        self._act_before_step()

    @property
    def _stays_dense(self) -> bool:
        """Whether gradients stay dense until the optimizer is about to step."""
        return self._dense or self._picks.candidates is not None

    def _pick(self, optimizer: Optimizer) -> None:
        picks, scale = self._picks, getattr(optimizer, "grad_scale", None)
        for name, parameter in self._parameters.items() if picks.are_expected else ():
            gradient = parameter.grad
            plain = None if gradient is None else gradient.detach()
            picks.take(picks.active, name, plain, scale)
            # after a step that has raised, the gradient is masked already, and what was taken at candidates is kept
            if gradient is None or not (picks.has_candidates(name) and self._is_masked(name, gradient)):
                picks.take(picks.candidates, name, plain, scale)
                if picks.candidates is not None and not self._dense:
                    self._masked.pop(name, None)

    def _keep_dense(self, optimizer: Optimizer) -> None:
        scale = getattr(optimizer, "grad_scale", None)  # a GradScaler leaves it to fused optimizers to unscale
        for name, parameter in self._parameters.items():
            gradient = parameter.grad
            if gradient is None:
                self._dense_gradients.pop(name, None)
            # after a step that has raised, the gradient is masked already, and its dense copy is kept
            elif name not in self._dense_gradients or not self._is_masked(name, gradient):
                own = gradient.detach()
                kept = own if self._in_place or scale is not None else own.clone()
                self._dense_gradients[name] = kept if scale is None else kept / scale
                self._masked.pop(name, None)

    def _note(self, name: str, gradient: Tensor) -> None:
        self._masked[name] = (ref(gradient), write_count(gradient))

    def _is_masked(self, name: str, gradient: Tensor) -> bool:
        reference, count = self._masked.get(name, (None, 0))
        return reference is not None and reference() is gradient and write_count(gradient) == count


def _check_strided(name: str, gradient: Tensor) -> None:
    if gradient.layout is not torch.strided:
        raise InputError(f"the gradient of {name} is sparse ({gradient.layout}); make its layer with sparse=False")


def _is_of_kernels(parameter: Tensor, gradient: Tensor) -> bool:
    """Return whether a gradient that has just been accumulated is as the kernels have made it of the active weights."""
    weight = sparse_weights.find(parameter)
    if weight is None or not weight.has_made(gradient):
        return False
    # a hook of the user's may have written to it in a way that torch does not count
    hooks = tensor_hooks(parameter)["_backward_hooks"] or {}
    return all(str(getattr(hook, "__module__", "")).startswith(_PACKAGE) for hook in hooks.values())


def _finite_where_inactive(gradient: Tensor, mask: BitMask) -> Tensor:
    """The dense gradient with zeros for inactive entries that are not finite, for clipping and loss scaling's sake."""
    return torch.where(mask.active, gradient, gradient.nan_to_num(0.0, 0.0, 0.0))
