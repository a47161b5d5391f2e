"""Promises about a learner in a training loop: gradients, totals, evaluation, saving, and agreement with the oracle."""

from functools import partial

import attrs
import numpy as np
from hypothesis.strategies import SearchStrategy

from sparsecore.data.images import Split
from sparsecore.engine.state import State
from sparsecore.learning.protocols import Backend, Learner, Sgd, Totals
from sparsecore.testing.backend_promises.training_scenarios import (
    OPERATIONS,
    PLAIN_SGD,
    TrainingScenario,
    errors_break_promise,
    gradient,
    images,
    loss,
    reallocate_once,
    relative_error,
    to_host,
    training_scenarios,
)
from sparsecore.testing.promises import Promise, expect
from sparsecore.testing.subjects import BackendSubject, oracle

_DIFFERENCE_STEP = 1e-4
"""The length of the step by which a slope is estimated."""


@errors_break_promise
def _check_gradient(subject: BackendSubject, scenario: TrainingScenario) -> None:
    backend, reference = subject.most_precise, oracle("float64")
    values, batch = scenario.values(scenario.start(reference).topology), scenario.batch()
    got = gradient(scenario, backend, values, batch)
    if not subject.is_oracle:
        tolerance = subject.tolerance(backend)
        one, other = (loss(scenario, each, values, batch) for each in (backend, reference))
        expect(abs(one - other) <= tolerance * max(1, abs(other)), f"the loss is {one}; on the oracle it is {other}")
        error = relative_error(got, gradient(scenario, reference, values, batch))
        expect(error <= tolerance, f"the gradient differs from the oracle's by {error:.2g} of its largest entry")
    if backend.dtype == "float64":
        _check_slope(scenario, subject, got, values)


def _check_slope(scenario: TrainingScenario, subject: BackendSubject, got: np.ndarray, values: np.ndarray) -> None:
    """Check that the slope of the loss along a random direction is the one that the gradient gives."""
    direction = np.random.default_rng(scenario.seed).standard_normal(len(values))
    direction *= _DIFFERENCE_STEP / np.linalg.norm(direction)
    batch = scenario.batch()
    above, below = (loss(scenario, subject.most_precise, values + sign * direction, batch) for sign in (1, -1))
    slope, expected = (above - below) / 2, float(got @ direction)
    scale = max(float(np.linalg.norm(got)) * _DIFFERENCE_STEP, 1e-9)
    expect(
        abs(slope - expected) <= 1e-3 * scale,
        f"along a direction the loss grows by {slope:.6g}, but by {expected:.6g} according to the gradient",
    )


def _scenarios_of(operation: str, _: BackendSubject) -> SearchStrategy[TrainingScenario]:
    return training_scenarios(operation)


GRADIENTS = tuple(
    Promise(
        f"gradient-{operation}",
        f"{operation} and its gradient agree with the oracle, and the gradient with the loss",
        partial(_scenarios_of, operation),
        _check_gradient,
        fraction=0.08,
    )
    for operation in OPERATIONS
)


_RATE = 0.05
_STEPS = 20

_BATCHES = 6
"""Enough batches that rounding errors in their sums hardly ever cancel."""


def _is_close(one: Totals, other: Totals, tolerance: float) -> bool:
    near = abs(one.loss - other.loss) <= tolerance * max(1.0, abs(other.loss))
    return near and (one.correct, one.examples) == (other.correct, other.examples)


@errors_break_promise
def _check_totals(subject: BackendSubject, scenario: TrainingScenario) -> None:
    backend = subject.most_precise
    together, sums = scenario.learner(backend), Totals()
    for number in range(_BATCHES):
        alone = scenario.learner(backend)
        alone.train(scenario.batch(number), 0.0)
        one = alone.totals()
        sums = Totals(sums.loss + one.loss, sums.correct + one.correct, sums.examples + one.examples)
        together.train(scenario.batch(number), 0.0)
    got = together.totals()
    expect(_is_close(got, sums, 1e-5), f"{_BATCHES} batches together have {got}; the sums of single batches are {sums}")
    together.reset_totals()
    expect(together.totals() == Totals(), f"after reset_totals the totals are {together.totals()}")


@errors_break_promise
def _check_evaluation(subject: BackendSubject, scenario: TrainingScenario) -> None:
    backend = subject.most_precise
    learner = _trained(scenario, backend, 3)
    before, test = to_host(backend, learner.values), images().test
    whole = learner.evaluate(test)
    parts = [learner.evaluate(Split(test.images[i : i + 1], test.labels[i : i + 1])) for i in range(len(test))]
    sums = Totals(sum(p.loss for p in parts), sum(p.correct for p in parts), sum(p.examples for p in parts))
    expect(_is_close(whole, sums, 1e-4), f"a split has {whole}; the sums of its single images are {sums}")
    expect(np.array_equal(before, to_host(backend, learner.values)), "evaluation has changed the values")
    if not subject.is_oracle:
        expected = _trained(scenario, oracle("float64"), 3).evaluate(test)
        tolerance = 50 * subject.tolerance(backend)
        expect(
            _is_close(whole, expected, tolerance), f"the test images have {whole}; on the oracle they have {expected}"
        )


def _trained(scenario: TrainingScenario, backend: Backend, steps: int) -> Learner:
    learner = scenario.learner(backend)
    for number in range(steps):
        learner.train(scenario.batch(number, varied=True), _RATE)
    return learner


