"""Each operation and its gradient: NumPy's, and that of the loss itself."""

from functools import partial

import numpy as np
from hypothesis.strategies import SearchStrategy

from sparsecore.testing.backend_promises.exercises import Exercise, distance, exercises, gradient, loss
from sparsecore.testing.backend_promises.guarding import guarded
from sparsecore.testing.backend_promises.networks import OPERATIONS
from sparsecore.testing.backend_subjects import BackendSubject
from sparsecore.testing.oracle import oracle
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
