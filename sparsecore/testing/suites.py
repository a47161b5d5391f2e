"""``StrategyTests``: a test a promise, for a strategy of one's own."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from sparsecore.engine.hooks import Declares
from sparsecore.testing.backend_promises import BACKEND_PROMISES
from sparsecore.testing.backend_subjects import BackendSubject
from sparsecore.testing.judging import DEFAULT_EXAMPLES, judge
from sparsecore.testing.promises import Promise
from sparsecore.testing.pytest_outcomes import settle
from sparsecore.testing.stacks import Given, Subject
from sparsecore.testing.strategy_promises import STRATEGY_PROMISES


class StrategyTests:
    """Subclass it in a test file, name the strategy, and pytest runs a test a promise.

        class TestMine(StrategyTests):
            strategy = MyStrategy()

    Attributes:
        strategy: an instance; a list or a dict of them, which are stacked; or a hypothesis strategy for these, such as
            ``hyperparameters(MyStrategy)``.
        declares: what it promises beyond what holds for all; None for what its own ``declares`` says.
        backends: names of the backends that are to take the oracle's decisions; None for all that are installed.
        max_examples: examples a promise.
        seed: of the examples' draws; the same gives the same examples.
    """

    strategy: ClassVar[Given]
    declares: ClassVar[Declares | None] = None
    backends: ClassVar[Sequence[str] | None] = None
    max_examples: ClassVar[int] = DEFAULT_EXAMPLES
    seed: ClassVar[int] = 0

    def __init_subclass__(cls) -> None:
        """Every promise becomes a test; a test that the class defines itself takes its place."""
        super().__init_subclass__()
        add_tests(cls, STRATEGY_PROMISES, _test)


def add_tests(cls: type, promises: Sequence[Promise], test_of: Callable[[Promise], Callable[[Any], None]]) -> None:
    """Give the class a test for each promise that it has no test of its own for."""
    for promise in promises:
        name = f"test_{promise.name.replace('-', '_')}"
        if not hasattr(cls, name):
            test = test_of(promise)
            test.__name__, test.__qualname__ = name, f"{cls.__qualname__}.{name}"
            test.__doc__ = f"{promise.sentence[0].upper()}{promise.sentence[1:]}."
            setattr(cls, name, test)


def _test(promise: Promise) -> Callable[[Any], None]:
    def test(self: StrategyTests) -> None:
        subject = Subject.of(self.strategy, declares=self.declares, backends=self.backends)
        settle(judge(promise, subject, examples=self.max_examples, first_seed=self.seed))

    return test


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
        add_tests(cls, BACKEND_PROMISES, _backend_test)


def _backend_test(promise: Promise) -> Callable[[Any], None]:
    def test(self: BackendTests) -> None:
        subject = BackendSubject.of(self.backend)
        settle(judge(promise, subject, examples=self.max_examples, first_seed=self.seed))

    return test
