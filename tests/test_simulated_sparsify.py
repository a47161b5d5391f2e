"""sparsify on a simulated CUDA device: nothing is mixed, a quiet step waits for nothing, an update a few times."""

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

torch = pytest.importorskip("torch")

from pairwise import every_other
from simulated_cuda import DEVICE, CudaTensor, on_device, simulated_cuda, waits
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsecore import Every, hookimpl
from sparsecore.engine.units import Blocks
from sparsecore.errors import DivergedError
from sparsecore.plugins.discovery import installed
from sparsecore.strategy import Array, Clock
from sparsecore_strategies.acdc import AlternatingCompression
from sparsecore_strategies.chts import CannistraciHebb
from sparsecore_strategies.deepr import DeepRewiring
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.gmp import GradualPruning
from sparsecore_strategies.gradient_deepr import GradientDeepRewiring
from sparsecore_strategies.granet import GradualRegeneration
from sparsecore_strategies.gse import GuidedExploration
from sparsecore_strategies.iterative_pruning import IterativePruning
from sparsecore_strategies.mest import MemoryEconomic
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.set import SparseEvolution
from sparsecore_strategies.smet import MemoryEfficient
from sparsecore_strategies.snfs import SparseMomentum
from sparsecore_strategies.soft_deepr import SoftDeepRewiring
from sparsecore_strategies.srigl import StructuredRigL
from sparsecore_strategies.static import Static
from sparsecore_strategies.topkast import TopKast
from sparsecore_torch import sparsify

MOST = 8
"""Waits in an update."""
MOST_KEEPING = 11
"""Waits in an update that lets weights keep their values, of a strategy that decides more than RigL."""
MOST_ON_HOST = 12
"""Waits in an update of a strategy that decides on the host."""

STEPS = 7
_EVERY = Every(steps=3)
_DPR = DynamicReallocation(target="10%", schedule=_EVERY)
STRATEGIES: dict[str, Any] = {
    "dpr": _DPR,
    "set": SparseEvolution(schedule=_EVERY),
    "set by magnitude": SparseEvolution(schedule=_EVERY, ranking="magnitude"),
    "deepr": DeepRewiring(),
    "gradient-deepr": GradientDeepRewiring(temperature=1e-3, schedule=Every(steps=1)),
    "soft-deepr": SoftDeepRewiring(temperature=1e-3, lowest=-0.02),
    "static": Static(),
    "rigl": RigL(schedule=_EVERY),
    "srigl": StructuredRigL(schedule=_EVERY, group=12),
    "snfs": SparseMomentum(schedule=_EVERY),
    "gmp": GradualPruning(schedule=_EVERY),
    "iterative-pruning": IterativePruning(prunings=27),
    "granet": GradualRegeneration(schedule=_EVERY),
    "chts": CannistraciHebb(schedule=_EVERY),
    "acdc": AlternatingCompression(begin=0.0, phase=0.03),
    "topkast": TopKast(schedule=_EVERY),
    "smet": MemoryEfficient(schedule=_EVERY),
    "mest": MemoryEconomic(schedule=_EVERY, mutation=0.2),
    "mest with a soft bound": MemoryEconomic(schedule=_EVERY, mutation=0.2, soft_bound=True),
    "gse": GuidedExploration(schedule=_EVERY),
    "gse in tensors": GuidedExploration(schedule=_EVERY, scope="tensor"),
    "gradient-growth": [_DPR, "gradient-growth"],
    "momentum-growth": [_DPR, "momentum-growth"],
    "magnitude-drop": [_DPR, "magnitude-drop"],
    "wanda-drop": [_DPR, "wanda-drop"],
    "density-schedule": [_DPR, "density-schedule"],
    "erk-start": ["erk-start", _DPR],
}


@pytest.fixture
def device() -> Iterator[None]:
    with simulated_cuda():
        yield


