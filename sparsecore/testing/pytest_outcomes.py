"""Verdicts as pytest's outcomes."""

from sparsecore.testing.counterexamples import HEAD, in_short, rows, text
from sparsecore.testing.judging import Outcome, Verdict
from sparsecore.testing.scenes import Scene


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
    told = f"{verdict.promise.name}: {verdict.promise.sentence}\n{verdict.reason}"
    if not isinstance(verdict.example, Scene):
        return f"{told}\n\nexample: {in_short(verdict.example)}"
    return f"{told}\n\n{text(HEAD, rows(verdict.example))}\n\nexample: {in_short(verdict.example)}"
