"""Masks the gradients of parameters that FSDP2 has sharded."""

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsecore.engine.topology import Topology
from sparsecore_torch._torch_internals.compilation import untraced
from sparsecore_torch._torch_internals.optimizers import is_within_own_step
from sparsecore_torch.sparse_training.model.parameters import NamedParameter
from sparsecore_torch.sparse_training.optimizers.step_hooks import Given, after_closure
from sparsecore_torch.sparse_training.storage.gradient_masks import BitMask
from sparsecore_torch.sparse_training.storage.gradient_picks import GradientPicks
from sparsecore_torch.tensors import full_tensor, local_shard


@final
class ShardedGradientMasker:
    """Masks this rank's shards of gradients once they are reduced over ranks: no earlier hook sees them.

    In a step whose gradients a strategy asks for, each rank copies its shards when the optimizer is about to step: what
    the optimizer does to them is not in the copies. It sees dense gradients whole; what it does to inactive weights is
    undone after the step.

    Attributes:
        handles: of all hooks, for their removal.

    Args:
        optimizer: takes the step.
        tensors: the sparse tensors by name. Their parameters are looked up when they are needed, since ``fully_shard``
            has other objects in their place while the model computes.
        masks: those of this rank's shards.
    """

    def __init__(
        self, optimizer: Optimizer, tensors: Mapping[str, NamedParameter], masks: Mapping[str, BitMask]
    ) -> None:
        self._tensors = tensors
        self._masks = masks
        self._dense = False
        self._picks = GradientPicks()
        self._kept: dict[str, Tensor | None] = {}
        self.handles: list[RemovableHandle] = [optimizer.register_step_pre_hook(untraced(self._before_step))]
        for name, one in tensors.items():
            register: Any = one.parameter.register_post_accumulate_grad_hook
            self.handles.append(register(self._accumulation_hook(name)))

    @property
    def is_kept_in_place(self) -> bool:
        """Whether the Parameters themselves have dense gradients after the step: no, as these are masked then."""
        return False

    def expect(
        self,
        *,
        dense: bool,
        in_place: bool = False,  # noqa: ARG002
        active: Topology | None = None,
        candidates: Topology | None = None,
    ) -> None:
        """Keep the gradients of the next step dense, or mask them."""
        self._dense = dense or candidates is not None
        self._picks = GradientPicks(active, candidates)
        self._kept = {}

    def clean(self, name: str, pruned: Tensor) -> None:  # noqa: ARG002
        """Set this rank's shard of a gradient to zero where its weights are inactive since an update."""
        gradient = self._tensors[name].parameter.grad
        if gradient is not None:
            self._masks[name].fill(local_shard(gradient))

    def active_gradient(self) -> Tensor:
        """Return the gradients at the active positions, gathered from all ranks tensor by tensor. Collective."""
        return self._gathered(self._picks.active)

    def candidate_gradient(self) -> Tensor:
        """Return the gradients at the candidates, gathered from all ranks tensor by tensor. Collective."""
        return self._gathered(self._picks.candidates)

    def _gathered(self, positions: Topology | None) -> Tensor:
        for name in self._tensors:
            gradient = self._of_step(name)
            self._picks.take(positions, name, None if gradient is None else full_tensor(gradient).detach())
        return self._picks.joined(positions, {name: one.parameter for name, one in self._tensors.items()})

    def gradient(self, name: str) -> Tensor:
        """Return the dense gradient of a tensor, gathered from all ranks; zeros where none has arrived. Collective."""
        parameter, gradient = self._tensors[name].parameter, self._of_step(name)
        if gradient is None:
            return torch.zeros(parameter.numel(), device=parameter.device)
        return full_tensor(gradient).reshape(-1)

    def _of_step(self, name: str) -> Tensor | None:
        """Return this rank's shard of a gradient as it was when the optimizer was about to step."""
        return self._kept[name] if name in self._kept else self._tensors[name].parameter.grad

    def _before_step(self, optimizer: Optimizer, given: tuple[Any, ...], named: dict[str, Any]) -> Given | None:
        # a step may change gradients before it calls that of its base class
        if not (self._dense or self._picks.are_expected) or is_within_own_step(optimizer):
            return None
        return after_closure(given, named, lambda: self._keep(optimizer))

    @torch.no_grad()
    def _keep(self, optimizer: Optimizer) -> None:
        scale = getattr(optimizer, "grad_scale", None)  # a GradScaler leaves it to fused optimizers to unscale
        for name, one in self._tensors.items():
            gradient = one.parameter.grad
            own = None if gradient is None else gradient.detach()
            self._kept[name] = own if own is None else own.clone() if scale is None else own / scale

    def _accumulation_hook(self, name: str) -> Callable[[Tensor], None]:
        mask = self._masks[name]

        def accumulated(parameter: Tensor) -> None:
            if parameter.grad is not None and not self._dense:
                mask.fill(local_shard(parameter.grad))

        return accumulated
