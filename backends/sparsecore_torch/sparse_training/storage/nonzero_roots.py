"""Keeps torch's square root fast where an optimizer takes it of zeros, as it does of inactive second moments.

MKL's square root takes six times as long of zeros as of other numbers, which is more than all else that AdamW does in
a step. So second moments of inactive weights are one while the optimizer steps, and zero again as soon as it has. The
step comes to the same, to the last bit: zero divided by a root is zero, and each entry is computed by itself.
"""

import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, final
from weakref import ref

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsecore_torch._torch_internals import move_to_front
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
"""The state that these optimizers, and none derived from them, divide by the root of."""

_ONE: Final = {
    dtype: int(torch.ones((), dtype=dtype).view(bits))
    for dtype, bits in ((torch.float32, torch.int32), (torch.float64, torch.int64))
}
"""The bits of 1.0."""

_OTHERWISE: Final = ("fused", "capturable", "differentiable")
"""Options with which the root is another one, or part of a graph."""


@final
class NonzeroRoots:
    """Makes inactive second moments one for the time of a step.

    A step that raises leaves them so until the next one, until the optimizer's ``state_dict`` is asked for, or until
    :meth:`restore`.

    Attributes:
        handles: of all hooks, for their removal.

    Args:
        optimizer: what takes the step.
        parameters: the sparse tensors by name.
        masks: their masks.
    """

    def __init__(self, optimizer: Optimizer, parameters: Mapping[str, Tensor], masks: Mapping[str, BitMask]) -> None:
        self._optimizer = ref(optimizer)  # its hooks hold on to this
        self._keys = _MOMENTS.get(type(optimizer), ())
        self._parameters = parameters
        self._masks = masks
        self._lifted: list[tuple[BitMask, Tensor]] = []
        self.handles: list[RemovableHandle] = []
        if self._keys:
            disable: Any = torch.compiler.disable
            after = optimizer.register_step_post_hook(disable(lambda *_: self.restore()))
            move_to_front(optimizer, after)  # other hooks see the state as it is to be
            self.handles = [after, optimizer.register_state_dict_pre_hook(lambda _: self.restore())]

    @torch.no_grad()
    def lift(self, names: Iterable[str]) -> None:
        """Make the inactive second moments of these tensors one; they, their weights and gradients are zero."""
        optimizer = self._optimizer()
        if optimizer is None or not self._keys or _is_otherwise(optimizer):
            return
        for name in names:
            state, mask = optimizer.state.get(self._parameters[name], {}), self._masks[name]
            for key in self._keys:
                moments = state.get(key)
                if moments is not None and moments.dtype in _ONE and _takes_longer_of_zeros(moments.dtype):
                    self._lifted.append((mask, moments))  # first, so that an interruption leaves nothing behind
                    mask.lift(moments, _ONE[moments.dtype])

    @torch.no_grad()
    def restore(self) -> None:
        """Make them zero again."""
        for mask, moments in self._lifted:
            mask.fill(moments)
        self._lifted = []


def _is_otherwise(optimizer: Optimizer) -> bool:
    return any(group.get(option) for group in optimizer.param_groups for option in _OTHERWISE)


@lru_cache
def _takes_longer_of_zeros(dtype: torch.dtype) -> bool:
    """Whether torch's square root does, on the CPU of this machine; what it returns is the same either way."""
    zeros, ones = torch.zeros(16_384, dtype=dtype), torch.ones(16_384, dtype=dtype)
    return min(_seconds(zeros) for _ in range(5)) > 2 * min(_seconds(ones) for _ in range(5))


def _seconds(tensor: Tensor) -> float:
    start = time.perf_counter()
    tensor.sqrt()
    return time.perf_counter() - start
