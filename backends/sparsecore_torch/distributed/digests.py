"""One number a tensor for where its weights are, and one for what they are: equal on ranks that agree."""

import torch
from torch import Tensor

from sparsecore.topology import Topology

_ODD = 0x9E3779B97F4A7C15 - 2**64
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = 1 << 16
"""So many entries at a time: what is computed on the way then stays in a processor's cache."""


def digests(topology: Topology, values: Tensor) -> tuple[list[int], list[int]]:
    """Of positions and of values, one number a tensor each; computed on the device in O(N).

    They are sums of mixed integers modulo 2^64. One wrong position, or one wrong bit of a value, always changes its
    sum; several leave it as it is no more often than chance has it. And a sum, unlike a hash of bytes, is what devices
    are good at.

    Args:
        topology: the N positions.
        values: their values, of 2, 4 or 8 bytes.
    """
    values = values.detach().contiguous()
    bits = values.view(_INTEGERS[values.element_size()])
    slots = map(topology.slots, topology.layout.names)
    sums = torch.stack([_sums(topology.positions[each], bits[each]) for each in slots]).tolist()
    return [positions for positions, _ in sums], [entries for _, entries in sums]


def _sums(positions: Tensor, bits: Tensor) -> Tensor:
    sums = torch.zeros(2, dtype=torch.int64, device=positions.device)
    for places, entries in zip(torch.split(positions, _CHUNK), torch.split(bits, _CHUNK), strict=True):
        mixed = _mixed(places.to(torch.int64))
        # a value is mixed with its position, so that the same values elsewhere are others
        sums += torch.stack([mixed.sum(), _mixed(entries.to(torch.int64) ^ mixed).sum()])
    return sums


def _mixed(numbers: Tensor) -> Tensor:
    """Each number as another one, without a pattern that a sum would keep; no two become the same."""
    product = numbers * _ODD
    return product.bitwise_xor_(product >> 29)
