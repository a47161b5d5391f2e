"""Process groups, and the compiled module that a process has loaded."""

from collections.abc import Callable
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import all_reduce
from torch.distributed.distributed_c10d import Store, _get_default_store

EXTENSION_FILE: Final[str] = torch._C.__file__
"""The file of torch's compiled module, whose libraries have the threads that compute in torch."""


def default_store() -> Store:
    """Return the store of the default process group."""
    store: Store = _get_default_store()
    return store


class _SumOverRanks(torch.autograd.Function):
    """The sum over ranks, whose gradient is the sum of the ranks' gradients.

    The functional all-reduce has a gradient of its own only in newer versions of torch; in older ones, it silently has
    none.
    """

    @staticmethod
    def forward(ctx: Any, vector: Tensor) -> Tensor:  # noqa: ARG004
        return _sum_over_ranks(vector.detach())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return _sum_over_ranks(gradient.contiguous())


def _sum_over_ranks(vector: Tensor) -> Tensor:
    group: Any = dist.group.WORLD
    summed: Tensor = all_reduce(vector, "sum", group)
    return summed


differentiable_sum: Final[Callable[[Tensor], Tensor]] = _SumOverRanks.apply
"""Sums a tensor over the ranks of the default process group; differentiable, also in what is compiled. Collective."""
