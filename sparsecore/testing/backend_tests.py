"""``BackendTests``: a test a promise, for a backend of one's own."""

from collections.abc import Callable
from typing import Any, ClassVar

from sparsecore.testing.backend_promises import BACKEND_PROMISES
from sparsecore.testing.backend_subjects import BackendSubject
from sparsecore.testing.judging import DEFAULT_EXAMPLES, judge
from sparsecore.testing.promises import Promise
from sparsecore.testing.strategy_tests import add_tests
from sparsecore.testing.verdicts_in_pytest import settle


class BackendTests:
    """Subclass it in a test file, name the backend, and pytest runs a test a promise.

        class TestMine(BackendTests):
            backend = MyBackend()

    Gradients are looked at in float64 where ``attrs.evolve(backend, dtype="float64")`` gives a backend.

    Attributes:
        backend: an instance.
        max_examples: examples a promise; those that take long have fewer.
        seed: of the examples' draws; the same gives the same examples.
    """

    backend: ClassVar[Any]
    max_examples: ClassVar[int] = DEFAULT_EXAMPLES
    seed: ClassVar[int] = 0

    def __init_subclass__(cls) -> None:
        """Every promise becomes a test; a test that the class defines itself takes its place."""
        super().__init_subclass__()
        add_tests(cls, BACKEND_PROMISES, _test)


def _test(promise: Promise) -> Callable[[Any], None]:
    def test(self: BackendTests) -> None:
        subject = BackendSubject.of(self.backend)
        settle(judge(promise, subject, examples=self.max_examples, first_seed=self.seed))

    return test
