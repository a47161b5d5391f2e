"""Finding out whether a promise holds: drawn examples, and the smallest one where it does not."""

import unittest
from contextlib import suppress
from enum import Enum
from time import monotonic
from typing import Any

import attrs
from hypothesis import HealthCheck, Phase, Verbosity, given, reject, seed, settings
from hypothesis.errors import Flaky, Unsatisfiable

from sparsecore.errors import DivergedError, InputError, InvariantError, NoRoomError
from sparsecore.testing.promises import BrokenError, NotJudgedError, Promise, hook_of

_SHRINKS = 300
"""Examples tried from the first broken one on."""

_SECONDS = 60.0
"""So long at most, where a strategy takes its time."""


class Shrinking:
    """Which examples are known to be broken, and how many have been tried since there was one.

    Beyond the limit whatever is new counts as kept, so that the shrinking ends with what is known. An example is told
    by its parts, which may come one after another.
    """

    def __init__(self) -> None:
        self._known: list[tuple[str, ...]] = []
        self._is_on, self._tried, self._since = False, 0, 0.0

    def begin(self) -> None:
        """One more example."""
        self._tried += self._is_on

    def is_worth_trying(self, *parts: str) -> bool:
        """Whether an example that begins so is still of interest."""
        is_over = self._tried > _SHRINKS or (self._is_on and monotonic() - self._since > _SECONDS)
        return not is_over or any(known[: len(parts)] == parts for known in self._known)

    def found(self, *parts: str) -> None:
        """This example is broken."""
        if not self._is_on:
            self._is_on, self._since = True, monotonic()
        self.ended(*parts)

    def ended(self, *parts: str) -> None:
        """This example ends here, each time that it is tried."""
        self._known.append(parts)


DEFAULT_EXAMPLES = 100
"""Examples a promise; enough for every mutant of the kit's own tests."""


class Outcome(Enum):
    """How a promise came out."""

    KEPT = "kept"
    BROKEN = "broken"
    REFUSED = "refused"  # every example, by an InputError
    NOT_JUDGED = "not judged"  # every example was stopped by what breaks another promise
    NOT_MADE = "not made"

    @property
    def mark(self) -> tuple[str, str]:
        """What a terminal shows, and its colour."""
        return {"kept": ("✓", "green"), "broken": ("✗", "bold red")}.get(self.value, ("–", "dim"))


_LONGEST = 600
"""Characters of a reason; errors may quote whole arrays."""


def _shortened(reason: str) -> str:
    return reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]} …"


@attrs.frozen(eq=False)
class Verdict:
    """What was found out.

    Attributes:
        promise: which promise.
        outcome: how it came out.
        reason: why, as a sentence of a few lines at most; empty where it is kept.
        example: the smallest that was found where the promise is broken.
        examples: how many it was tried on.
    """

    promise: Promise
    outcome: Outcome
    reason: str = attrs.field(default="", converter=_shortened)
    example: Any = None
    examples: int = 0

    @property
    def is_kept(self) -> bool:
        """Whether nothing speaks against it."""
        return self.outcome in {Outcome.KEPT, Outcome.NOT_MADE}


def judge(
    promise: Promise, subject: Any, *, examples: int = DEFAULT_EXAMPLES, first_seed: int = 0, shrink: bool = True
) -> Verdict:
    """Find out whether the promise holds.

    Args:
        promise: which promise.
        subject: what promises it.
        examples: how many examples to try.
        first_seed: of the draws; the same gives the same examples.
        shrink: whether to look for a smaller example where it is broken.
    """
    if not promise.applies(subject):
        return Verdict(promise, Outcome.NOT_MADE, "it is not promised")
    trial = _Trial(promise, subject)
    try:
        _tried(trial, max(1, round(examples * promise.share)), first_seed, shrink=shrink)
    except BrokenError as broken:
        return Verdict(promise, Outcome.BROKEN, str(broken), trial.broken_by, trial.judged)
    except Flaky:
        return _broken_now_and_then(trial, promise, subject, examples, first_seed)
    except (Unsatisfiable, _GivenUp):
        outcome = Outcome.REFUSED if trial.refused_only else Outcome.NOT_JUDGED
        return Verdict(promise, outcome, trial.reason)
    return Verdict(promise, Outcome.KEPT, examples=trial.judged)


_TIMES = 6
"""How often an example is tried where one was found that does not break the promise each time."""


