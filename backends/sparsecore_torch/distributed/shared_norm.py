"""Batch norm by the moments of a batch that lies on several ranks."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import all_reduce

from sparsecore.errors import InputError
from sparsecore_torch.learning.operations import EPSILON, MOVE, ONE_VALUE


def by_shared_batch(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """See :class:`sparsecore_torch.learning.operations.Normalization`; differentiable, for parts of any size.

    They may be empty.

    ``torch.nn.SyncBatchNorm`` does the same on CUDA only.
    """
    axes = [axis for axis in range(x.ndim) if axis != 1]
    numbers = x.to(scale.dtype)
    count = _sum(scale.new_tensor(float(x.numel() // x.shape[1])))
    _check(count, x)
    batch_mean = _sum(numbers.sum(axes)) / count
    centered = numbers - _along(batch_mean, x)
    # about the mean, not E[x²] - mean², which cancels; for that the ranks meet twice
    batch_variance = _sum(centered.square().sum(axes)) / count
    with torch.no_grad():
        mean.lerp_(batch_mean.detach(), MOVE)
        variance.lerp_(batch_variance.detach() * (count / (count - 1)), MOVE)
    factor = scale * torch.rsqrt(batch_variance + EPSILON)
    return (centered * _along(factor, x) + _along(shift, x)).to(x.dtype)


def _sum(vector: Tensor) -> Tensor:
    group: Any = dist.group.WORLD
    summed: Tensor = all_reduce(vector, "sum", group)
    return summed


def _along(vector: Tensor, x: Tensor) -> Tensor:
    """A vector over channels, to be used with the whole tensor."""
    return vector.view(1, -1, *[1] * (x.ndim - 2))


def _check(count: Tensor, x: Tensor) -> None:
    # only who has at most one value has to look at the sum, for which a device is waited for
    if x.numel() // x.shape[1] < 2 and not torch.compiler.is_compiling() and int(count) < 2:
        raise InputError(ONE_VALUE)
