"""Promises about random numbers: they depend on the seed and on their purpose, and on nothing else."""

import inspect
import math
from collections.abc import Callable, Sequence

import attrs
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from sparsecore.engine.engine import Engine
from sparsecore.engine.topology import Layout
from sparsecore.testing.promises import InconclusiveError, Promise, expect
from sparsecore.testing.runs import first_difference, make_engine, run_steps, run_update, snapshot_before_update
from sparsecore.testing.scenarios import Scenario, scenarios
from sparsecore.testing.starts import start
from sparsecore.testing.subjects import StrategySubject, declarations, hooks_of, implementer
from sparsecore.testing.worker_processes import can_be_sent, digests_in_workers

_STEPS = 6


def _check_determinism(_: StrategySubject, scenario: Scenario) -> None:
    one, other = (
        run_steps(engine, scenario, snapshot_before_update(engine, scenario), range(_STEPS))
        for engine in _two_engines(scenario)
    )
    difference = first_difference(one, other)
    expect(difference is None, f"two runs of the same seed differ in {difference}")
    first, second = (_start_of(engine, scenario) for engine in _two_engines(scenario))
    expect(first == second, "two starts of the same seed differ in positions")


def _two_engines(scenario: Scenario) -> tuple[Engine, Engine]:
    return make_engine(scenario), make_engine(scenario)


def _start_of(engine: Engine, scenario: Scenario) -> Sequence[int]:
    positions: list[int] = start(engine, scenario.sparsity, scenario.clock).topology.host_positions.tolist()
    return positions


def _check_other_processes(_: StrategySubject, scenario: Scenario) -> None:
    one, other = digests_in_workers(scenario)
    if one is None or other is None:
        raise InconclusiveError("another process raised an error")
    changed = [part for part in one if one[part] != other[part]]
    expect(
        not changed,
        f"two processes with different hashes of texts (PYTHONHASHSEED) differ in {', '.join(changed)}",
    )


def _can_be_sent(subject: StrategySubject) -> bool:
    return can_be_sent(subject.sample)


def _grows_at_random(subject: StrategySubject) -> bool:
    """Whether the strategy that grows takes random numbers, itself or for candidates, or leaves it to the engine."""
    growing = implementer(subject.sample, "grow")
    return growing is None or any(
        "random" in inspect.signature(method).parameters
        for hook, method in hooks_of(growing).items()
        if hook in ("candidates", "grow")
    )


_SIZES = (100, 400, 2000)


@st.composite
def _scenarios_with_room(draw: DrawFn, subject: StrategySubject) -> Scenario:
    """Draw scenarios of two tensors that are a quarter full, where growth is hardly ever the same twice by chance."""
    scenario = draw(scenarios(subject))
    size = draw(st.sampled_from(_SIZES))
    layout = Layout.of({"first": (size // 10, 10), "second": (size,)})
    random = np.random.default_rng(scenario.noise_seed)
    weights = size // 2
    values = random.standard_normal(weights) * random.choice([1e-5, 1.0], weights)
    return attrs.evolve(
        scenario,
        layout=layout,
        positions=np.sort(random.choice(layout.size, weights, replace=False)).astype(layout.position_dtype),
        values=values.astype(scenario.values.dtype),
        gradients={name: random.standard_normal(size) for name in layout.names} if scenario.gradients else {},
        previous_updates=0,
    )


_VARIANTS = 3
"""How many other seeds or updates are tried: with 1,000 possible results, all are the same by chance once in 10^9."""

_MIN_POSSIBILITIES = 10**3
"""How many ways to grow there must be for the results of different seeds to be compared."""


def _check_seeded_growth(subject: StrategySubject, scenario: Scenario) -> None:
    if declarations(subject, scenario.stack, "grow").growth == "fixed":
        return
    reallocation = run_update(scenario).reallocation
    room, counts = reallocation.before.room.tolist(), reallocation.grown.tolist()
    if math.prod(map(math.comb, room, counts)) < _MIN_POSSIBILITIES:
        return
    for change, variants in (("another seed", _other_seeds(scenario)), ("another update", _other_updates(scenario))):
        expect(
            _differs(_grown, scenario, variants) or _is_random_with_others(subject, scenario, _grown),
            f"with {change}, {sum(counts)} weights grow at the same positions, whatever the hyperparameters; if growth "
            "is not meant to be random, declare growth='fixed'",
        )


def _other_seeds(scenario: Scenario) -> list[Scenario]:
    return [attrs.evolve(scenario, seed=scenario.seed + more) for more in range(1, _VARIANTS + 1)]


def _other_updates(scenario: Scenario) -> list[Scenario]:
    clocks = [attrs.evolve(scenario.clock, updates=scenario.clock.updates + more) for more in range(1, _VARIANTS + 1)]
    return [attrs.evolve(scenario, clock=clock) for clock in clocks]


def _differs(result: Callable[[Scenario], Sequence[int]], scenario: Scenario, variants: Sequence[Scenario]) -> bool:
    first = result(scenario)
    return any(result(variant) != first for variant in variants)


def _is_random_with_others(
    subject: StrategySubject, scenario: Scenario, result: Callable[[Scenario], Sequence[int]]
) -> bool:
    """Whether the result depends on the seed with other hyperparameters, so that these only leave nothing to draw."""
    for stack in (subject.sample, *subject.alternatives):
        other = attrs.evolve(scenario, stack=stack)
        try:
            is_random = _differs(result, other, _other_seeds(other))
            is_random = is_random and (result is not _grown or _differs(result, other, _other_updates(other)))
        except Exception:  # the strategy refuses this scenario with these hyperparameters
            continue
        if is_random:
            return True
    return False


def _grown(scenario: Scenario) -> Sequence[int]:
    grown: list[int] = run_update(scenario).reallocation.grown_weights.host_positions.tolist()
    return grown


def _check_seeded_start(subject: StrategySubject, scenario: Scenario) -> None:
    began = _start(scenario)
    expect(
        len(began) == scenario.layout.size
        or _differs(_start, scenario, _other_seeds(scenario))
        or _is_random_with_others(subject, scenario, _start),
        f"with {_VARIANTS} other seeds, the {len(began)} weights start at the same positions of {scenario.layout.size};"
        " if the start is not meant to be random, declare start='fixed'",
    )


def _start(scenario: Scenario) -> Sequence[int]:
    return _start_of(make_engine(scenario), scenario)


def _starts_at_random(subject: StrategySubject) -> bool:
    return declarations(subject, subject.sample, "initial_topology").start != "fixed"


RANDOMNESS = (
    Promise(
        "deterministic",
        "the same seed gives the same run, whatever else runs in the process",
        scenarios,
        _check_determinism,
        fraction=0.5,
    ),
    Promise(
        "processes",
        "another process makes the same decisions",
        scenarios,
        _check_other_processes,
        applies=_can_be_sent,
        fraction=0.2,
    ),
    Promise(
        "seeded",
        "if growth is random, another seed and another update grow at other positions, unless declared as fixed",
        _scenarios_with_room,
        _check_seeded_growth,
        applies=_grows_at_random,
        fraction=0.3,
    ),
    Promise(
        "seeded-start",
        "another seed starts at other positions, unless all are active or the start is declared as fixed",
        _scenarios_with_room,
        _check_seeded_start,
        applies=_starts_at_random,
        fraction=0.1,
    ),
)
