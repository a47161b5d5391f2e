"""``StrategyTests`` and ``BackendTests``: test classes with one test for each promise."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from sparsecore.engine.declarations import Declares
from sparsecore.testing.backend_promises import BACKEND_PROMISES
from sparsecore.testing.counterexamples import describe_failure
from sparsecore.testing.promises import Promise
from sparsecore.testing.search import DEFAULT_EXAMPLES, CheckResult, Status, check_promise
from sparsecore.testing.strategy_promises import STRATEGY_PROMISES
from sparsecore.testing.subjects import BackendSubject, StrategyLike, StrategySubject


class StrategyTests:
    """Tests of a strategy: subclass it in a test file, name the strategy, and pytest runs one test a promise.

        class TestMine(StrategyTests):
            strategy = MyStrategy()

    Attributes:
        strategy: an instance; a list or a dict of instances, which form a stack; or a hypothesis strategy for these,
            such as ``hyperparameters(MyStrategy)``.
        declares: what is declared for the whole stack; None to use what each strategy declares itself.
        backends: names of the backends whose decisions are compared with the oracle's; None for all that are installed.
        max_examples: how many examples each promise is checked with.
        seed: the seed of the examples; the same seed gives the same examples.
    """

    strategy: ClassVar[StrategyLike]
    declares: ClassVar[Declares | None] = None
    backends: ClassVar[Sequence[str] | None] = None
    max_examples: ClassVar[int] = DEFAULT_EXAMPLES
    seed: ClassVar[int] = 0

    def __init_subclass__(cls) -> None:
        """Add a test for each promise that the subclass has no test of its own for."""
        super().__init_subclass__()
        _add_tests(cls, STRATEGY_PROMISES, _strategy_test)


class BackendTests:
    """Tests of a backend: subclass it in a test file, name the backend, and pytest runs one test a promise.

        class TestMine(BackendTests):
            backend = MyBackend()

    Gradients are checked in float64 if ``attrs.evolve(backend, dtype="float64")`` returns a backend.

    Attributes:
        backend: an instance.
        max_examples: how many examples each promise is checked with; slow promises use a fraction of them.
        seed: the seed of the examples; the same seed gives the same examples.
    """

    backend: ClassVar[Any]
    max_examples: ClassVar[int] = DEFAULT_EXAMPLES
    seed: ClassVar[int] = 0

    def __init_subclass__(cls) -> None:
        """Add a test for each promise that the subclass has no test of its own for."""
        super().__init_subclass__()
        _add_tests(cls, BACKEND_PROMISES, _backend_test)


def _add_tests(cls: type, promises: Sequence[Promise], test_of: Callable[[Promise], Callable[[Any], None]]) -> None:
    for promise in promises:
        name = f"test_{promise.name.replace('-', '_')}"
        if not hasattr(cls, name):
            test = test_of(promise)
            test.__name__, test.__qualname__ = name, f"{cls.__qualname__}.{name}"
            test.__doc__ = f"{promise.sentence[0].upper()}{promise.sentence[1:]}."
            setattr(cls, name, test)


def _strategy_test(promise: Promise) -> Callable[[Any], None]:
    def test(self: StrategyTests) -> None:
        own: Any = type(self)
        subject = _subject_of(own)
        report_to_pytest(check_promise(promise, subject, examples=self.max_examples, first_seed=self.seed))

    return test


@functools.cache
def _subject_of(tests: type[StrategyTests]) -> StrategySubject:
    """Return what a class tests, which is the same for all promises."""
    return StrategySubject.of(tests.strategy, declares=tests.declares, backends=tests.backends)


def _backend_test(promise: Promise) -> Callable[[Any], None]:
    def test(self: BackendTests) -> None:
        subject = BackendSubject.of(self.backend)
        report_to_pytest(check_promise(promise, subject, examples=self.max_examples, first_seed=self.seed))

    return test


def report_to_pytest(result: CheckResult) -> None:
    """Pass, skip or fail the test that is running.

    Raises:
        pytest.skip.Exception: the promise does not apply, or could not be checked.
        pytest.fail.Exception: the promise is broken, or every example was refused.
    """
    import pytest

    match result.status:
        case Status.NOT_APPLICABLE:
            pytest.skip(result.reason)
        case Status.NOT_CHECKED:
            pytest.skip(f"another broken promise stops every example: {result.reason}")
        case Status.REFUSED:
            pytest.fail(f"every example was refused: {result.reason}", pytrace=False)
        case Status.BROKEN:
            pytest.fail(describe_failure(result), pytrace=False)