@errors_break_promise
def _check_resuming(subject: BackendSubject, scenario: TrainingScenario) -> None:
    backend = subject.backend
    learner = _trained(scenario, backend, 2)
    state, reallocation = reallocate_once(scenario, backend, scenario.start(backend), learner.values)
    learner.reallocate(reallocation)
    saved = learner.state()
    copy = {name: np.array(buffer) for name, buffer in saved.items()}
    resumed = scenario.learner(backend)
    learner.train(scenario.batch(2), _RATE)
    changed = [name for name, buffer in copy.items() if not np.array_equal(buffer, saved[name], equal_nan=True)]
    expect(not changed, f"training changes what was saved: {', '.join(changed)}")
    resumed.load_state(state.topology, copy)
    resumed.train(scenario.batch(2), _RATE)
    for each in (learner, resumed):
        each.train(scenario.batch(3), _RATE)
    first, second = learner.state(), resumed.state()
    differing = [name for name in first if not np.array_equal(first[name], second[name], equal_nan=True)]
    expect(not differing, f"a learner that was resumed ends with other {', '.join(differing)}")


@errors_break_promise
def _check_other_parameters(subject: BackendSubject, scenario: TrainingScenario) -> None:
    backend = subject.backend
    scenario = attrs.evolve(scenario, optimizer=PLAIN_SGD, network=attrs.evolve(scenario.network, dense="last"))
    learner = _trained(scenario, backend, 2)
    state, test = scenario.start(backend), images().test
    values = learner.state().get("values", np.zeros(0))
    expect(
        np.array_equal(values, to_host(backend, learner.values)),
        f"'values' in the saved state are {values} instead of the learner's values",
    )
    again = scenario.learner(backend, to_host(backend, learner.values), state.topology, learner.other_parameters())
    for step in range(2):
        got, expected = again.evaluate(test), learner.evaluate(test)
        expect(
            got == expected,
            f"after {step} steps from another learner's values it has {got} instead of {expected}",
        )
        for each in (learner, again):
            each.train(scenario.batch(2), _RATE)


@errors_break_promise
def _check_learning(subject: BackendSubject, scenario: TrainingScenario) -> None:
    backend = subject.backend
    scenario = attrs.evolve(scenario, optimizer=Sgd(), sparsity=0.3)
    learner = scenario.learner(backend)
    first = learner.evaluate(images().train).loss
    for number in range(2 * _STEPS):
        learner.train(scenario.batch(number), _RATE)
    last = learner.evaluate(images().train).loss
    expect(
        last < 0.7 * first, f"after {2 * _STEPS} steps the training loss is {last:.3f}; at the start it was {first:.3f}"
    )
    dtype = str(backend.arrays.to_numpy(learner.values).dtype)
    expect(dtype == backend.dtype, f"the values are {dtype}, but the backend's dtype is {backend.dtype}")


@attrs.frozen(eq=False)
class _Training:
    """A learner, and the engine's state that belongs to it."""

    backend: Backend
    learner: Learner
    state: State

    def stepped(self, scenario: TrainingScenario, number: int) -> "_Training":
        """Take a step, and in every fifth step an update.

        Args:
            scenario: the network, and the seed of the batches.
            number: the number of the step, from 0; its batch is the same on every backend.

        Returns:
            The same learner, trained, with the engine's state after the step.
        """
        self.learner.train(scenario.batch(number, varied=True), _RATE)
        if number % 5 != 4:
            return self
        state, reallocation = reallocate_once(scenario, self.backend, self.state, self.learner.values)
        self.learner.reallocate(reallocation)
        return attrs.evolve(self, state=state)


@errors_break_promise
def _check_agreement(subject: BackendSubject, scenario: TrainingScenario) -> None:
    one, other = (
        _Training(backend, scenario.learner(backend), scenario.start(backend))
        for backend in (subject.most_precise, oracle("float64"))
    )
    tolerance = 100 * subject.tolerance(subject.most_precise)
    for number in range(_STEPS):
        one, other = one.stepped(scenario, number), other.stepped(scenario, number)
        positions = [to_host(each.backend, each.state.topology.positions).tolist() for each in (one, other)]
        expect(positions[0] == positions[1], f"after step {number + 1} the positions differ from the oracle's")
        error = relative_error(*(to_host(each.backend, each.learner.values) for each in (one, other)))
        expect(
            error <= tolerance,
            f"after step {number + 1} the values differ from the oracle's by {error:.2g} of the largest",
        )


def _is_not_oracle(subject: BackendSubject) -> bool:
    return not subject.is_oracle


def _any_operation(_: BackendSubject) -> SearchStrategy[TrainingScenario]:
    return training_scenarios()


def _batch_norm(_: BackendSubject) -> SearchStrategy[TrainingScenario]:
    return training_scenarios("batch-norm")


def _relu(_: BackendSubject) -> SearchStrategy[TrainingScenario]:
    return training_scenarios("relu")


LEARNING = (
    Promise(
        "totals",
        "loss, correct predictions and examples are summed over batches until they are reset",
        _any_operation,
        _check_totals,
        fraction=0.08,
    ),
    Promise(
        "evaluation",
        "evaluation treats each image independently, and changes nothing",
        _batch_norm,
        _check_evaluation,
        fraction=0.08,
    ),
    Promise(
        "resume",
        "a learner continues from its saved state bit for bit, and training does not change what was saved",
        _any_operation,
        _check_resuming,
        fraction=0.1,
    ),
    Promise(
        "dense",
        "a learner that starts with the values and the other parameters of another one continues as that one does",
        _batch_norm,
        _check_other_parameters,
        fraction=0.05,
    ),
    Promise("learns", "training reduces the loss", _relu, _check_learning, fraction=0.03),
    Promise(
        "agreement",
        "twenty steps with updates agree with the oracle",
        _batch_norm,
        _check_agreement,
        applies=_is_not_oracle,
        fraction=0.04,
    ),
)
