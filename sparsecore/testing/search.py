"""Searches for an example that breaks a promise, and shrinks it to the smallest one."""

import unittest
from contextlib import suppress
from enum import Enum
from time import monotonic
from typing import Any

import attrs
from hypothesis import HealthCheck, Phase, Verbosity, given, reject, seed, settings
from hypothesis.errors import Flaky, Unsatisfiable

from sparsecore.engine.randomness import as_seed
from sparsecore.errors import DivergedError, InputError, InvariantError, NoRoomError
from sparsecore.testing.promises import BrokenPromiseError, InconclusiveError, Promise, hook_note

DEFAULT_EXAMPLES = 100
"""How many examples a promise is checked with; enough to catch every mutant of the kit's own tests."""


class Status(Enum):
    """Whether a promise is kept, or why that is not known."""

    KEPT = "kept"
    BROKEN = "broken"
    REFUSED = "refused"
    """The strategy refused every example with an InputError."""
    NOT_CHECKED = "not checked"
    """Another broken promise stopped every example."""
    NOT_APPLICABLE = "not applicable"
    """The strategy does not make this promise."""

    @property
    def mark(self) -> tuple[str, str]:
        """The symbol that a terminal shows, and its style."""
        return {"kept": ("✓", "green"), "broken": ("✗", "bold red")}.get(self.value, ("–", "dim"))


_LONGEST_REASON = 600
"""Characters of a reason; errors may quote whole arrays."""


def _shortened(reason: str) -> str:
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]} …"


@attrs.frozen(eq=False)
class CheckResult:
    """The result of checking one promise.

    Attributes:
        promise: the promise.
        status: whether it is kept.
        reason: why it is not kept, in a sentence of at most a few lines; empty if it is kept.
        example: the smallest example found that breaks it; None if none was found.
        examples: how many examples were checked.
    """

    promise: Promise
    status: Status
    reason: str = attrs.field(default="", converter=_shortened)
    example: Any = None
    examples: int = 0

    @property
    def is_kept(self) -> bool:
        """Whether the promise is kept, or not made by this strategy."""
        return self.status in {Status.KEPT, Status.NOT_APPLICABLE}


def check_promise(
    promise: Promise, subject: Any, *, examples: int = DEFAULT_EXAMPLES, first_seed: int = 0, shrink: bool = True
) -> CheckResult:
    """Check a promise on drawn examples.

    Args:
        promise: the promise.
        subject: the strategies or the backend under test.
        examples: how many examples to draw, before the promise's own fraction is applied.
        first_seed: the seed of the draws; the same seed gives the same examples.
        shrink: whether to look for a smaller example if one breaks the promise.

    Raises:
        InputError: ``first_seed`` is no seed.
        hypothesis.errors.Flaky: an example raised an error that is not about the promise, and did not when repeated.
    """
    first_seed = as_seed(first_seed)
    if not promise.applies(subject):
        return CheckResult(promise, Status.NOT_APPLICABLE, "it is not promised")
    checker, number = _ExampleChecker(promise, subject), max(1, round(examples * promise.fraction))
    try:
        _search_in_batches(checker, number, first_seed, shrink=shrink)
    except BrokenPromiseError as broken:
        return CheckResult(promise, Status.BROKEN, str(broken), checker.last_broken, checker.checked)
    except Flaky:
        broken_at_times = _sometimes_broken(checker, promise, subject, number, first_seed)
        if broken_at_times is None:  # another error came and went, which is not about the promise
            raise
        return broken_at_times
    except (Unsatisfiable, _NoneConclusiveError):
        status = Status.REFUSED if checker.all_refused else Status.NOT_CHECKED
        return CheckResult(promise, status, checker.reason)
    return CheckResult(promise, Status.KEPT, examples=checker.checked)


def check_example(promise: Promise, subject: Any, example: Any) -> CheckResult:
    """Check a promise on one example.

    Args:
        promise: the promise.
        subject: the strategies or the backend under test.
        example: an example as ``promise.examples`` draws them.
    """
    try:
        _ExampleChecker(promise, subject).check(example)
    except BrokenPromiseError as broken:
        return CheckResult(promise, Status.BROKEN, str(broken), example, 1)
    except InconclusiveError as inconclusive:
        return CheckResult(promise, Status.NOT_CHECKED, str(inconclusive))
    return CheckResult(promise, Status.KEPT, examples=1)


_REPEATS = 6
"""How often an example is checked after one was found that does not break the promise each time."""


def _sometimes_broken(
    checker: "_ExampleChecker", promise: Promise, subject: Any, examples: int, first_seed: int
) -> CheckResult | None:
    """Search again with repeated checks, because hypothesis stops where an example gives different results.

    Returns:
        The smallest example of both searches that breaks the promise; None if none does.
    """
    patient = _ExampleChecker(promise, subject, repeats=_REPEATS)
    with suppress(BrokenPromiseError, Flaky, Unsatisfiable, _NoneConclusiveError):
        _search_in_batches(patient, examples, first_seed, shrink=True)
    found = [example for example in (checker.smallest, patient.smallest) if example is not None]
    if not found:
        return None
    reason = patient.reason if patient.smallest is not None else checker.reason
    return CheckResult(promise, Status.BROKEN, f"{reason}, but not each time", min(found, key=_length), checker.checked)


