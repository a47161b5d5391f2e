"""One number a tensor for where its weights are, and one for what they are: equal on ranks that agree."""

import torch
from torch import Tensor

from sparsecore.topology import Topology

# the constants of splitmix64, as signed numbers
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def digests(topology: Topology, values: Tensor) -> tuple[list[int], list[int]]:
    """Of positions and of values, one number a tensor each; computed on the device in O(N).

    Sums of mixed integers modulo 2^64: what has one wrong position or one wrong bit is told with all but certainty,
    and a sum, unlike a hash of bytes, is computed by a device at the speed of its memory.

    Args:
        topology: the N positions.
        values: their values, of 2, 4 or 8 bytes.
    """
    positions = _mixed(topology.positions.to(torch.int64))
    bits = values.detach().contiguous().view(_INTEGERS[values.element_size()]).to(torch.int64)
    # a value is mixed with its position, so that the same values elsewhere are others
    sums = torch.stack([_sums(positions, topology), _sums(_mixed(bits ^ positions), topology)]).tolist()
    return sums[0], sums[1]


def _mixed(numbers: Tensor) -> Tensor:
    numbers = (numbers ^ (numbers >> 30)) * _FIRST
    numbers = (numbers ^ (numbers >> 27)) * _SECOND
    return numbers ^ (numbers >> 31)


def _sums(numbers: Tensor, topology: Topology) -> Tensor:
    """The sum of each tensor's entries; wrapping around is as good as not."""
    cumulated = torch.cat([numbers.new_zeros(1), numbers.cumsum(0)])
    return cumulated[torch.tensor(topology.bounds, device=numbers.device)].diff()
