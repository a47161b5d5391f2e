"""The state of a training loads only into the same training: strategies, options, units and schedules."""

import dataclasses
import itertools
from functools import partial

import attrs
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import mlp, often, sgd, train

from sparsecore import hookimpl
from sparsecore.engine.schedules import Cosine, Every, Piecewise
from sparsecore.errors import InputError
from sparsecore_strategies.erk_start import ErkStart
from sparsecore_strategies.gradient_growth import GradientGrowth
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.set import SparseEvolution
from sparsecore_strategies.static import Static
from sparsecore_torch import sparsify


class Plain:
    """A strategy that is no attrs class."""

    def __init__(self, fraction=0.1, schedule=None, **others):
        self._fraction = fraction
        self.schedule = schedule or Every(steps=3)
        vars(self).update(others)

    @hookimpl
    def update_due(self, clock):
        return self.schedule(clock)

    @hookimpl
    def prune(self, topology, random):
        kept = random.generator("kept").random(topology.size) >= self._fraction
        return topology.arrays.from_numpy(kept)


class Slotted(Plain):
    __slots__ = ("share",)

    def __init__(self, share):
        super().__init__()
        self.share = share


@dataclasses.dataclass(frozen=True, eq=False)
class Data(Plain):
    fraction: float = 0.1
    schedule: object = Every(steps=3)

    @property
    def _fraction(self):
        return self.fraction


def of_class(fraction):
    class Local:
        share = fraction

        @hookimpl
        def prune(self, topology):
            return topology.all()

    return Local()


def captured(fraction):
    class Local:
        @hookimpl
        def prune(self, topology, random):
            kept = random.generator("kept").random(topology.size) >= fraction
            return topology.arrays.from_numpy(kept)

    return Local()


class Watch:
    """Decides nothing."""

    def __init__(self):
        self.seen = []

    @hookimpl
    def reallocated(self, clock):
        self.seen.append(clock.step)


@attrs.frozen(eq=False)
class Named:
    """An option that is not to be compared."""

    label: str = attrs.field(default="a", eq=False)

    @hookimpl
    def prune(self, topology):
        return topology.all()


def started(strategy, **options):
    model = mlp()
    optimizer = sgd(model)
    given = {"strategy": strategy, "sparsity": 0.5, "total_steps": 100, "seed": 3, **options}
    return model, optimizer, sparsify(model, optimizer, **given)


def evolution(**options):
    return SparseEvolution(**{"schedule": Every(steps=5), **options})


# of each pair all others are other trainings; what the sentence must name
APART = {
    "classes": (
        [evolution, RigL, Static, lambda: [evolution(), RigL()], lambda: [RigL(), evolution()], often],
        ["SparseEvolution", "RigL", "Static", "DynamicReallocation"],
    ),
    "a fraction": ([lambda: evolution(drop_fraction=0.3), lambda: evolution(drop_fraction=0.5)], ["0.3", "0.5"]),
    "a word": ([lambda: evolution(start="er"), lambda: evolution(start="erk")], ["start", "erk"]),
    "a schedule": ([partial(evolution, schedule=Every(steps=n)) for n in (5, 10)], ["schedule", "5", "10"]),
    "its end": ([partial(evolution, schedule=Every(steps=5, until=u)) for u in (0.5, 0.6)], ["until", "0.5", "0.6"]),
    "a cosine": ([partial(RigL, Cosine(f)) for f in (0.3, 0.4)], ["drop_fraction.start", "0.3", "0.4"]),
    "a piece": ([partial(RigL, Piecewise({0: f})) for f in (0.1, 0.2)], ["drop_fraction", "0.1", "0.2"]),
    "an amount": ([lambda: often("20%"), lambda: often("30%")], ["20%", "30%"]),
    "what is on top": (
        [lambda: [evolution()], lambda: [evolution(), GradientGrowth()], lambda: [evolution(), ErkStart()]],
        ["GradientGrowth", "ErkStart", "SparseEvolution"],
    ),
    "an attribute": ([lambda: Plain(0.1), lambda: Plain(0.3)], ["fraction", "0.1", "0.3"]),
    "a slot": ([lambda: Slotted(0.1), lambda: Slotted(0.3)], ["share", "0.1", "0.3"]),
    "a dataclass": ([lambda: Data(0.1), lambda: Data(0.3)], ["fraction", "0.1", "0.3"]),
    "an attribute of the class": ([lambda: of_class(0.1), lambda: of_class(0.3)], ["share", "0.1", "0.3"]),
    "a captured variable": ([lambda: captured(0.1), lambda: captured(0.3)], ["fraction", "0.1", "0.3"]),
    "a function": (
        [
            lambda: Plain(schedule=lambda clock: clock.step % 3 == 0),
            lambda: Plain(schedule=lambda clock: clock.step > 3),
        ],
        ["schedule"],
    ),
    "an array": ([lambda: Plain(weights=np.arange(3)), lambda: Plain(weights=np.arange(3) + 1)], ["weights"]),
    "a tensor": ([lambda: Plain(weights=torch.zeros(3)), lambda: Plain(weights=torch.ones(3))], ["weights"]),
    "a list": ([lambda: Plain(layers=["a"]), lambda: Plain(layers=["b"])], ["layers", "a", "b"]),
    "a number's kind": ([lambda: Plain(flag=1), lambda: Plain(flag=True)], ["flag"]),
}


