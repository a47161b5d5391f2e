"""A small network to train on one process or several, and what is seen of its sparse training."""

from typing import Any

import attrs
import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from sparsecore import hookimpl
from sparsecore.engine.growth import free_positions
from sparsecore_torch import sparsify

STEPS, BATCH = 12, 8


@attrs.frozen(eq=False)
class ByGradient:
    """Drops the smallest of each tensor, grows where the gradient is largest: RigL in short."""

    @hookimpl
    def update_due(self, clock: Any) -> bool:
        return bool(clock.step % 3 == 0)

    @hookimpl
    def prune(self, topology: Any, values: Any) -> Any:
        smallest = [
            topology.slots(name).start + values[topology.slots(name)].abs().argsort(stable=True)[:3]
            for name in topology.layout.names
        ]
        return topology.all_but(torch.cat(smallest))

    @hookimpl
    def allocate(self, pruned: Any) -> Any:
        return pruned

    @hookimpl
    def grow(self, occupied: Any, counts: Any, gradient: Any) -> Any:
        ranks = []
        for name, count in zip(occupied.layout.names, counts, strict=True):
            free = np.flatnonzero(~occupied.mask(name).ravel())
            size = gradient(name).abs().numpy()[free]
            ranks.append(np.sort(np.argsort(-size, kind="stable")[:count]))
        return free_positions(occupied, ranks)

    @hookimpl
    def initial_momentum(self, grown: Any, values: Any) -> Any:
        """Each position has another number."""
        return values.new_tensor(grown.positions.numpy() % 7) / 8


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 3)
    return nn.Sequential(*layers).double()


def batches() -> list[tuple[Any, Any]]:
    draws = torch.Generator().manual_seed(5)
    return [
        (torch.randn(BATCH, 10, generator=draws).double(), torch.randint(0, 3, (BATCH,), generator=draws))
        for _ in range(STEPS)
    ]


def steps(model: nn.Module, sparse: Any, share: slice, optimizer: Any) -> list[str]:
    """Train on a share of each batch; the topology after each step."""
    topologies = []
    for inputs, labels in batches():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[share]), labels[share]).backward()
        optimizer.step()
        topologies.append(sparse.topology.sha256())
    return topologies


def trained(model: nn.Module, sparse: Any, share: slice, optimizer: Any) -> dict[str, Any]:
    """The topology after each step, and the weights at the end."""
    topologies = steps(model, sparse, share, optimizer)
    weights = {name: whole(parameter) for name, parameter in sparse.model.named_parameters()}
    inactive = [float(weights[name][~mask].abs().sum()) for name, mask in sparse.masks().items()]
    return {
        "topologies": topologies,
        "weights": torch.cat([each.reshape(-1) for each in weights.values()]).tolist(),
        "inactive": inactive,
        "updates": sparse.updates,
    }


def optimizer_of(model: nn.Module) -> Any:
    return torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)


def alone() -> dict[str, Any]:
    model = network(0)
    optimizer = optimizer_of(model)
    return trained(model, sparsify(model, optimizer, strategy=ByGradient(), sparsity=0.7), slice(None), optimizer)


def share() -> slice:
    part = BATCH // dist.get_world_size()
    return slice(dist.get_rank() * part, (dist.get_rank() + 1) * part)


def whole(parameter: Any) -> Any:
    """The parameter with the shards of all ranks."""
    return (parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter).detach()
