"""Digests of positions, values and whole models, equal on ranks that agree; and how often ranks compare them."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sparsecore.engine.topology import Topology
from sparsecore_torch.arrays import as_tensor

_SHARE = 0.003
"""The share of training time that comparisons may take."""

_FREE = 0.025
"""Seconds that comparisons may take in any case, so that the first steps are compared one by one."""

_MOST_STEPS = 100
"""The largest number of steps between two comparisons."""


class Pace:
    """Chooses how many steps pass between two comparisons, by what comparisons and steps have taken so far.

    Only rank 0 chooses, since clocks differ; the others read its choice in the verdict.

    Args:
        clock: returns a time in seconds.
        work: returns the seconds that this thread has computed, since waiting for other ranks is not a cost.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, work: Callable[[], float] = time.thread_time
    ) -> None:
        self._clock, self._work = clock, work
        self._begin: tuple[float, int] | None = None
        self._spent = 0.0
        self._comparisons = 0

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Measure a comparison."""
        begin = self._work()
        yield
        self._spent += self._work() - begin
        self._comparisons += 1

    def pause(self, step: int) -> int:
        """Return the number of steps from this one until the next comparison.

        Args:
            step: of the present comparison.
        """
        if self._begin is None or self._comparisons == 0:
            self._begin = self._clock(), step
            return 1
        begin, first_step = self._begin
        elapsed = self._clock() - begin
        next_costs = self._spent * (1 + 1 / self._comparisons)
        missing = next_costs - _FREE - _SHARE * elapsed
        if missing <= 0:
            return 1
        seconds_a_step = max(elapsed - self._spent, 1e-9) / max(step - first_step, 1)
        return min(math.ceil(missing / (_SHARE * seconds_a_step)), _MOST_STEPS)


_ODD = 0x9E3779B97F4A7C15 - 2**64
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = 1 << 16
"""The number of entries that are processed at a time, so that intermediate results stay in a processor's cache."""

_SMALL = 1 << 16
"""Tensors of fewer bytes are concatenated before they are summed: each operation costs more than they do."""

_ROW = 512
"""The number of words of 8 bytes in a row, whose sum is one number."""


def digests(topology: Topology, values: Tensor) -> tuple[list[int], list[int]]:
    """Compute digests of the positions and of the values of each tensor, on the device in O(N).

    They are sums of mixed integers modulo 2^64. One wrong position, or one wrong bit of a value, always changes its
    sum; several wrong ones leave it unchanged only by chance. Devices compute sums fast, unlike hashes of bytes.

    Args:
        topology: the N positions.
        values: (N,), of a dtype of 2, 4 or 8 bytes.

    Returns:
        The digests of the positions and those of the values, one for each tensor.
    """
    values = values.detach().contiguous()
    bits = values.view(_INTEGERS[values.element_size()])
    slots = map(topology.slots, topology.layout.names)
    sums = torch.stack([_sums(as_tensor(topology.positions[each]), bits[each]) for each in slots]).tolist()
    return [positions for positions, _ in sums], [entries for _, entries in sums]


def fingerprint(tensors: Iterable[Tensor]) -> int:
    """Compute one digest of all these tensors in their order; one wrong bit anywhere always changes it.

    It reads every byte once or twice, at the speed of memory, and waits for a device once.

    Args:
        tensors: of any dtypes and devices.
    """
    sums = [_sum_of_words(words) for words in _words(tensors)]
    return int(_sum_of_words(torch.stack([each.to(sums[0].device) for each in sums]))) if sums else 0


def _words(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """The bytes of the tensors as vectors of int64, small tensors together."""
    small: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        flat = tensor.detach().reshape(-1).view(torch.uint8)
        if len(flat) < _SMALL:
            small.setdefault(flat.device, []).append(flat)
        else:
            yield _as_words(flat)
    for vectors in small.values():
        yield _as_words(torch.cat(vectors))


def _as_words(flat: Tensor) -> Tensor:
    missing = -len(flat) % 8
    if missing or flat.storage_offset() % 8:
        flat = torch.cat([flat, flat.new_zeros(missing)])
    return flat.view(torch.int64)


def _sum_of_words(words: Tensor) -> Tensor:
    """Return a digest of the words and their order: plain sums of rows and of columns, which are then mixed."""
    rest = len(words) % _ROW
    table = words[: len(words) - rest].view(-1, _ROW)
    # a word that moves changes the sum of its row or of its column
    sums = torch.cat([table.sum(1), table.sum(0), words[len(words) - rest :]])
    odd = torch.arange(1, 2 * len(sums), 2, device=words.device)
    return _mixed(sums * odd).sum()


def _sums(positions: Tensor, bits: Tensor) -> Tensor:
    sums = torch.zeros(2, dtype=torch.int64, device=positions.device)
    for chunk, entries in zip(torch.split(positions, _CHUNK), torch.split(bits, _CHUNK), strict=True):
        mixed = _mixed(chunk.to(torch.int64))
        # a value is mixed with its position, so that moved values change the sum
        sums += torch.stack([mixed.sum(), _mixed(entries.to(torch.int64) ^ mixed).sum()])
    return sums


def _mixed(numbers: Tensor) -> Tensor:
    """Map each number to another one, one to one, without a pattern that a sum would keep."""
    product = numbers * _ODD
    return product.bitwise_xor_(product >> 29)
