"""Dense WRN-28-2 on torch in the ways in which it is fast on a CPU: what sparse training there is compared with."""

from collections.abc import Callable, Mapping

import attrs
import torch
from plain_torch import Loop, optimizer_of, wide_resnet

SHAPE = (32, 32, 3)

SINGLE = ("float32, channels last", "float32, contiguous")
"""The faster of them is what the goals are about."""

LOWERED = "bfloat16 autocast, channels last"


@attrs.frozen
class _Peer:
    memory_format: torch.memory_format
    lowered: torch.dtype | None = None

    def step(self, batch: int) -> Callable[[], None]:
        model = wide_resnet(memory_format=self.memory_format)
        return Loop(
            model, optimizer_of(model), batch, SHAPE, lowered=self.lowered, memory_format=self.memory_format
        ).step


_PEERS: Mapping[str, _Peer] = {
    SINGLE[0]: _Peer(torch.channels_last),
    SINGLE[1]: _Peer(torch.contiguous_format),
    LOWERED: _Peer(torch.channels_last, torch.bfloat16),
}

PEERS = tuple(_PEERS)


def peer_steps(batch: int) -> dict[str, Callable[[], None]]:
    """A training step of each, by name."""
    return {name: peer.step(batch) for name, peer in _PEERS.items()}
