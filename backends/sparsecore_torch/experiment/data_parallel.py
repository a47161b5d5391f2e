"""Data-parallel training: ranks share a training step, whose result is that of one process, whatever their number.

Each rank takes a contiguous part of the batch; moments of batch norm, gradients and sums are those of the whole batch.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any, TypeVar, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sparsecore.data.images import Batch
from sparsecore.learning.operations import EPSILON, STATISTICS_MOMENTUM, check_batch_statistics
from sparsecore.learning.ranks import Ranks
from sparsecore_torch._torch_internals.processes import differentiable_sum
from sparsecore_torch.distributed.ranks import TorchRanks
from sparsecore_torch.experiment.compilation import Forward
from sparsecore_torch.experiment.operations import Normalization, by_batch


def by_shared_batch(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Normalize by the moments of all ranks' parts, which may be of any size and empty; differentiable. Collective.

    ``torch.nn.SyncBatchNorm`` does the same on CUDA only. The arguments are those of
    :class:`sparsecore_torch.experiment.operations.Normalization`.

    Returns:
        The normalized part of this rank, in the shape and dtype of ``x``.

    Raises:
        InputError: all parts together have one value per channel; where compiled, this is not checked.
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
    """Return a vector over channels, to be used with the whole tensor."""
    return vector.view(1, -1, *[1] * (x.ndim - 2))


def _check(count: Tensor, x: Tensor) -> None:
    # only a rank that has at most one value itself reads the sum, which waits for the device
    if x.numel() // x.shape[1] < 2 and not torch.compiler.is_compiling():
        check_batch_statistics(int(count))


Part = TypeVar("Part")


class SingleProcessStep:
    """A training step of one process. A class derived from it says what several ranks do in another way."""

    @property
    def normalization(self) -> Normalization:
        """Batch norm in training, by the moments of the whole batch."""
        return by_batch

    def part(self, batch: Batch) -> Batch:
        """Return this rank's part of a batch.

        Args:
            batch: the same on all ranks.

        Returns:
            A contiguous part in the order of ranks; it may be empty where there are fewer images than ranks.
        """
        return batch

    def some(self, parts: Iterable[Part]) -> Iterator[Part]:
        """Return this rank's share of parts that any one rank can work on.

        Args:
            parts: the same on all ranks; each is given to exactly one of them.
        """
        return iter(parts)

    def trained(self, forward: Forward, parameters: Iterable[nn.Parameter]) -> Forward:  # noqa: ARG002
        """Return a forward pass whose backward pass leaves the mean of the ranks' gradients.

        Args:
            forward: this rank's forward pass.
            parameters: those that are differentiated by.
        """
        return forward

    def loss(self, losses: Tensor, examples: int) -> Tensor:
        """Return this rank's share of the mean loss over a batch; the mean over ranks is the mean loss.

        Args:
            losses: of this rank's examples, (examples of its part,).
            examples: of the whole batch.
        """
        return losses.sum() / examples

    def total(self, vector: Tensor) -> Tensor:
        """Sum the ranks' vectors, in place of the one given.

        Args:
            vector: this rank's, of the same shape on all ranks.

        Returns:
            The vector itself.
        """
        return vector

    def mean(self, vector: Tensor) -> Tensor:
        """Return the mean of the ranks' vectors.

        Args:
            vector: this rank's, of the same shape on all ranks; it may be written to.
        """
        return vector

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace the gradients by their means over ranks; a parameter may have none on some of them.

        Args:
            parameters: the same on all ranks, of one dtype.
        """

    def average_statistics(self, buffers: Sequence[Tensor]) -> None:
        """Replace buffers by their means over ranks, and whole numbers by the largest.

        Args:
            buffers: the same on all ranks, such as the running statistics of batch norm.
        """

    def communicating(self) -> AbstractContextManager[None]:
        """Enclose communication between ranks; where it breaks off because ranks have diverged, the error says why."""
        return nullcontext()