@pytest.mark.parametrize("case", APART)
def test_the_state_of_other_strategies_or_options_is_refused_and_named(case):
    makers, words = APART[case]
    trainings = [started(make())[2] for make in makers]
    saved = [training.state_dict() for training in trainings]
    for (here, training), (there, state) in itertools.product(enumerate(trainings), enumerate(saved)):
        if here == there:
            training.load_state_dict(state)
            continue
        before = training.topology
        with pytest.raises(InputError, match="another training") as refused:
            training.load_state_dict(state)
        assert any(word in str(refused.value) for word in words), refused.value
        assert training.topology is before


SETTINGS = {
    "regrow_pruned": ({"regrow_pruned": True}, "regrow_pruned"),
    "units": ({"units": "2x2"}, "units"),
    "steps_per_epoch": ({"steps_per_epoch": 7}, "steps_per_epoch"),
    "sparsity": ({"sparsity": 0.6}, "sparsity"),
    "seed": ({"seed": 4}, "seed"),
    "include": ({"include": "2.weight"}, "0.weight"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_the_state_of_other_settings_is_refused_and_named(case):
    options, word = SETTINGS[case]
    state = started(evolution())[2].state_dict()
    with pytest.raises(InputError, match=word):
        started(evolution(), **options)[2].load_state_dict(state)


def test_the_state_of_a_strategy_from_before_it_kept_values_is_refused_unless_that_is_asked_for():
    rigl = RigL(schedule=Every(steps=2))
    old = started(rigl, regrow_pruned=False)[2].state_dict()
    with pytest.raises(InputError, match="regrow_pruned: False there, keep here"):
        started(rigl)[2].load_state_dict(old)
    started(rigl, regrow_pruned=False)[2].load_state_dict(old)


ALIKE = {
    "another end": (evolution, evolution, {"total_steps": 200}),
    "compact storage": (evolution, evolution, {"storage": "compact"}),
    "an observer": (evolution, lambda: [evolution(), Watch()], {}),
    "no observer": (lambda: [Watch(), evolution()], evolution, {}),
    "by its name": (Static, lambda: "static", {}),
    "a label": (lambda: Named("a"), lambda: Named("b"), {}),
    "plain": (lambda: Plain(0.1), lambda: Plain(0.1), {}),
    "a generator": (lambda: Plain(own=np.random.default_rng()), lambda: Plain(own=np.random.default_rng()), {}),
    "a module": (lambda: Plain(teacher=mlp(0)), lambda: Plain(teacher=mlp(1)), {}),
    "functions": (lambda: Plain(schedule=lambda _: False), lambda: Plain(schedule=lambda _: False), {}),
}


@pytest.mark.parametrize("case", ALIKE)
def test_settings_without_influence_on_decisions_may_differ(case, tmp_path):
    first, second, options = ALIKE[case]
    model, optimizer, training = started(first())
    train(model, optimizer, range(6))
    torch.save(training.state_dict(), tmp_path / "saved.pt")
    again = started(second(), **options)[2]
    again.load_state_dict(torch.load(tmp_path / "saved.pt", weights_only=True))
    assert (again.step, again.updates) == (training.step, training.updates)
    assert torch.equal(again.topology.positions, training.topology.positions)


def test_mutable_attributes_of_a_strategy_are_compared_as_at_the_start():
    class Counting(Plain):
        def __init__(self):
            super().__init__()
            self.calls = 0

        @hookimpl
        def update_due(self, clock):
            self.calls += 1
            return super().update_due(clock)

    model, optimizer, training = started(Counting())
    train(model, optimizer, range(4))
    started(Counting())[2].load_state_dict(training.state_dict())
