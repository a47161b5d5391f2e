"""The optimizer's step, told as its formulas, and what becomes of its state when weights move."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
from hypothesis.strategies import SearchStrategy

from sparsecore.learning.protocols import Adam, AdamW, Learner, Sgd
from sparsecore.testing.backend_promises.exercises import (
    PLAIN,
    Exercise,
    Host,
    distance,
    exercises,
    gradient,
    guarded,
    host,
    moved,
)
from sparsecore.testing.backend_subjects import BackendSubject
from sparsecore.testing.promises import BrokenError, Promise, expect

_RATE = 0.1
_STEPS = 3
_MOMENTUM = 0.9


def _sgd(rule: Sgd, w: Host, g: Host, kept: tuple[Host, Host], _: int) -> tuple[Host, tuple[Host, Host]]:
    d = g + rule.weight_decay * w
    v = rule.momentum * kept[0] + d
    return w - _RATE * (d + rule.momentum * v if rule.nesterov else v), (v, kept[1])


def _adam(rule: Adam, w: Host, g: Host, kept: tuple[Host, Host], t: int) -> tuple[Host, tuple[Host, Host]]:
    d = g + rule.weight_decay * w
    first, second = rule.betas
    m, s = first * kept[0] + (1 - first) * d, second * kept[1] + (1 - second) * d**2
    down = np.sqrt(s / (1 - second**t)) + rule.epsilon
    return w - _RATE * m / (1 - first**t) / down, (m, s)


def _adamw(rule: AdamW, w: Host, g: Host, kept: tuple[Host, Host], t: int) -> tuple[Host, tuple[Host, Host]]:
    decayed = w - _RATE * rule.weight_decay * w
    return _adam(Adam(rule.betas, rule.epsilon), decayed, g, kept, t)


_RULES: Mapping[type, Callable[..., tuple[Host, tuple[Host, Host]]]] = MappingProxyType(
    {Sgd: _sgd, Adam: _adam, AdamW: _adamw}
)


@guarded
def _follows_formula(subject: BackendSubject, exercise: Exercise) -> None:
    backend = subject.finest
    learner = exercise.learner(backend)
    values = host(backend, learner.values)
    kept = (np.zeros_like(values), np.zeros_like(values))
    for t in range(1, _STEPS + 1):
        slope = gradient(exercise, backend, values, exercise.batch(t))
        values, kept = _RULES[type(exercise.optimizer)](exercise.optimizer, values, slope, kept, t)
        learner.train(exercise.batch(t), _RATE)
        far = distance(host(backend, learner.values), values)
        tolerance = 10 * subject.tolerance(backend)
        expect(far <= tolerance, f"after step {t} of {exercise.optimizer} the values are off by {far:.2g}")
        values = host(backend, learner.values)


def _with_momentum(exercise: Exercise) -> Exercise:
    return attrs.evolve(exercise, optimizer=Sgd(momentum=_MOMENTUM, nesterov=False))


def _first_velocity(exercise: Exercise, learner: Learner, subject: BackendSubject) -> Host:
    """What the first step of length 1 leaves behind: the first gradient."""
    before = host(subject.finest, learner.values)
    learner.train(exercise.batch(0), 1.0)
    return before - host(subject.finest, learner.values)


def _check_second(
    exercise: Exercise, learner: Learner, subject: BackendSubject, velocity: Host, start: tuple[Any, Host]
) -> None:
    """The second step of length 1 is the momentum times what was left behind, and the gradient."""
    topology, values = start
    slope = gradient(exercise, subject.finest, values, exercise.batch(1), topology)
    learner.train(exercise.batch(1), 1.0)
    got = values - host(subject.finest, learner.values) - slope
    far = distance(got, _MOMENTUM * velocity)
    expect(
        far <= 50 * subject.tolerance(subject.finest), f"the momentum after it is off by {far:.2g} of its largest entry"
    )


@guarded
def _keeps_momentum(subject: BackendSubject, exercise: Exercise) -> None:
    backend, exercise = subject.finest, _with_momentum(exercise)
    learner, state = exercise.learner(backend), exercise.start(backend)
    velocity = _first_velocity(exercise, learner, subject)
    values = exercise.values(state.topology) / 2
    learner.set_values(backend.arrays.from_numpy(values.astype(backend.dtype)))
    expect(distance(host(backend, learner.values), values) < 1e-6, "the values are not those that were set")
    _check_second(exercise, learner, subject, velocity, (state.topology, host(backend, learner.values)))


@guarded
def _carries_momentum(subject: BackendSubject, exercise: Exercise) -> None:
    backend, exercise = subject.finest, _with_momentum(exercise)
    learner, state = exercise.learner(backend), exercise.start(backend)
    velocity = _first_velocity(exercise, learner, subject)
    after, reallocation = moved(exercise, backend, state, learner.values)
    learner.reallocate(reallocation)
    values = host(backend, learner.values)
    expect(np.array_equal(values, host(backend, reallocation.values)), "the values are not those of the reallocation")
    before, now = (host(backend, topology.positions).tolist() for topology in (state.topology, after.topology))
    survives = host(backend, reallocation.survives).tolist()
    left = {p: v for p, v, stays in zip(before, velocity.tolist(), survives, strict=True) if stays}
    carried = np.array([left.get(position, 0.0) for position in now])
    _check_second(exercise, learner, subject, carried, (after.topology, values))


@guarded
def _is_whole(subject: BackendSubject, exercise: Exercise) -> None:
    backend, batch = subject.finest, exercise.batch()
    topology = exercise.start(backend).topology
    learner, values = exercise.learner(backend, optimizer=PLAIN), exercise.values(topology)
    dense = learner.backward(batch, dense=True)
    if dense is None:
        raise BrokenError("backward(dense=True) returned no dense gradients")
    got = np.concatenate([host(backend, dense(name)) for name in topology.layout.names])
    active = host(backend, topology.positions).astype(np.int64)
    everywhere = np.zeros(topology.layout.size)
    everywhere[active] = values
    full = topology.at(backend.arrays.arange(topology.layout.size, topology.layout.position_dtype))
    far = distance(got, gradient(exercise, backend, everywhere, batch, full))
    expect(far <= 10 * subject.tolerance(backend), f"the dense gradient is off by {far:.2g} of its largest entry")
    learner.optimizer_step(1.0)
    far = distance(values - host(backend, learner.values), got[active])
    expect(far <= 10 * subject.tolerance(backend), f"the step after it is off by {far:.2g} of its largest entry")


def _any(_: BackendSubject) -> SearchStrategy[Exercise]:
    return exercises()


DESCENT = (
    Promise(
        "dense-gradients",
        "the dense gradient is that of the network with a zero at every inactive position",
        _any,
        _is_whole,
        share=0.1,
    ),
    Promise("optimizers", "SGD, Adam and AdamW are their formulas", _any, _follows_formula, share=0.12),
    Promise("set-values", "values can be set, and the optimizer's state stays", _any, _keeps_momentum, share=0.08),
    Promise(
        "reallocation",
        "when weights move, the optimizer's state goes with the survivors and is zero where one has grown",
        _any,
        _carries_momentum,
        share=0.08,
    ),
)
