"""``StrategyTests``: a test a promise, for a strategy of one's own."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from sparsecore.declared import Declares
from sparsecore.testing.judging import DEFAULT_EXAMPLES, Outcome, Verdict, judge
from sparsecore.testing.promises import Promise
from sparsecore.testing.scenes import Scene
from sparsecore.testing.stacks import Given, Subject
from sparsecore.testing.strategy_promises import STRATEGY_PROMISES
from sparsecore.testing.telling import HEAD, rows, text


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
        for promise in STRATEGY_PROMISES:
            name = f"test_{promise.name.replace('-', '_')}"
            if not hasattr(cls, name):
                setattr(cls, name, _test(promise))


def _test(promise: Promise) -> Callable[[Any], None]:
    def test(self: StrategyTests) -> None:
        subject = Subject.of(self.strategy, declares=self.declares, backends=self.backends)
        settle(judge(promise, subject, examples=self.max_examples, first_seed=self.seed))

    test.__doc__ = f"{promise.sentence}."
    return test


def settle(verdict: Verdict) -> None:
    """Pass, skip or fail the test that is running."""
    import pytest

    match verdict.outcome:
        case Outcome.NOT_MADE:
            pytest.skip(verdict.reason)
        case Outcome.NOT_JUDGED:
            pytest.skip(f"another broken promise stops every example: {verdict.reason}")
        case Outcome.REFUSED:
            pytest.fail(f"every example was refused: {verdict.reason}", pytrace=False)
        case Outcome.BROKEN:
            pytest.fail(told(verdict), pytrace=False)


def told(verdict: Verdict) -> str:
    """A broken promise with its counterexample, in plain text."""
    told = f"{verdict.promise.sentence}: {verdict.reason}"
    if not isinstance(verdict.example, Scene):
        return f"{told}\n\n{verdict.example!r}"
    return f"{told}\n\n{text(HEAD, rows(verdict.example))}\n\nexample: {verdict.example.to_json()}"
