"""Promises about the optimizer: its steps follow its formulas, and its state follows the weights of a reallocation."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import attrs
import numpy as np
from hypothesis.strategies import SearchStrategy

from sparsecore.engine.gradients import entries_at
from sparsecore.engine.growth import random_free_positions
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.young_weights import YoungWeights
from sparsecore.learning.protocols import Adam, AdamW, Learner, Sgd
from sparsecore.testing.backend_promises.training_scenarios import (
    CLASSES,
    PLAIN_SGD,
    SHAPE,
    HostArray,
    TrainingScenario,
    errors_break_promise,
    gradient,
    reallocate_once,
    relative_error,
    to_host,
    training_scenarios,
)
from sparsecore.testing.promises import BrokenPromiseError, Promise, expect
from sparsecore.testing.subjects import BackendSubject, oracle

_RATE = 0.1
_STEPS = 3
_MOMENTUM = 0.9

_Moments: TypeAlias = tuple[HostArray, HostArray]
"""The state of an optimizer: the first and the second moment of each weight (SGD's momentum is the first)."""


def _sgd(rule: Sgd, w: HostArray, g: HostArray, moments: _Moments, _: int) -> tuple[HostArray, _Moments]:
    d = g + rule.weight_decay * w
    v = rule.momentum * moments[0] + d
    return w - _RATE * (d + rule.momentum * v if rule.nesterov else v), (v, moments[1])


def _adam(rule: Adam, w: HostArray, g: HostArray, moments: _Moments, t: int) -> tuple[HostArray, _Moments]:
    d = g + rule.weight_decay * w
    first, second = rule.betas
    m, s = first * moments[0] + (1 - first) * d, second * moments[1] + (1 - second) * d**2
    down = np.sqrt(s / (1 - second**t)) + rule.epsilon
    return w - _RATE * m / (1 - first**t) / down, (m, s)


def _adamw(rule: AdamW, w: HostArray, g: HostArray, moments: _Moments, t: int) -> tuple[HostArray, _Moments]:
    decayed = w - _RATE * rule.weight_decay * w
    return _adam(Adam(rule.betas, rule.epsilon), decayed, g, moments, t)


_RULES: Mapping[type, Callable[..., tuple[HostArray, _Moments]]] = MappingProxyType(
    {Sgd: _sgd, Adam: _adam, AdamW: _adamw}
)


@errors_break_promise
def _check_formula(subject: BackendSubject, scenario: TrainingScenario) -> None:
    backend = subject.most_precise
    learner = scenario.learner(backend)
    values = to_host(backend, learner.values)
    moments = (np.zeros_like(values), np.zeros_like(values))
    for t in range(1, _STEPS + 1):
        slope = gradient(scenario, backend, values, scenario.batch(t))
        values, moments = _RULES[type(scenario.optimizer)](scenario.optimizer, values, slope, moments, t)
        learner.train(scenario.batch(t), _RATE)
        error = relative_error(to_host(backend, learner.values), values)
        tolerance = 10 * subject.tolerance(backend)
        expect(error <= tolerance, f"after step {t} of {scenario.optimizer} the values are off by {error:.2g}")
        values = to_host(backend, learner.values)


def _with_momentum(scenario: TrainingScenario) -> TrainingScenario:
    return attrs.evolve(scenario, optimizer=Sgd(momentum=_MOMENTUM, nesterov=False))


def _first_velocity(scenario: TrainingScenario, learner: Learner, subject: BackendSubject) -> HostArray:
    """Take a first step of learning rate 1, and return the momentum after it, which is the gradient."""
    before = to_host(subject.most_precise, learner.values)
    learner.train(scenario.batch(0), 1.0)
    return before - to_host(subject.most_precise, learner.values)


def _check_second_step(
    scenario: TrainingScenario,
    learner: Learner,
    subject: BackendSubject,
    velocity: HostArray,
    start: tuple[Any, HostArray],
) -> None:
    """Check that a second step of learning rate 1 is the gradient and the momentum times the given velocity."""
    topology, values = start
    slope = gradient(scenario, subject.most_precise, values, scenario.batch(1), topology)
    learner.train(scenario.batch(1), 1.0)
    got = values - to_host(subject.most_precise, learner.values) - slope
    error = relative_error(got, _MOMENTUM * velocity)
    expect(
        error <= 50 * subject.tolerance(subject.most_precise),
        f"the momentum after it is off by {error:.2g} of its largest entry",
    )


@errors_break_promise
def _check_set_values(subject: BackendSubject, scenario: TrainingScenario) -> None:
    backend, scenario = subject.most_precise, _with_momentum(scenario)
    learner, state = scenario.learner(backend), scenario.start(backend)
    velocity = _first_velocity(scenario, learner, subject)
    values = scenario.values(state.topology) / 2
    learner.set_values(backend.arrays.from_numpy(values.astype(backend.dtype)))
    expect(relative_error(to_host(backend, learner.values), values) < 1e-6, "the values are not those that were set")
    _check_second_step(scenario, learner, subject, velocity, (state.topology, to_host(backend, learner.values)))


@errors_break_promise
def _check_weight_gradient(subject: BackendSubject, scenario: TrainingScenario) -> None:
    backend = subject.most_precise
    learner = scenario.learner(backend, optimizer=PLAIN_SGD)
    learner.backward(scenario.batch())
    before, got = to_host(backend, learner.values), to_host(backend, learner.weight_gradient)
    error = relative_error(got, gradient(scenario, backend, before, scenario.batch()))
    expect(error <= 10 * subject.tolerance(backend), f"the gradient is off by {error:.2g} of its largest entry")
    given = (1 - 3 * got).astype(backend.dtype)
    learner.set_weight_gradient(backend.arrays.from_numpy(given))
    learner.optimizer_step(_RATE)
    error = relative_error(before - to_host(backend, learner.values), _RATE * given)
    expect(error <= 10 * subject.tolerance(backend), f"the step after it is off by {error:.2g} of its largest entry")


@errors_break_promise
def _check_reallocation(subject: BackendSubject, scenario: TrainingScenario) -> None:
    backend, scenario = subject.most_precise, _with_momentum(scenario)
    learner, state = scenario.learner(backend), scenario.start(backend)
    velocity = _first_velocity(scenario, learner, subject)
    after, reallocation = reallocate_once(scenario, backend, state, learner.values)
    learner.reallocate(reallocation)
    values = to_host(backend, learner.values)
    expect(
        np.array_equal(values, to_host(backend, reallocation.values)), "the values are not those of the reallocation"
    )
    before, now = (to_host(backend, topology.positions).tolist() for topology in (state.topology, after.topology))
    survives = to_host(backend, reallocation.survives).tolist()
    left = {p: v for p, v, stays in zip(before, velocity.tolist(), survives, strict=True) if stays}
    carried = np.array([left.get(position, 0.0) for position in now])
    _check_second_step(scenario, learner, subject, carried, (after.topology, values))


@errors_break_promise
def _check_momentum(subject: BackendSubject, scenario: TrainingScenario) -> None:
    backend, scenario = subject.most_precise, _with_momentum(scenario)
    learner, state = scenario.learner(backend), scenario.start(backend)
    if not hasattr(learner, "momentum"):
        return
    names = state.topology.layout.names
    velocity = _first_velocity(scenario, learner, subject)
    given = np.concatenate([to_host(backend, learner.momentum(name)) for name in names])
    error = relative_error(given, velocity)
    expect(error <= 50 * subject.tolerance(backend), f"momentum() is off by {error:.2g} of its largest entry")
    after, reallocation = reallocate_once(scenario, backend, state, learner.values)
    grown = to_host(backend, reallocation.grown_positions).tolist()
    chosen = np.random.default_rng(scenario.seed).normal(size=len(grown)).astype(backend.dtype)
    learner.reallocate(attrs.evolve(reallocation, momentum=backend.arrays.from_numpy(chosen.copy())))
    carried = to_host(backend, reallocation.carry(backend.arrays.from_numpy(velocity.astype(backend.dtype))))
    position_of = {position: slot for slot, position in enumerate(to_host(backend, after.topology.positions).tolist())}
    carried[[position_of[position] for position in grown]] = chosen
    _check_second_step(scenario, learner, subject, carried, (after.topology, to_host(backend, learner.values)))
    others = [Adam(), AdamW(), PLAIN_SGD]
    wrong = [rule for rule in others if _has_momentum(scenario.learner(backend, optimizer=rule), names)]
    expect(not wrong, f"momentum() returned something with {', '.join(map(str, wrong))}")


def _has_momentum(learner: Any, names: tuple[str, ...]) -> bool:
    return any(learner.momentum(name) is not None for name in names)


@errors_break_promise
def _check_dense_gradients(subject: BackendSubject, scenario: TrainingScenario) -> None:
    backend, batch = subject.most_precise, scenario.batch()
    topology = scenario.start(backend).topology
    learner, values = scenario.learner(backend, optimizer=PLAIN_SGD), scenario.values(topology)
    dense = learner.backward(batch, dense=True)
    if dense is None:
        raise BrokenPromiseError("backward(dense=True) returned no dense gradients")
    got = np.concatenate([to_host(backend, dense(name)) for name in topology.layout.names])
    active = to_host(backend, topology.positions).astype(np.int64)
    everywhere = np.zeros(topology.layout.size)
    everywhere[active] = values
    full = topology.at(backend.arrays.arange(topology.layout.size, topology.layout.position_dtype))
    error = relative_error(got, gradient(scenario, backend, everywhere, batch, full))
    expect(error <= 10 * subject.tolerance(backend), f"the dense gradient is off by {error:.2g} of its largest entry")
    learner.optimizer_step(1.0)
    error = relative_error(values - to_host(backend, learner.values), got[active])
    expect(error <= 10 * subject.tolerance(backend), f"the step after it is off by {error:.2g} of its largest entry")


@errors_break_promise
def _check_fewer_gradients(subject: BackendSubject, scenario: TrainingScenario) -> None:
    backend, batch = subject.most_precise, scenario.batch()
    topology = scenario.start(backend).topology
    learner: Any = scenario.learner(backend, optimizer=PLAIN_SGD)
    dense = scenario.learner(backend, optimizer=PLAIN_SGD).backward(batch, dense=True)
    candidates = topology.at(random_free_positions(topology, (topology.room + 1) // 2, Randomness(0)))
    found = {}
    if hasattr(learner, "backward_at"):
        found["at candidates"] = (learner.backward_at(batch, candidates), candidates)
    else:
        learner.backward(batch)
    found["of the active weights"] = (learner.weight_gradient, topology)
    for what, (gradients, positions) in found.items():
        expected = to_host(backend, entries_at(dense, positions)) if dense else np.zeros(positions.size)
        error = relative_error(to_host(backend, gradients), expected)
        expect(
            len(expected) == len(gradients) and error <= 10 * subject.tolerance(backend),
            f"the gradients {what} are off by {error:.2g} of the largest",
        )


@errors_break_promise
def _check_input_norms(subject: BackendSubject, scenario: TrainingScenario) -> None:
    backend, batch = subject.most_precise, scenario.batch()
    learners: list[Any] = [scenario.learner(backend), scenario.learner(oracle())]
    if not hasattr(learners[0], "measure_inputs"):
        return
    ours, expected = (learner.measure_inputs() for learner in learners)
    for learner in learners:
        learner.backward(batch, dense=bool(scenario.seed % 2))
    for parameter in scenario.network.parameters(SHAPE, CLASSES):
        if parameter.sparse and len(parameter.shape) > 1:
            got, reference = to_host(backend, ours(parameter.name)), to_host(oracle(), expected(parameter.name))
            error = relative_error(got, reference) if got.shape == reference.shape else np.inf
            expect(
                error <= max(1e-6, 10 * subject.tolerance(backend)),
                f"the norms of the inputs of {parameter.name!r} differ from the oracle's by {error:.2g} of the largest",
            )


def _is_not_oracle(subject: BackendSubject) -> bool:
    return not subject.is_oracle


_YOUNG = (YoungWeights(own_steps=True), YoungWeights(own_steps=True, warm_up=3), YoungWeights(warm_up=2))


@errors_break_promise
def _check_young_weights(subject: BackendSubject, scenario: TrainingScenario) -> None:
    """Check the steps after a reallocation, the last of them by a learner that has loaded a state."""
    backend, young = subject.most_precise, _YOUNG[scenario.seed % len(_YOUNG)]
    if not getattr(backend, "corrects_young_weights", False):
        return
    rule = (Adam, AdamW)[scenario.seed // 3 % 2](epsilon=1e-3, weight_decay=0.1)
    scenario = attrs.evolve(scenario, optimizer=rule, young=young)
    learner, state = scenario.learner(backend), scenario.start(backend)
    topology, moments = state.topology, (np.zeros(state.topology.size), np.zeros(state.topology.size))
    ages = np.full(topology.size, -1)
    for step in range(1, 5):
        if step == 3:
            after, reallocation = reallocate_once(scenario, backend, state, learner.values)
            learner.reallocate(reallocation)
            topology, sources = after.topology, to_host(backend, reallocation.sources).astype(np.int64)
            first, second, ages = (np.append(one, 0)[sources] for one in (*moments, ages))
            moments = first, second
        if step == 4:
            saved, learner = learner.state(), scenario.learner(backend, topology=topology)
            learner.load_state(topology, saved)
        values = to_host(backend, learner.values)
        slope = gradient(scenario, backend, values, scenario.batch(step), topology)
        ages = np.where(ages < 0, ages, ages + 1)
        own = np.where((ages > 0) & young.own_steps, ages, step)
        damping = np.where(ages > 0, young.damping(np.maximum(ages, 1)), 1.0)
        kept, moments = _RULES[type(rule)](rule, values, slope, moments, own)
        decayed = values * (1 - _RATE * rule.weight_decay) if type(rule) is AdamW else values
        learner.train(scenario.batch(step), _RATE)
        error = relative_error(to_host(backend, learner.values), decayed + damping * (kept - decayed))
        expect(
            error <= 10 * subject.tolerance(backend),
            f"in step {step} of {rule}, of which two precede a reallocation, the values are off by {error:.2g} of the "
            f"largest with young weights {young}",
        )


def _any_operation(_: BackendSubject) -> SearchStrategy[TrainingScenario]:
    return training_scenarios()


OPTIMIZER_STEP = (
    Promise(
        "dense-gradients",
        "the dense gradient is that of the network with a zero at every inactive position",
        _any_operation,
        _check_dense_gradients,
        fraction=0.1,
    ),
    Promise(
        "fewer-gradients",
        "the gradients of active weights, and at candidates where a learner computes these, are those of the dense one",
        _any_operation,
        _check_fewer_gradients,
        fraction=0.1,
    ),
    Promise(
        "input-norms",
        "the norms of the inputs of layers, where a learner measures them, are the oracle's",
        _any_operation,
        _check_input_norms,
        applies=_is_not_oracle,
        fraction=0.05,
    ),
    Promise("optimizers", "SGD, Adam and AdamW follow their formulas", _any_operation, _check_formula, fraction=0.12),
    Promise(
        "young-weights",
        "weights that have grown take the steps of Adam that the run says, and a saved state has their ages",
        _any_operation,
        _check_young_weights,
        fraction=0.08,
    ),
    Promise(
        "set-values", "setting the values keeps the optimizer's state", _any_operation, _check_set_values, fraction=0.08
    ),
    Promise(
        "weight-gradient",
        "weight_gradient is the gradient of the N values, and a step is by the one that was set",
        _any_operation,
        _check_weight_gradient,
        fraction=0.05,
    ),
    Promise(
        "reallocation",
        "after a reallocation, survivors keep their optimizer state, and that of grown weights is zero",
        _any_operation,
        _check_reallocation,
        fraction=0.08,
    ),
    Promise(
        "momentum",
        "a learner with momentum() returns SGD's, and grown weights go on with the momentum that strategies chose",
        _any_operation,
        _check_momentum,
        fraction=0.08,
    ),
)