class _NoneConclusiveError(unittest.SkipTest):
    """So many examples were inconclusive that all will be. Hypothesis passes this on at once, like any skipped test."""


_MAX_INCONCLUSIVE = 100
"""How many examples may be inconclusive before the first conclusive one."""


class _ExampleChecker:
    """Checks one promise on one example after another, and remembers the results."""

    def __init__(self, promise: Promise, subject: Any, repeats: int = 1) -> None:
        self.promise, self.subject, self._repeats = promise, subject, repeats
        self.checked, self.reason = 0, "no example was found"
        self.last_broken: Any = None
        self.smallest: Any = None
        self.all_refused, self._inconclusive = True, 0
        self._limit = ShrinkingLimit()

    def __call__(self, example: Any) -> None:
        """Check an example for hypothesis."""
        self._limit.begin()
        if not self._limit.is_worth_trying(repr(example)):
            return
        try:
            for _ in range(self._repeats):
                self.check(example)
        except BrokenPromiseError as broken:
            self.last_broken, self.reason = example, str(broken)
            self.smallest = example if self.smallest is None else min(self.smallest, example, key=_length)
            self._limit.broken(repr(example))
            raise
        except InconclusiveError as inconclusive:
            self.reason = str(inconclusive)
            self._inconclusive += 1
            if not self.checked and self._inconclusive >= _MAX_INCONCLUSIVE:
                raise _NoneConclusiveError(self.reason) from inconclusive
            reject()
        self.checked += 1

    def check(self, example: Any) -> None:
        """Check an example, and decide whether an error breaks this promise or another one.

        Raises:
            BrokenPromiseError: the promise is broken.
            InconclusiveError: the example was refused, or stopped by what breaks another promise.
        """
        try:
            self.promise.check(self.subject, example)
        except InconclusiveError:
            self.all_refused = False
            raise
        except InvariantError as error:
            if error.hook in self.promise.hooks:
                raise BrokenPromiseError(str(error)) from error
            self.all_refused = False
            raise InconclusiveError(str(error)) from error
        except (InputError, NoRoomError, DivergedError) as error:
            raise InconclusiveError(str(error)) from error
        except Exception as error:
            note = hook_note(error)
            if note is None:
                raise
            if self.promise.errors:
                raise BrokenPromiseError(f"{type(error).__name__} {note}: {error}") from error
            self.all_refused = False
            raise InconclusiveError(f"{type(error).__name__} {note}: {error}") from error


def _length(example: Any) -> int:
    return len(repr(example))


_MAX_SHRINKS = 300
"""How many examples are tried after the first broken one."""

_MAX_SHRINKING_SECONDS = 60.0
"""How long shrinking may take if the strategy is slow."""


class ShrinkingLimit:
    """Ends hypothesis' shrinking after a number of examples or seconds.

    Beyond the limit every new example counts as unbroken, so that hypothesis ends with the smallest one that is known
    to be broken. An example is identified by texts, which may be known one after another, as the steps of a state
    machine are.
    """

    def __init__(self) -> None:
        self._known: list[tuple[str, ...]] = []
        self._is_shrinking, self._tried, self._since = False, 0, 0.0

    def begin(self) -> None:
        """Count an example."""
        self._tried += self._is_shrinking

    def is_worth_trying(self, *parts: str) -> bool:
        """Whether an example is still to be checked.

        Args:
            parts: the texts that it begins with; one for an example that is known as a whole.

        Returns:
            True until the limit is reached, and after that only for the beginnings of examples that are known to end.
        """
        has_expired = self._tried > _MAX_SHRINKS or (
            self._is_shrinking and monotonic() - self._since > _MAX_SHRINKING_SECONDS
        )
        return not has_expired or any(known[: len(parts)] == parts for known in self._known)

    def broken(self, *parts: str) -> None:
        """Record an example as broken; the first one starts the shrinking.

        Args:
            parts: all texts of the example, in their order.
        """
        if not self._is_shrinking:
            self._is_shrinking, self._since = True, monotonic()
        self.ended(*parts)

    def ended(self, *parts: str) -> None:
        """Record an example that ends here whenever it is tried.

        Args:
            parts: the texts up to here.
        """
        self._known.append(parts)


_BATCH = 10
"""How many examples hypothesis draws in one search; the later ones of a search are mostly variations of the earlier."""


def _search_in_batches(checker: _ExampleChecker, examples: int, first_seed: int, *, shrink: bool) -> None:
    """Search in batches, each with its own seed."""
    unsatisfiable: Unsatisfiable | None = None
    for batch, first in enumerate(range(0, examples, _BATCH)):
        try:
            _search(checker, min(_BATCH, examples - first), f"{first_seed}/{batch}", shrink=shrink)
        except Unsatisfiable as error:
            unsatisfiable = error
    if unsatisfiable is not None and not checker.checked:
        raise unsatisfiable


def _search(checker: _ExampleChecker, examples: int, seed_text: str, *, shrink: bool) -> None:
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]

    # health checks are off: a slow strategy or many rejected examples are no mistake, and the others are about tests
    @settings(
        max_examples=examples,
        phases=phases,
        database=None,
        deadline=None,
        verbosity=Verbosity.quiet,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @seed(seed_text)
    @given(checker.promise.examples(checker.subject))
    def holds(example: Any) -> None:
        checker(example)

    holds()