def network() -> nn.Module:
    torch.manual_seed(0)
    sides = (12, 24, 24, 4)
    layers = [part for fan in itertools.pairwise(sides) for part in (nn.Linear(*fan, bias=False), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def sgd(parameters: Any) -> Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def begun(
    strategy: Any, storage: str, *, cpu: bool = False, make: Callable[[Any], Optimizer] = sgd, **options: Any
) -> tuple[nn.Module, Optimizer, Any]:
    model = network() if cpu else on_device(network())
    optimizer = make(model.parameters())
    chosen: dict[str, Any] = {"sparsity": 0.75, "include": "*", "total_steps": 99, "storage": storage, **options}
    return model, optimizer, sparsify(model, optimizer, strategy=strategy, **chosen)


def batch(step: int, *, cpu: bool = False) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(step)
    inputs, labels = torch.randn(16, 12, generator=draws), torch.randint(4, (16,), generator=draws)
    return (inputs, labels) if cpu else (CudaTensor(inputs), CudaTensor(labels))


def trained(
    model: nn.Module, optimizer: Optimizer, training: Any, *, steps: int = STEPS, cpu: bool = False, first: int = 0
) -> tuple[list[list[str]], list[list[str]]]:
    """What the host waited for in each quiet step, and in each update."""
    found: tuple[list[list[str]], list[list[str]]] = ([], [])
    for step in range(first, first + steps):
        before, (inputs, labels) = training.updates, batch(step, cpu=cpu)
        optimizer.zero_grad()
        with waits() as waited:
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        found[training.updates > before].append(waited)
    return found


def _ours(waited: list[str]) -> list[str]:
    """Without what the optimizer itself waits for."""
    return [each for each in waited if "elsewhere" not in each]


def check_counts(quiet: list[list[str]], updates: list[list[str]], most: int = MOST) -> None:
    assert all(waited == [] for waited in quiet), quiet
    assert all(len(waited) <= most for waited in updates), updates


def test_every_installed_strategy_is_tested() -> None:
    built_in = {entry.name for entry in installed("strategy") if entry.value.startswith("sparsecore_strategies.")}
    assert built_in <= set(STRATEGIES)


MOST_OF = {"chts": MOST_ON_HOST, "srigl": MOST_KEEPING, "snfs": MOST_KEEPING, "granet": MOST_KEEPING}


COMPACT = ("dpr", "snfs", "gse", "topkast", "density-schedule")
"""The strategies that are tried in compact storage in every run of the tests; the others are slow tests there."""


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(
    ("name", "storage"),
    [
        pytest.param(name, storage, marks=[pytest.mark.slow] if storage == "compact" and name not in COMPACT else [])
        for name in STRATEGIES
        for storage in ("masked", "compact")
    ],
)
@pytest.mark.filterwarnings("ignore:the requested sparsity")
def test_a_step_without_an_update_never_waits_and_an_update_waits_a_bounded_number_of_times(
    name: str, storage: str
) -> None:
    model, optimizer, training = begun(STRATEGIES[name], storage)
    quiet, updates = trained(model, optimizer, training)
    if name.startswith("gse"):  # the candidates of the next step's update are checked, which waits once
        named = [waited for waited in quiet if waited]
        assert [len(waited) for waited in named] == [1] * len(updates)
        quiet = [waited for waited in quiet if not waited]
    check_counts(quiet, updates, MOST_OF.get(name, MOST))
    assert bool(updates) == (name != "static")

    expected = begun(STRATEGIES[name], storage, cpu=True)
    trained(*expected, cpu=True)
    assert training.topology.sha256() == expected[2].topology.sha256()
    assert torch.allclose(training.values().cpu(), expected[2].values())


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("storage", ["masked", "compact"])
@pytest.mark.parametrize(
    "name", ["dpr", "rigl", *(pytest.param(one, marks=pytest.mark.slow) for one in ("set", "soft-deepr", "granet"))]
)
def test_a_saved_training_resumes_as_if_never_interrupted(name: str, storage: str) -> None:
    model, optimizer, training = begun(STRATEGIES[name], storage)
    trained(model, optimizer, training)
    saved = copy.deepcopy([each.state_dict() for each in (training, model, optimizer)])

    other, again, resumed = begun(STRATEGIES[name], storage)
    resumed.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    again.load_state_dict(saved[2])
    quiet, updates = trained(other, again, resumed, first=STEPS)
    trained(model, optimizer, training, first=STEPS)
    assert resumed.topology.sha256() == training.topology.sha256()
    first = [*quiet, *updates][0]  # whether what was loaded fits is looked up once
    most = MOST_OF.get(name, MOST)
    check_counts([one for one in quiet if one is not first], [one for one in updates if one is not first], most)
    assert len(first) <= (1 if quiet else most + 1), first


@attrs.frozen(eq=False)
class Breaks:
    """Returns values that are not finite after the first step, and is asked for an update after the third."""

    @hookimpl
    def update_due(self, clock: Clock) -> bool:
        return clock.step == 3

    @hookimpl
    def perturb(self, values: Array, clock: Clock) -> Array:
        return values * float("nan") if clock.step == 0 else values


@pytest.mark.usefixtures("device")
def test_values_that_a_strategy_breaks_between_updates_are_found_at_the_next_one_which_names_it() -> None:
    model, optimizer, training = begun(Breaks(), "masked")
    quiet, _ = trained(model, optimizer, training, steps=2)
    check_counts(quiet, [])
    with pytest.raises(DivergedError, match=r"not finite.*'perturb' of 'Breaks'"):
        trained(model, optimizer, training, steps=1, first=2)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_summary_and_squash_work_on_the_device(storage: str) -> None:
    model, optimizer, training = begun(_DPR, storage)
    trained(model, optimizer, training)
    assert "0.weight" in str(training.summary())
    assert training.memory().total.measured > 0
    size = training.topology.size
    training.squash()
    assert {parameter.device for parameter in model.parameters()} == {DEVICE}
    assert sum(int(parameter.count_nonzero()) for parameter in model.parameters()) <= size
    optimizer.zero_grad()
    inputs, labels = batch(99)
    nn.functional.cross_entropy(model(inputs), labels).backward()
    optimizer.step()


OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd foreach": lambda given: torch.optim.SGD(given, lr=0.1, momentum=0.9, foreach=True),
    "sgd fused": lambda given: torch.optim.SGD(given, lr=0.1, momentum=0.9, fused=True),
    "adamw fused": lambda given: torch.optim.AdamW(given, lr=0.01, fused=True),
    "adamw foreach": lambda given: torch.optim.AdamW(given, lr=0.01, foreach=True),
    "rprop": lambda given: torch.optim.Rprop(given, lr=0.01),
}


@pytest.mark.usefixtures("device")
@every_other(name=OPTIMIZERS, storage=["masked", "compact"])
def test_foreach_and_fused_optimizers_never_wait(name: str, storage: str) -> None:
    model, optimizer, training = begun(_DPR, storage, make=OPTIMIZERS[name])
    quiet, updates = trained(model, optimizer, training)
    quiet, updates = ([_ours(waited) for waited in every] for every in (quiet, updates))
    # torch does not count the writes of fused optimizers: whether they train is looked up once
    looked = [waited for waited in quiet if waited]
    assert len(looked) <= ("fused" in name), looked
    assert all(len(waited) == 1 and "missed_steps" in waited[0] for waited in looked), looked
    check_counts([], updates)
    assert updates


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_autocast_adds_no_waits(storage: str) -> None:
    model, optimizer, training = begun(_DPR, storage)
    for step in range(STEPS):
        before, (inputs, labels) = training.updates, batch(step)
        optimizer.zero_grad()
        with waits() as waited:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                outputs = model(inputs)
            assert outputs.dtype is torch.bfloat16
            nn.functional.cross_entropy(outputs.float(), labels).backward()
            optimizer.step()
        assert len(waited) <= (MOST if training.updates > before else 0), waited


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_bucketed_gradients_are_masked_without_waiting(storage: str) -> None:
    """As DistributedDataParallel lays them: views of one vector, which is divided by the number of ranks."""
    model, optimizer, training = begun(RigL(schedule=_EVERY), storage, regrow_pruned=False)
    for step in range(STEPS):
        parameters = [each for each in model.parameters() if each.requires_grad]
        bucket = CudaTensor(torch.zeros(sum(each.numel() for each in parameters)))
        views = bucket.split([each.numel() for each in parameters])
        for parameter, view in zip(parameters, views, strict=True):
            parameter.grad = view.view_as(parameter)
        before = training.updates
        with waits() as waited:
            for half in (0, 1):
                inputs, labels = batch(2 * step + half)
                (nn.functional.cross_entropy(model(inputs), labels) / 2).backward()
            bucket.div_(1)
            optimizer.step()
        assert len(waited) <= (MOST if training.updates > before else 0), waited


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", ["dpr", "set", "rigl"])
def test_units_of_several_weights_add_no_waits(name: str) -> None:
    model, optimizer, training = begun(STRATEGIES[name], "masked", units=Blocks(4, 4), exclude="0.weight")
    quiet, updates = trained(model, optimizer, training)
    check_counts(quiet, updates)
    assert updates


@pytest.mark.usefixtures("device")
def test_a_tensor_that_would_be_emptied_adds_no_wait() -> None:
    strategy = DynamicReallocation(target="50%", initial_threshold=1e30, schedule=_EVERY)
    model, optimizer, training = begun(strategy, "masked")
    quiet, updates = trained(model, optimizer, training)
    check_counts(quiet, updates)


@pytest.mark.usefixtures("device")
def test_the_number_of_waits_does_not_depend_on_the_number_of_layers() -> None:
    counts = []
    for depth in (2, 12):
        torch.manual_seed(0)
        model = on_device(nn.Sequential(*(nn.Linear(12, 12, bias=False) for _ in range(depth))))
        optimizer = sgd(model.parameters())
        training = sparsify(model, optimizer, strategy=RigL(schedule=_EVERY), sparsity=0.7, include="*", total_steps=99)
        quiet, updates = trained(model, optimizer, training)
        check_counts(quiet, updates)
        counts.append(list(map(len, updates)))
    assert counts[0] == counts[1]
