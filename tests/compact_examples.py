"""Small networks, and how to train them, for the tests of compact storage."""

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from sparsecore import Topology, hookimpl
from sparsecore.engine.schedules import Every
from sparsecore_strategies.deepr import DeepRewiring
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.gradient_deepr import GradientDeepRewiring
from sparsecore_strategies.set import SparseEvolution
from sparsecore_torch import SparseTraining, sparsify


class Mlp(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 3))


class Transformer(nn.Module):
    """Two layers, attention of two heads; the last layer may share the embedding's weight."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 9, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(tokens)))


class Convolutions(nn.Module):
    """Two-, one- and three-dimensional convolutions, a transposed one, groups."""

    def __init__(self) -> None:
        super().__init__()
        self.planes = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 4, 3, groups=2))
        self.upwards = nn.ConvTranspose2d(4, 3, 2, stride=2)
        self.volumes = nn.Conv3d(3, 2, (1, 2, 2))
        self.lines = nn.Conv1d(2, 3, 3)

    def forward(self, images: Tensor) -> Tensor:
        volumes = self.volumes(self.upwards(self.planes(images)).unsqueeze(2))
        return self.lines(volumes.flatten(2)).mean(2)


@attrs.frozen(eq=False)
class WhereTheGradientIsLarge:
    """Drops the smallest tenth of all weights, and grows where the dense gradient is largest."""

    @hookimpl
    def update_due(self, clock):
        return clock.step % 5 == 0

    @hookimpl
    def prune(self, topology, values):
        arrays = topology.arrays
        return topology.all_but(arrays.argsort(abs(values))[: topology.size // 10])

    @hookimpl
    def grow(self, occupied, counts, gradient):
        arrays, grown = occupied.arrays, []
        for index, name in enumerate(occupied.layout.names):
            steepness = abs(gradient(name)) + 1.0
            steepness = arrays.put(steepness, arrays.from_numpy(occupied.local(name)), 0.0)
            order = arrays.argsort(-steepness)[: int(counts[index])]
            grown.append(arrays.sort(order) + occupied.layout.offsets[index])
        return arrays.cast(arrays.concatenate(grown), occupied.layout.position_dtype)


@attrs.frozen(eq=False)
class Gradually:
    """Starts with all weights; every fifth step the smallest tenth goes, and nothing grows."""

    @hookimpl
    def initial_topology(self, layout, arrays):
        return Topology.of(layout, arrays.arange(layout.size, layout.position_dtype), arrays)

    @hookimpl
    def update_due(self, clock):
        return clock.step % 5 == 0

    @hookimpl
    def target_size(self, topology):
        return topology.size - topology.size // 10

    @hookimpl
    def prune(self, topology, values):
        return topology.all_but(topology.arrays.argsort(abs(values))[: topology.size // 10])


STRATEGIES: dict[str, Callable[[], object]] = {
    "dpr": lambda: DynamicReallocation(target=20, initial_threshold=0.05, schedule=Every(steps=5)),
    "set": lambda: SparseEvolution(schedule=Every(steps=5)),
    "deepr": lambda: DeepRewiring(temperature=1e-4, l1=0.01),
    "gradient-deepr": lambda: GradientDeepRewiring(temperature=1.0, l1=0.1, schedule=Every(steps=1)),
    "gradient": WhereTheGradientIsLarge,
    "gradually": Gradually,
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.003),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.03, initial_accumulator_value=0.1),
}
INPUTS: dict[type[nn.Module], Callable[[torch.Generator], Tensor]] = {
    Mlp: lambda random: torch.randn(12, 6, generator=random),
    Transformer: lambda random: torch.randint(0, 9, (6, 5), generator=random),
    Convolutions: lambda random: torch.randn(3, 2, 7, 7, generator=random),
}


def batches(model: nn.Module, count: int, start: int = 0) -> Iterator[Tensor]:
    """Inputs in the dtype of the model."""
    dtype = next(model.parameters()).dtype
    for number in range(start, start + count):
        given = INPUTS[type(model)](torch.Generator().manual_seed(number))
        yield given.to(dtype) if given.is_floating_point() else given


def loss_of(model: nn.Module, given: Tensor) -> Tensor:
    output = model(given).flatten(0, -2)
    return nn.functional.cross_entropy(output, torch.arange(len(output)) % output.shape[-1])


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, *, start: int = 0, clip: float = torch.inf
) -> list[float]:
    """The losses of a usual training loop."""
    losses = []
    for given in batches(model, steps, start):
        optimizer.zero_grad()
        loss = loss_of(model, given)
        loss.backward()
        if clip < torch.inf:
            clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


def started(
    make: Callable[[], nn.Module],
    storage: str,
    *,
    optimizer: str = "sgd",
    strategy: str = "dpr",
    dtype: torch.dtype = torch.float32,
    before: int = 0,
) -> tuple[nn.Module, torch.optim.Optimizer, SparseTraining]:
    """A model at sparsity 0.7 in all its weights, after so many dense steps."""
    torch.manual_seed(1)
    model = make().to(dtype)
    trains = OPTIMIZERS[optimizer](model.parameters())
    train(model, trains, before, start=1000)
    training = sparsify(
        model, trains, strategy=STRATEGIES[strategy](), sparsity=0.7, include="*weight*", storage=storage
    )
    return model, trains, training
