"""How ranks share the work of a training step, so that the step is that of one process, whatever their number.

Each takes a contiguous part of the batch; moments of batch norm, gradients and sums are those of the whole batch.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any, Protocol, TypeVar, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sparsecore.data.images import Batch
from sparsecore.learning.protocols import EPSILON, STATISTICS_MOMENTUM, check_batch_statistics
from sparsecore.learning.ranks import Ranks
from sparsecore_torch._torch_internals import differentiable_sum
from sparsecore_torch.distributed.ranks import TorchRanks
from sparsecore_torch.experiment.compilation import Forward
from sparsecore_torch.experiment.operations import Normalization, by_batch


def by_shared_batch(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """See :class:`sparsecore_torch.experiment.operations.Normalization`; differentiable, for parts of any size.

    They may be empty.

    ``torch.nn.SyncBatchNorm`` does the same on CUDA only.
    """
    axes = [axis for axis in range(x.ndim) if axis != 1]
    numbers = x.to(scale.dtype)
    count = differentiable_sum(scale.new_tensor(float(x.numel() // x.shape[1])))
    _check(count, x)
    batch_mean = differentiable_sum(numbers.sum(axes)) / count
    centered = numbers - _along(batch_mean, x)
    # about the mean, not E[x²] - mean², which cancels; for that the ranks meet twice
    batch_variance = differentiable_sum(centered.square().sum(axes)) / count
    with torch.no_grad():
        mean.lerp_(batch_mean.detach(), STATISTICS_MOMENTUM)
        variance.lerp_(batch_variance.detach() * (count / (count - 1)), STATISTICS_MOMENTUM)
    factor = scale * torch.rsqrt(batch_variance + EPSILON)
    return (centered * _along(factor, x) + _along(shift, x)).to(x.dtype)


def _along(vector: Tensor, x: Tensor) -> Tensor:
    """A vector over channels, to be used with the whole tensor."""
    return vector.view(1, -1, *[1] * (x.ndim - 2))


def _check(count: Tensor, x: Tensor) -> None:
    # only a rank that has at most one value itself reads the sum, which waits for the device
    if x.numel() // x.shape[1] < 2 and not torch.compiler.is_compiling():
        check_batch_statistics(int(count))


Part = TypeVar("Part")


class Sharing(Protocol):
    """What a learner asks, wherever ranks have to meet."""

    @property
    def normalization(self) -> Normalization:
        """Batch norm in training, by the moments of the whole batch."""
        ...

    def part(self, batch: Batch) -> Batch:
        """This rank's part of a batch; it may be empty."""
        ...

    def some(self, parts: Iterable[Part]) -> Iterator[Part]:
        """This rank's parts of what is done once."""
        ...

    def trained(self, forward: Forward, parameters: Iterable[nn.Parameter]) -> Forward:
        """The function; where ranks share its backward pass, all get the mean of their gradients."""
        ...

    def loss(self, losses: Tensor, examples: int) -> Tensor:
        """This rank's share of the mean loss over a batch of so many examples; the mean over ranks is that loss."""
        ...

    def total(self, vector: Tensor) -> Tensor:
        """The sum of the ranks' vectors, in place of the one given."""
        ...

    def mean(self, vector: Tensor) -> Tensor:
        """The mean of the ranks' vectors, which may take the place of the one given."""
        ...

    def meeting(self) -> AbstractContextManager[None]:
        """While ranks wait for one another: where they have parted, the error says why."""
        ...


@final
class Unshared:
    """One process does it all. See :class:`Sharing`."""

    normalization = staticmethod(by_batch)

    def part(self, batch: Batch) -> Batch:
        """The batch."""
        return batch

    def some(self, parts: Iterable[Part]) -> Iterator[Part]:
        """All."""
        return iter(parts)

    def trained(self, forward: Forward, parameters: Iterable[nn.Parameter]) -> Forward:  # noqa: ARG002
        """The function itself."""
        return forward

    def loss(self, losses: Tensor, examples: int) -> Tensor:
        """The mean."""
        return losses.sum() / examples

    def total(self, vector: Tensor) -> Tensor:
        """The vector."""
        return vector

    def mean(self, vector: Tensor) -> Tensor:
        """The vector."""
        return vector

    def meeting(self) -> AbstractContextManager[None]:
        """Nobody is waited for."""
        return nullcontext()


@final
class Shared:
    """Several processes in torch's process group. See :class:`Sharing`."""

    normalization = staticmethod(by_shared_batch)

    def __init__(self, ranks: TorchRanks) -> None:
        self._ranks = ranks

    def part(self, batch: Batch) -> Batch:
        """Contiguous, and no more than one image longer than another's."""
        first, last = (len(batch) * rank // self._ranks.size for rank in (self._ranks.rank, self._ranks.rank + 1))
        return Batch(batch.rows[first:last], batch.shifts[first:last], batch.flips[first:last], batch.padding)

    def some(self, parts: Iterable[Part]) -> Iterator[Part]:
        """Every size-th."""
        return islice(parts, self._ranks.rank, None, self._ranks.size)

    def trained(self, forward: Forward, parameters: Iterable[nn.Parameter]) -> Forward:
        """By DistributedDataParallel, which makes the gradients of a step whole before the optimizer sees them."""
        # an empty vector has no gradient to be waited for
        module = _Module(forward, [parameter for parameter in parameters if parameter.numel()])
        return DistributedDataParallel(module, gradient_as_bucket_view=True)

    def loss(self, losses: Tensor, examples: int) -> Tensor:
        """Of its own examples; DistributedDataParallel will divide the gradients by the number of ranks."""
        return losses.sum() * (self._ranks.size / examples)

    def total(self, vector: Tensor) -> Tensor:
        """All-reduced."""
        dist.all_reduce(vector)
        return vector

    def mean(self, vector: Tensor) -> Tensor:
        """All-reduced, by their number."""
        return self.total(vector).div_(self._ranks.size)

    def meeting(self) -> AbstractContextManager[None]:
        """See :meth:`sparsecore_torch.distributed.ranks.TorchRanks.reaching`."""
        return self._ranks.reaching()


def sharing_of(ranks: Ranks) -> Sharing:
    """How these ranks share a step; from now on they are in one process group."""
    if not isinstance(ranks, TorchRanks):
        return Unshared()
    ranks.join()
    return Shared(ranks)


class _Module(nn.Module):
    """A function, in the form that DistributedDataParallel knows."""

    def __init__(self, forward: Forward, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self._function = forward
        self._parameters_of_it = nn.ParameterList(parameters)

    def forward(self, *inputs: Any) -> Tensor:
        return self._function(*inputs)