@final
class DataParallelStep(SingleProcessStep):
    """A training step that the ranks of torch's process group share. All of them must call each method.

    Args:
        ranks: in one process group.
    """

    def __init__(self, ranks: TorchRanks) -> None:
        self._ranks = ranks

    @property
    def normalization(self) -> Normalization:
        """Batch norm by the moments of all ranks' parts."""
        return by_shared_batch

    def part(self, batch: Batch) -> Batch:
        """Return a contiguous part, at most one image longer than another rank's."""
        first, last = (len(batch) * rank // self._ranks.size for rank in (self._ranks.rank, self._ranks.rank + 1))
        return batch.part(first, last)

    def some(self, parts: Iterable[Part]) -> Iterator[Part]:
        """Return every size-th part, from that of the rank's number on."""
        return islice(parts, self._ranks.rank, None, self._ranks.size)

    def trained(self, forward: Forward, parameters: Iterable[nn.Parameter]) -> Forward:
        """Return the forward pass in DistributedDataParallel, which averages gradients in the backward pass."""
        # an empty vector has no gradient to be waited for
        module = _ForwardModule(forward, [parameter for parameter in parameters if parameter.numel()])
        return DistributedDataParallel(module, gradient_as_bucket_view=True)

    def loss(self, losses: Tensor, examples: int) -> Tensor:
        """Return the sum over this rank's examples, scaled: DistributedDataParallel will divide by the ranks."""
        return losses.sum() * (self._ranks.size / examples)

    def total(self, vector: Tensor) -> Tensor:
        """Sum the ranks' vectors by an all-reduce."""
        dist.all_reduce(vector)
        return vector

    def mean(self, vector: Tensor) -> Tensor:
        """Average the ranks' vectors by an all-reduce."""
        return self.total(vector).div_(self._ranks.size)

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average the gradients by one all-reduce; without a gradient on any rank they are zero."""
        gradients = [one.new_zeros(one.shape) if one.grad is None else one.grad for one in parameters]
        together = self.mean(torch.cat([one.reshape(-1) for one in gradients]))
        means = torch.split(together, [one.numel() for one in gradients])
        for parameter, gradient, mean in zip(parameters, gradients, means, strict=True):
            parameter.grad = gradient.copy_(mean.view(gradient.shape))

    def average_statistics(self, buffers: Sequence[Tensor]) -> None:
        """Average numbers by one all-reduce; of counts, the largest is taken."""
        numbers = [one for one in buffers if one.is_floating_point()]
        if numbers:
            dtype = torch.float64 if any(one.dtype is torch.float64 for one in numbers) else torch.float32
            means = self.mean(torch.cat([one.reshape(-1).to(dtype) for one in numbers]))
            for buffer, mean in zip(numbers, torch.split(means, [one.numel() for one in numbers]), strict=True):
                buffer.copy_(mean.view(buffer.shape))
        for buffer in buffers:
            if not buffer.is_floating_point():
                largest = buffer.long()
                dist.all_reduce(largest, op=dist.ReduceOp.MAX)
                buffer.copy_(largest)

    def communicating(self) -> AbstractContextManager[None]:
        """Enclose communication by :meth:`sparsecore_torch.distributed.ranks.TorchRanks.communicating`."""
        return self._ranks.communicating()


def parallel_step(ranks: Ranks) -> SingleProcessStep:
    """Return how ranks share a training step, and bring them into one process group.

    Args:
        ranks: those of :attr:`sparsecore.learning.protocols.Backend.ranks`.
    """
    if not isinstance(ranks, TorchRanks):
        return SingleProcessStep()
    ranks.join()
    return DataParallelStep(ranks)


class _ForwardModule(nn.Module):
    """A function as a module, for DistributedDataParallel."""

    def __init__(self, forward: Forward, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self._function = forward
        self._function_parameters = nn.ParameterList(parameters)

    def forward(self, *inputs: Any) -> Tensor:
        return self._function(*inputs)
