"""Avoids torch's slow square roots of zero in optimizers, as for the second moments of inactive weights.

MKL's square root takes six times as long for zeros as for other numbers, which is more than everything else that AdamW
does in a step. So the second moments of inactive weights are one during the optimizer's step, and zero again right
after it. The result is the same to the last bit: each entry is computed by itself, and zero divided by a root is zero.
"""

import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, final
from weakref import ref

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsecore_torch._torch_internals.compilation import untraced
from sparsecore_torch._torch_internals.optimizers import move_to_front
from sparsecore_torch.sparse_training.storage.gradient_masks import BitMask

_MOMENTS: Final[Mapping[type[Optimizer], tuple[str, ...]]] = MappingProxyType(
    {
        torch.optim.Adam: ("exp_avg_sq", "max_exp_avg_sq"),
        torch.optim.AdamW: ("exp_avg_sq", "max_exp_avg_sq"),
        torch.optim.NAdam: ("exp_avg_sq",),
        torch.optim.RAdam: ("exp_avg_sq",),
        torch.optim.RMSprop: ("square_avg",),
        torch.optim.Adagrad: ("sum",),
    }
)
"""The state by whose root these optimizers divide; classes derived from them may do something else."""

_ONE: Final = {
    dtype: int(torch.ones((), dtype=dtype).view(bits))
    for dtype, bits in ((torch.float32, torch.int32), (torch.float64, torch.int64))
}
"""The bits of 1.0."""

_OTHER_KERNELS: Final = ("fused", "capturable", "differentiable")
"""Options of optimizers that take the root in another way, or as a part of a graph."""


@final
class NonzeroRoots:
    """Sets the second moments of inactive weights to one during each step.

    After a step that raises they stay so until the next one, until the optimizer's ``state_dict`` is called, or until
    :meth:`restore`.

    Attributes:
        handles: of all hooks, for their removal.

    Args:
        optimizer: takes the step.
        keys: the state by whose root it divides.
        parameters: the sparse tensors by name.
        masks: their masks.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        keys: tuple[str, ...],
        parameters: Mapping[str, Tensor],
        masks: Mapping[str, BitMask],
    ) -> None:
        self._optimizer = ref(optimizer)  # its hooks keep this alive
        self._keys = keys
        self._parameters = parameters
        self._masks = masks
        self._lifted: list[tuple[BitMask, Tensor]] = []
        after = optimizer.register_step_post_hook(untraced(lambda *_: self.restore()))
        move_to_front(optimizer, after)  # other hooks are to see the state restored
        self.handles: list[RemovableHandle] = [after]
        self.handles.append(optimizer.register_state_dict_pre_hook(lambda _: self.restore()))

    @torch.no_grad()
    def lift(self, names: Iterable[str]) -> None:
        """Set the second moments of inactive weights to one.

        Args:
            names: the tensors to do so for; their inactive weights, gradients and second moments must be zero.
        """
        optimizer = self._optimizer()
        if optimizer is None or _uses_other_kernels(optimizer):
            return
        for name in names:
            state, mask = optimizer.state.get(self._parameters[name], {}), self._masks[name]
            for key in self._keys:
                moments = state.get(key)
                if moments is not None and moments.dtype in _ONE and _takes_longer_of_zeros(moments.dtype):
                    self._lifted.append((mask, moments))  # first, so that an interruption leaves nothing behind
                    mask.set_inactive_bits(moments, _ONE[moments.dtype])

    @torch.no_grad()
    def restore(self) -> None:
        """Set the second moments of inactive weights to zero again."""
        for mask, moments in self._lifted:
            mask.fill(moments)
        self._lifted = []


def roots_of(
    optimizer: Optimizer, parameters: Mapping[str, Tensor], masks: Mapping[str, BitMask]
) -> NonzeroRoots | None:
    """Return what keeps an optimizer's square roots fast; None for optimizers that are not known to take any.

    Args:
        optimizer: takes the step.
        parameters: the sparse tensors by name.
        masks: their masks.
    """
    keys = _MOMENTS.get(type(optimizer))
    return None if keys is None else NonzeroRoots(optimizer, keys, parameters, masks)


def _uses_other_kernels(optimizer: Optimizer) -> bool:
    return any(group.get(option) for group in optimizer.param_groups for option in _OTHER_KERNELS)


@lru_cache
def _takes_longer_of_zeros(dtype: torch.dtype) -> bool:
    """Return whether torch's square root takes longer for zeros on this CPU, in which case moments are lifted."""
    zeros, ones = torch.zeros(16_384, dtype=dtype), torch.ones(16_384, dtype=dtype)
    return min(_seconds(zeros) for _ in range(5)) > 2 * min(_seconds(ones) for _ in range(5))


def _seconds(tensor: Tensor) -> float:
    start = time.perf_counter()
    tensor.sqrt()
    return time.perf_counter() - start
