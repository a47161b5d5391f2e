"""What each hook answers: the engine stops what it cannot use, and here it is laid at the promise's door."""

import math

import attrs
import numpy as np

from sparsecore.engine.arrays import Array, Counts
from sparsecore.engine.distributions import uniform
from sparsecore.engine.schedules import Clock
from sparsecore.engine.stack import StrategyStack
from sparsecore.engine.topology import Topology
from sparsecore.engine.validation import check_bool
from sparsecore.errors import DivergedError, InputError, NoRoomError
from sparsecore.testing.backend_subjects import oracle_arrays
from sparsecore.testing.promises import Promise, expect, hook_of, is_mistake
from sparsecore.testing.runs import begun, engine, run, updated
from sparsecore.testing.scenes import Scene, scenes
from sparsecore.testing.stacks import Subject, declared, fresh


def _updates(_: Subject, scene: Scene) -> None:
    updated(scene)


def _runs(_: Subject, scene: Scene) -> None:
    """An update in the scene; then from the strategy's own start through some steps: every hook is called."""
    updated(scene)
    algorithm = engine(scene)
    start = algorithm.start(scene.sparsity, clock=scene.clock)
    algorithm.start_values(start, algorithm.arrays.zeros_like(_values(scene), start.topology.size))
    moment = begun(algorithm, scene)
    algorithm.metrics(moment.state)
    run(algorithm, scene, moment, range(4))


def _raises_nothing(subject: Subject, scene: Scene) -> None:
    """All hooks are called, and refuse nothing but starts."""
    try:
        _runs(subject, scene)
    except (InputError, NoRoomError, DivergedError) as error:
        expect(not is_mistake(error, scene), f"{type(error).__name__} {hook_of(error)}: {error}")
        raise


def _values(scene: Scene) -> Array:
    return oracle_arrays().from_numpy(scene.values)


def _starts(subject: Subject, scene: Scene) -> None:
    topology = engine(scene).start(scene.sparsity, clock=scene.clock).topology
    _check_positions(topology)
    wanted, budget = (1 - scene.sparsity) * scene.layout.size, int(uniform(scene.layout, scene.sparsity).sum())
    multiples = _multiples(subject, scene)
    uneven = [name for name, rest in zip(scene.layout.names, topology.counts % multiples, strict=True) if rest]
    expect(not uneven, f"the start has {topology.counts} weights; declared are multiples of {multiples}")
    away = int(multiples.sum())
    most = max(budget, math.ceil(wanted) + away) if subject.decided_by_engine("target_size") else scene.layout.size
    expect(
        min(budget, math.floor(wanted) - away) <= topology.size <= most,
        f"the start has {topology.size} weights of {scene.layout.size}; at sparsity {scene.sparsity} it is about "
        f"{wanted:.1f}, within {away}",
    )


def _multiples(subject: Subject, scene: Scene) -> Counts:
    """Of how many weights each tensor is to start with a multiple."""
    of_layout = declared(subject, scene.stack, "initial_topology").start_multiples
    return np.ones(len(scene.layout), np.int64) if of_layout is None else of_layout(scene.layout)


def _check_positions(topology: Topology) -> None:
    """Told once more, with Python's sets."""
    positions = topology.host_positions.tolist()
    expect(positions == sorted(set(positions)), "positions are not ascending and distinct")
    expect(all(0 <= position < topology.layout.size for position in positions), "a position is out of bounds")


_WHEN = ("update_due", "replaces_step")


def _asks_when(_: Subject, scene: Scene) -> None:
    earlier = range(1, min(scene.clock.step, 11) + 1)
    moments = [scene.clock, *(attrs.evolve(scene.clock, step=step) for step in earlier)]
    for hook in _WHEN:
        asked, again = _said(hook, scene, moments), _said(hook, scene, moments[::-1])[::-1]
        strange = [clock.step for clock, one, other in zip(moments, asked, again, strict=True) if one != other]
        expect(not strange, f"what {hook!r} answers after step {strange[:1]} changes with how often it is asked")


def _said(hook: str, scene: Scene, moments: list[Clock]) -> list[bool]:
    """What the strategies answer at these times, in this order."""
    stack = fresh(scene.stack)
    strategy_states = begun(engine(scene, stack=stack), scene).state.strategy_states
    hooks = StrategyStack(stack)
    return [
        check_bool(hooks.first_result(hook, clock=clock, strategy_state=strategy_states), hook) for clock in moments
    ]


ANSWERS = (
    Promise(
        "no-errors",
        "no hook raises an error, but for what it refuses at the start",
        scenes,
        _raises_nothing,
        errors=True,
    ),
    Promise(
        "start",
        "the start is ascending, distinct, within bounds, in every tensor, and of the sparsity asked for, or of less "
        "where the number of weights is declared",
        scenes,
        _starts,
        hooks=("initial_topology",),
        share=0.5,
    ),
    Promise(
        "due",
        "whether an update is due is True or False, the same however often it is asked",
        scenes,
        _asks_when,
        _WHEN,
        share=0.5,
    ),
    Promise("prune", "pruning answers one bool a weight", scenes, _updates, hooks=("prune",)),
    Promise(
        "shares", "as many grow as were pruned: whole numbers, within the room", scenes, _updates, hooks=("allocate",)
    ),
    Promise(
        "growth",
        "what grows is new: in bounds, ascending, distinct, neither active nor just pruned, as many as allocated",
        scenes,
        _updates,
        hooks=("grow",),
    ),
    Promise(
        "values",
        "start values, perturbed values and those of grown weights are finite, one a weight, of the given dtype",
        scenes,
        _runs,
        hooks=("start_values", "perturb", "initial_values"),
    ),
    Promise(
        "state",
        "what is remembered can be saved, and has one entry a weight where it says so; metrics are finite numbers",
        scenes,
        _runs,
        ("strategy_state", "metrics"),
        share=0.5,
    ),
)
