"""Promises about the result of each hook. The engine refuses an invalid result; the promise of its hook is broken."""

import math

import attrs
import numpy as np

from sparsecore.engine.arrays import Counts
from sparsecore.engine.distributions import uniform
from sparsecore.engine.schedules import Clock
from sparsecore.engine.stack import StrategyStack
from sparsecore.engine.topology import Topology
from sparsecore.engine.validation import check_bool
from sparsecore.errors import DivergedError, InputError, NoRoomError
from sparsecore.testing.promises import Promise, expect, hook_note, is_strategy_error
from sparsecore.testing.runs import make_engine, run_steps, run_update, snapshot_before_update
from sparsecore.testing.scenarios import Scenario, scenarios
from sparsecore.testing.starts import start
from sparsecore.testing.subjects import StrategySubject, declarations, fresh_copies, oracle_arrays


def _run_update(_: StrategySubject, scenario: Scenario) -> None:
    run_update(scenario)


def _call_all_hooks(_: StrategySubject, scenario: Scenario) -> None:
    """Run the scenario's update, the strategy's own start, its metrics, and some steps."""
    run_update(scenario)
    engine = make_engine(scenario)
    engine.young_weights()
    began = start(engine, scenario.sparsity, scenario.clock)
    values = oracle_arrays().from_numpy(scenario.values)
    engine.start_values(began, engine.arrays.zeros_like(values, began.topology.size))
    snapshot = snapshot_before_update(engine, scenario)
    engine.metrics(snapshot.state)
    for state in (began, snapshot.state):
        engine.visible_weights(state)
    run_steps(engine, scenario, snapshot, range(4))


def _check_errors(subject: StrategySubject, scenario: Scenario) -> None:
    try:
        _call_all_hooks(subject, scenario)
    except (InputError, NoRoomError, DivergedError) as error:
        expect(not is_strategy_error(error, scenario), f"{type(error).__name__} {hook_note(error)}: {error}")
        raise


def _check_start(subject: StrategySubject, scenario: Scenario) -> None:
    layout, sparsity = scenario.layout, scenario.sparsity
    engine = make_engine(scenario)
    state = start(engine, sparsity, scenario.clock)
    topology = state.topology
    _check_positions(topology)
    size = int(engine.visible_weights(state).counts.sum())
    wanted, budget = (1 - sparsity) * layout.size, int(uniform(layout, sparsity).sum())
    multiples = _start_multiples(subject, scenario)
    uneven = [name for name, rest in zip(layout.names, topology.counts % multiples, strict=True) if rest]
    expect(not uneven, f"the tensors start with {topology.counts} weights, but multiples of {multiples} are declared")
    tolerance = int(multiples.sum())
    most = max(budget, math.ceil(wanted) + tolerance) if subject.uses_default("target_size") else layout.size
    expect(
        min(budget, math.floor(wanted) - tolerance) <= size <= most,
        f"the network starts with {size} weights of {layout.size}; sparsity {sparsity} means about {wanted:.1f}, and "
        f"at most {tolerance} more or fewer",
    )


def _start_multiples(subject: StrategySubject, scenario: Scenario) -> Counts:
    """Return, for each tensor, the number that its number of weights at the start must be a multiple of."""
    start_multiples = declarations(subject, scenario.stack, "initial_topology").start_multiples
    return np.ones(len(scenario.layout), np.int64) if start_multiples is None else start_multiples(scenario.layout)


def _check_positions(topology: Topology) -> None:
    """Check the positions by Python's sets, independently of the engine."""
    positions = topology.host_positions.tolist()
    expect(positions == sorted(set(positions)), "the initial positions are not ascending and distinct")
    expect(all(0 <= position < topology.layout.size for position in positions), "an initial position is out of bounds")


_TIMING_HOOKS = ("update_due", "replaces_step")


def _check_timing(_: StrategySubject, scenario: Scenario) -> None:
    earlier = range(1, min(scenario.clock.step, 11) + 1)
    clocks = [scenario.clock, *(attrs.evolve(scenario.clock, step=step) for step in earlier)]
    for hook in _TIMING_HOOKS:
        once, again = _timing(hook, scenario, clocks), _timing(hook, scenario, clocks[::-1])[::-1]
        changed = [clock.step for clock, one, other in zip(clocks, once, again, strict=True) if one != other]
        expect(not changed, f"what {hook!r} returns for step {changed[:1]} depends on the calls before")


def _timing(hook: str, scenario: Scenario, clocks: list[Clock]) -> list[bool]:
    """Call a hook at these times, in this order."""
    stack = fresh_copies(scenario.stack)
    strategy_states = snapshot_before_update(make_engine(scenario, stack=stack), scenario).state.strategy_states
    hooks = StrategyStack(stack)
    return [check_bool(hooks.first_result(hook, clock=clock, strategy_state=strategy_states), hook) for clock in clocks]


def _check_young_weights(_: StrategySubject, scenario: Scenario) -> None:
    engine = make_engine(scenario)
    first, other = engine.young_weights(), engine.young_weights()
    expect(first == other, f"'young_weights' returns {first}, and {other} when it is called again")


HOOK_RESULTS = (
    Promise(
        "no-errors",
        "no hook raises an error, except to refuse a network at the start or a run whose end is not known",
        scenarios,
        _check_errors,
        errors=True,
    ),
    Promise(
        "start",
        "the initial positions are ascending, distinct, within bounds, in every tensor, and of the requested sparsity "
        "(of the weights in forward_view), or of a lower one if target_size is implemented",
        scenarios,
        _check_start,
        hooks=("initial_topology",),
        fraction=0.5,
    ),
    Promise(
        "due",
        "update_due and replaces_step return True or False, the same however often they are called",
        scenarios,
        _check_timing,
        _TIMING_HOOKS,
        fraction=0.5,
    ),
    Promise(
        "young",
        "young_weights returns a YoungWeights with factors from 0 to 1, the same whenever it is called",
        scenarios,
        _check_young_weights,
        hooks=("young_weights",),
        fraction=0.1,
    ),
    Promise(
        "prune",
        "prune and revise_pruning return one bool for each weight",
        scenarios,
        _run_update,
        hooks=("prune", "revise_pruning"),
    ),
    Promise(
        "shares",
        "allocate returns whole numbers that fit the room of each tensor and sum to the number of weights to grow",
        scenarios,
        _run_update,
        hooks=("allocate",),
    ),
    Promise(
        "growth",
        "grow returns as many positions as allocated: ascending, distinct, within bounds, not active or just pruned",
        scenarios,
        _run_update,
        hooks=("grow",),
    ),
    Promise(
        "values",
        "perturb_gradient, perturb, start_values and initial_values return N finite numbers of the given dtype, "
        "initial_momentum of any",
        scenarios,
        _call_all_hooks,
        hooks=("start_values", "perturb_gradient", "perturb", "initial_values", "initial_momentum"),
    ),
    Promise(
        "view",
        "forward_view returns one bool for each weight, and lets at least one of each tensor take part",
        scenarios,
        _call_all_hooks,
        hooks=("forward_view",),
    ),
    Promise(
        "state",
        "strategy states can be saved, and have one entry a weight or a position where marked so; metrics are finite",
        scenarios,
        _call_all_hooks,
        ("strategy_state", "metrics"),
        fraction=0.5,
    ),
)
