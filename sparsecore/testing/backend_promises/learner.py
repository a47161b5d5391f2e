"""The learner as a training loop meets it: sums, evaluation, saving, and twenty steps beside the oracle."""

from functools import partial

import attrs
import numpy as np
from hypothesis.strategies import SearchStrategy

from sparsecore.data.images import Split
from sparsecore.engine.state import State
from sparsecore.learning.protocols import Backend, Learner, Sgd, Totals
from sparsecore.testing.backend_promises.exercises import (
    OPERATIONS,
    PLAIN,
    Exercise,
    distance,
    exercises,
    gradient,
    guarded,
    host,
    images,
    loss,
    moved,
)
from sparsecore.testing.backend_subjects import BackendSubject, oracle
from sparsecore.testing.promises import Promise, expect

_STEP = 1e-4


@guarded
def _compare(subject: BackendSubject, exercise: Exercise) -> None:
    backend, reference = subject.finest, oracle("float64")
    values, batch = exercise.values(exercise.start(reference).topology), exercise.batch()
    got = gradient(exercise, backend, values, batch)
    if not subject.is_oracle:
        tolerance = subject.tolerance(backend)
        one, other = (loss(exercise, each, values, batch) for each in (backend, reference))
        expect(abs(one - other) <= tolerance * max(1, abs(other)), f"the loss is {one}, and {other} on the oracle")
        far = distance(got, gradient(exercise, reference, values, batch))
        expect(far <= tolerance, f"the gradient is off the oracle's by {far:.2g} of its largest entry")
    if backend.dtype == "float64":
        _check_slope(exercise, subject, got, values)


def _check_slope(exercise: Exercise, subject: BackendSubject, got: np.ndarray, values: np.ndarray) -> None:
    """Along a random direction, the loss grows as the gradient says."""
    direction = np.random.default_rng(exercise.seed).standard_normal(len(values))
    direction *= _STEP / np.linalg.norm(direction)
    batch = exercise.batch()
    above, below = (loss(exercise, subject.finest, values + way * direction, batch) for way in (1, -1))
    slope, expected = (above - below) / 2, float(got @ direction)
    scale = max(float(np.linalg.norm(got)) * _STEP, 1e-9)
    expect(
        abs(slope - expected) <= 1e-3 * scale,
        f"along a direction the loss grows by {slope:.6g} a step, and by the gradient it would by {expected:.6g}",
    )


def _exercises(operation: str, _: BackendSubject) -> SearchStrategy[Exercise]:
    return exercises(operation)


GRADIENTS = tuple(
    Promise(
        f"gradient-{operation}",
        f"{operation} and its gradient are the oracle's, and the gradient is that of the loss",
        partial(_exercises, operation),
        _compare,
        share=0.08,
    )
    for operation in OPERATIONS
)


_RATE = 0.05
_STEPS = 20

_BATCHES = 6
"""So many that errors of rounding in each batch's sums hardly ever cancel."""


def _same(one: Totals, other: Totals, tolerance: float) -> bool:
    near = abs(one.loss - other.loss) <= tolerance * max(1.0, abs(other.loss))
    return near and (one.correct, one.examples) == (other.correct, other.examples)


@guarded
def _counts(subject: BackendSubject, exercise: Exercise) -> None:
    backend = subject.finest
    together, sums = exercise.learner(backend), Totals()
    for number in range(_BATCHES):
        alone = exercise.learner(backend)
        alone.train(exercise.batch(number), 0.0)
        one = alone.totals()
        sums = Totals(sums.loss + one.loss, sums.correct + one.correct, sums.examples + one.examples)
        together.train(exercise.batch(number), 0.0)
    got = together.totals()
    expect(_same(got, sums, 1e-5), f"{_BATCHES} batches together have {got}; one by one {sums}")
    together.reset_totals()
    expect(together.totals() == Totals(), f"after reset_totals there is {together.totals()}")


@guarded
def _evaluates(subject: BackendSubject, exercise: Exercise) -> None:
    backend = subject.finest
    learner = _trained(exercise, backend, 3)
    before, test = host(backend, learner.values), images().test
    whole = learner.evaluate(test)
    parts = [learner.evaluate(Split(test.images[i : i + 1], test.labels[i : i + 1])) for i in range(len(test))]
    sums = Totals(sum(p.loss for p in parts), sum(p.correct for p in parts), sum(p.examples for p in parts))
    expect(_same(whole, sums, 1e-4), f"a split has {whole}; its images one by one {sums}")
    expect(np.array_equal(before, host(backend, learner.values)), "evaluation has changed the values")
    if not subject.is_oracle:
        expected = _trained(exercise, oracle("float64"), 3).evaluate(test)
        tolerance = 50 * subject.tolerance(backend)
        expect(_same(whole, expected, tolerance), f"the test images have {whole}; on the oracle {expected}")


def _trained(exercise: Exercise, backend: Backend, steps: int) -> Learner:
    learner = exercise.learner(backend)
    for number in range(steps):
        learner.train(exercise.batch(number, varied=True), _RATE)
    return learner