def _broken_now_and_then(trial: "_Trial", promise: Promise, subject: Any, examples: int, first_seed: int) -> Verdict:
    """The verdict on what is not the same each time: on that hypothesis gives up, wherever its search was."""
    patient = _Trial(promise, subject, times=_TIMES)
    with suppress(BrokenError, Flaky, Unsatisfiable, _GivenUp):
        _tried(patient, max(1, round(examples * promise.share)), first_seed, shrink=True)
    seen = [example for example in (trial.smallest, patient.smallest) if example is not None]
    reason = patient.reason if patient.smallest is not None else trial.reason
    return Verdict(promise, Outcome.BROKEN, f"{reason}, but not each time", min(seen, key=_length), trial.judged)


def judge_example(promise: Promise, subject: Any, example: Any) -> Verdict:
    """Find out whether the promise holds in one example."""
    trial = _Trial(promise, subject)
    try:
        trial.judge(example)
    except BrokenError as broken:
        return Verdict(promise, Outcome.BROKEN, str(broken), example, 1)
    except NotJudgedError as stopped:
        return Verdict(promise, Outcome.NOT_JUDGED, str(stopped))
    return Verdict(promise, Outcome.KEPT, examples=1)


class _GivenUp(unittest.SkipTest):
    """So many examples could not be judged that none will be. Hypothesis lets this through at once, as any skip."""


_HOPELESS = 100
"""Examples that cannot be judged, with none before that could."""


class _Trial:
    """What has been seen so far of one promise."""

    def __init__(self, promise: Promise, subject: Any, times: int = 1) -> None:
        self._promise, self._subject, self._times = promise, subject, times
        self.judged, self.reason, self.broken_by = 0, "no example was found", None
        self.smallest: Any = None
        self.refused_only, self._stopped = True, 0
        self._shrinking = Shrinking()

    def __call__(self, example: Any) -> None:
        self._shrinking.begin()
        if not self._shrinking.is_worth_trying(repr(example)):
            return
        try:
            for _ in range(self._times):
                self.judge(example)
        except BrokenError as broken:
            self.broken_by, self.reason = example, str(broken)
            self.smallest = example if self.smallest is None else min(self.smallest, example, key=_length)
            self._shrinking.found(repr(example))
            raise
        except NotJudgedError as stopped:
            self.reason = str(stopped)
            self._stopped += 1
            if not self.judged and self._stopped >= _HOPELESS:
                raise _GivenUp(self.reason) from stopped
            reject()
        self.judged += 1

    def judge(self, example: Any) -> None:
        """Let the check see the example, and lay what the engine stopped at the right promise's door."""
        try:
            self._promise.check(self._subject, example)
        except NotJudgedError:
            self.refused_only = False
            raise
        except InvariantError as error:
            if error.hook in self._promise.hooks:
                raise BrokenError(str(error)) from error
            self.refused_only = False
            raise NotJudgedError(str(error)) from error
        except (InputError, NoRoomError, DivergedError) as error:
            raise NotJudgedError(str(error)) from error
        except Exception as error:
            place = hook_of(error)
            if place is None:
                raise
            if self._promise.errors:
                raise BrokenError(f"{type(error).__name__} {place}: {error}") from error
            self.refused_only = False
            raise NotJudgedError(f"{type(error).__name__} {place}: {error}") from error


def _length(example: Any) -> int:
    return len(repr(example))


_BATCH = 10
"""Examples that hypothesis draws anew; later ones of the same search are mostly variations of earlier ones."""


def _tried(trial: _Trial, examples: int, first_seed: int, *, shrink: bool) -> None:
    """Search in batches, each with draws of its own."""
    unsatisfiable: Unsatisfiable | None = None
    for batch, begun in enumerate(range(0, examples, _BATCH)):
        try:
            _search(trial, min(_BATCH, examples - begun), f"{first_seed}/{batch}", shrink=shrink)
        except Unsatisfiable as error:
            unsatisfiable = error
    if unsatisfiable is not None and not trial.judged:
        raise unsatisfiable


def _search(trial: _Trial, examples: int, draws: str, *, shrink: bool) -> None:
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]

    # what is slow, or filtered much, is still right; the other checks are about how tests are written, not run
    @settings(
        max_examples=examples,
        phases=phases,
        database=None,
        deadline=None,
        verbosity=Verbosity.quiet,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @seed(draws)
    @given(trial._promise.examples(trial._subject))
    def holds(example: Any) -> None:
        trial(example)

    holds()