@guarded
def _goes_on(subject: BackendSubject, exercise: Exercise) -> None:
    backend = subject.backend
    learner = _trained(exercise, backend, 2)
    state, reallocation = moved(exercise, backend, exercise.start(backend), learner.values)
    learner.reallocate(reallocation)
    saved = learner.state()
    copy = {name: np.array(buffer) for name, buffer in saved.items()}
    resumed = exercise.learner(backend)
    learner.train(exercise.batch(2), _RATE)
    changed = [name for name, buffer in copy.items() if not np.array_equal(buffer, saved[name], equal_nan=True)]
    expect(not changed, f"what was saved changes with training: {', '.join(changed)}")
    resumed.load_state(state.topology, copy)
    resumed.train(exercise.batch(2), _RATE)
    for each in (learner, resumed):
        each.train(exercise.batch(3), _RATE)
    first, second = learner.state(), resumed.state()
    differing = [name for name in first if not np.array_equal(first[name], second[name], equal_nan=True)]
    expect(not differing, f"a resumed learner ends with another {', '.join(differing)}")


@guarded
def _tells_all(subject: BackendSubject, exercise: Exercise) -> None:
    backend = subject.backend
    exercise = attrs.evolve(exercise, optimizer=PLAIN, network=attrs.evolve(exercise.network, dense="last"))
    learner = _trained(exercise, backend, 2)
    state, test = exercise.start(backend), images().test
    values = learner.state().get("values", np.zeros(0))
    expect(np.array_equal(values, host(backend, learner.values)), f"the saved state has {values} for 'values'")
    again = exercise.learner(backend, host(backend, learner.values), state.topology, learner.other_parameters())
    for step in range(2):
        got, expected = again.evaluate(test), learner.evaluate(test)
        expect(got == expected, f"a learner that starts where another was has {got} after {step} steps, not {expected}")
        for each in (learner, again):
            each.train(exercise.batch(2), _RATE)


@guarded
def _learns(subject: BackendSubject, exercise: Exercise) -> None:
    backend = subject.backend
    exercise = attrs.evolve(exercise, optimizer=Sgd(), sparsity=0.3)
    learner = exercise.learner(backend)
    first = learner.evaluate(images().train).loss
    for number in range(2 * _STEPS):
        learner.train(exercise.batch(number), _RATE)
    last = learner.evaluate(images().train).loss
    expect(
        last < 0.7 * first, f"after {2 * _STEPS} steps the training loss is {last:.3f}; at the start it was {first:.3f}"
    )
    dtype = str(backend.arrays.to_numpy(learner.values).dtype)
    expect(dtype == backend.dtype, f"values are of {dtype}; the backend says {backend.dtype}")


@attrs.frozen(eq=False)
class _Beside:
    """A learner, and the engine's state that belongs to it."""

    backend: Backend
    learner: Learner
    state: State

    def stepped(self, exercise: Exercise, number: int) -> "_Beside":
        """After a step, and after an update in every fifth."""
        self.learner.train(exercise.batch(number, varied=True), _RATE)
        if number % 5 != 4:
            return self
        state, reallocation = moved(exercise, self.backend, self.state, self.learner.values)
        self.learner.reallocate(reallocation)
        return attrs.evolve(self, state=state)


@guarded
def _agrees(subject: BackendSubject, exercise: Exercise) -> None:
    one, other = (
        _Beside(backend, exercise.learner(backend), exercise.start(backend))
        for backend in (subject.finest, oracle("float64"))
    )
    tolerance = 100 * subject.tolerance(subject.finest)
    for number in range(_STEPS):
        one, other = one.stepped(exercise, number), other.stepped(exercise, number)
        positions = [host(each.backend, each.state.topology.positions).tolist() for each in (one, other)]
        expect(positions[0] == positions[1], f"after step {number + 1} the positions differ from the oracle's")
        far = distance(*(host(each.backend, each.learner.values) for each in (one, other)))
        expect(far <= tolerance, f"after step {number + 1} the values are off the oracle's by {far:.2g}")


def _is_another(subject: BackendSubject) -> bool:
    return not subject.is_oracle


def _any(_: BackendSubject) -> SearchStrategy[Exercise]:
    return exercises()


def _with_statistics(_: BackendSubject) -> SearchStrategy[Exercise]:
    return exercises("batch-norm")


def _easy(_: BackendSubject) -> SearchStrategy[Exercise]:
    return exercises("relu")


LEARNING = (
    Promise(
        "totals", "loss, hits and examples are summed over batches, until they are reset", _any, _counts, share=0.08
    ),
    Promise(
        "evaluation",
        "evaluation looks at each image by itself, and changes nothing",
        _with_statistics,
        _evaluates,
        share=0.08,
    ),
    Promise(
        "resume",
        "a learner goes on from its saved state bit for bit, and what was saved stays",
        _any,
        _goes_on,
        share=0.1,
    ),
    Promise(
        "dense",
        "a learner that starts at the values and dense parameters of another one goes on as it does",
        _with_statistics,
        _tells_all,
        share=0.05,
    ),
    Promise("learns", "training brings the loss down", _easy, _learns, share=0.03),
    Promise(
        "agreement",
        "twenty steps with updates lead where the oracle's lead",
        _with_statistics,
        _agrees,
        applies=_is_another,
        share=0.04,
    ),
)
