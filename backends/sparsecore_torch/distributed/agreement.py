"""Reports of ranks, and the verdict on them: one sentence for all ranks where the reports differ."""

import json
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import attrs
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from sparsecore.errors import DisagreementError, InputError, SparsecoreError
from sparsecore.learning.ranks import RANK_TIMEOUT


@attrs.frozen
class Report:
    """The report of a rank to the others.

    Attributes:
        stage: of the run, as in "update 3 (step 300)".
        marks: numbers or texts that must be equal on all ranks.
        failure: the sentence of the error that the rank has raised instead.
        refusal: whether that is an InputError.
    """

    stage: str = ""
    marks: Sequence[Any] = ()
    failure: str | None = None
    refusal: bool = False

    @classmethod
    def of_error(cls, error: Exception) -> "Report":
        """Return the report of a rank that has raised an error.

        Args:
            error: of any kind. The sentence of the project's own errors stands alone, others follow the name of their
                class; notes are added in parentheses.
        """
        sentence = str(error) if isinstance(error, SparsecoreError) else f"{type(error).__name__}: {error}"
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        return cls(failure=sentence + notes, refusal=isinstance(error, InputError))


@attrs.frozen
class Verdict:
    """The verdict that all ranks receive.

    Attributes:
        sentence: what is wrong; None where all ranks agree.
        reported_by: the rank that prints the sentence, which is the one that judged.
        refusal: whether it is the user's mistake.
        marks_differ: whether all ranks have reported, at the same stage, and only their marks differ.
        pause: the number of steps until the ranks compare their values again, which rank 0 chooses.
    """

    sentence: str | None = None
    reported_by: int = 0
    refusal: bool = False
    marks_differ: bool = False
    pause: int = 1


@attrs.frozen
class Matter:
    """The facts on which ranks must agree.

    Attributes:
        subjects: the subject of each of a report's marks.
        advice: what users should check if ranks disagree.
    """

    subjects: Sequence[str]
    advice: str


def judge(reports: Sequence[Report | None], matter: Matter, patience: float) -> Verdict:
    """Judge the reports of all ranks.

    Args:
        reports: by rank; None for a rank that has not reported in time.
        matter: what ranks must agree on.
        patience: how long the ranks were waited for, in seconds.
    """
    for rank, report in enumerate(reports):
        if report and report.failure is not None:
            return _on_failure(report, rank)
    missing = [rank for rank, report in enumerate(reports) if report is None]
    first = next(report for report in reports if report)
    if missing:
        return Verdict(absence(missing, first.stage, patience, matter))
    for rank, report in enumerate(reports):
        if report and report.stage != first.stage:
            stages = f"rank 0 is at {first.stage}, rank {rank} at {report.stage}"
            return Verdict(f"the ranks have diverged: {stages}; {matter.advice}")
    return _on_marks([report.marks for report in reports if report], first.stage, matter)


def absence(missing: Sequence[int], stage: str, patience: float, matter: Matter) -> str:
    """Return the sentence about ranks that have not reported.

    Args:
        missing: the ranks.
        stage: of the run that they did not reach.
        patience: how long they were waited for, in seconds.
        matter: what ranks must agree on.
    """
    waited = f"{patience:g} s ({RANK_TIMEOUT} sets how long a rank waits)"
    return f"{named(missing)} did not come to {stage} in {waited}; {matter.advice}"


def _on_failure(report: Report, rank: int) -> Verdict:
    if report.refusal and rank == 0:
        return Verdict(report.failure, refusal=True)
    return Verdict(f"rank {rank} failed: {report.failure}", refusal=report.refusal)


def _on_marks(marks: Sequence[Sequence[Any]], stage: str, matter: Matter) -> Verdict:
    deviating = [rank for rank, each in enumerate(marks) if len(each) != len(matter.subjects)]
    if deviating:
        return Verdict(f"the ranks disagree at {stage} on what there is: {_differing(deviating)}; {matter.advice}")
    wrong = {
        subject: [rank for rank, mark in enumerate(column) if mark != column[0]]
        for subject, *column in zip(matter.subjects, *marks, strict=True)
    }
    wrong = {subject: ranks for subject, ranks in wrong.items() if ranks}
    if not wrong:
        return Verdict()
    subject, ranks = next(iter(wrong.items()))
    more = f" (and on {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    marks_shown = _shown_marks([column[matter.subjects.index(subject)] for column in marks], ranks[0])
    sentence = f"the ranks disagree at {stage} on {subject}{more}: {_differing(ranks)}{marks_shown}; {matter.advice}"
    return Verdict(sentence, marks_differ=True)


def _shown_marks(marks: Sequence[Any], rank: int) -> str:
    """Return the marks of rank 0 and of another rank, where they are short texts."""
    both = (marks[0], marks[rank])
    if not all(isinstance(mark, str) and len(mark) <= _READABLE for mark in both):
        return ""
    return f" ({both[0]} on rank 0, {both[1]} on rank {rank})"


_READABLE = 60
"""The longest text that is shown, in letters; hashes are longer."""


def _differing(ranks: Sequence[int]) -> str:
    return f"{named(ranks)} {'differs' if len(ranks) == 1 else 'differ'} from rank 0"


def named(ranks: Sequence[int]) -> str:
    """Return the ranks in words: "rank 1", "ranks 1, 2 and 5".

    Args:
        ranks: at least one, in the order in which they are to be named.
    """
    names = [str(rank) for rank in ranks]
    return f"rank {names[0]}" if len(names) == 1 else f"ranks {', '.join(names[:-1])} and {names[-1]}"


def dump(value: Report | Verdict) -> str:
    """Return a report or a verdict as text."""
    return json.dumps(attrs.asdict(value))


def load_report(text: bytes) -> Report:
    """Return the report that :func:`dump` has written.

    Args:
        text: JSON in UTF-8.

    Raises:
        ValueError: it is no JSON.
        TypeError: it has other fields, as one written by another version.
    """
    return Report(**json.loads(text))


def load_verdict(text: bytes) -> Verdict:
    """Return the verdict that :func:`dump` has written.

    Args:
        text: JSON in UTF-8.

    Raises:
        ValueError: it is no JSON.
        TypeError: it has other fields, as one written by another version.
    """
    return Verdict(**json.loads(text))


_PATIENCE_AFTER_FAILURE = 10.0
"""Seconds that a rank waits for others after it has raised an error; they may be unable to continue without it."""

_READING_TIME = 5.0
"""Seconds that rank 0, whose process usually serves the store, waits for others to read its verdict."""


class Exchange:
    """Exchanges reports through the store. Collective: all ranks must call :meth:`settle` the same number of times.

    Args:
        store: used by these ranks alone.
        rank: that of this process.
        size: the number of ranks.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._number = self._texts = 0
        self._left: list[str] = []
        self._unread: list[str] = []
        weakref.finalize(self, _wait_until_read, store, self._unread)

    def settle(self, report: Report, matter: Matter, patience: float, pause: int = 1) -> Verdict:
        """Report to the other ranks, and return the verdict on all reports. Collective.

        Args:
            report: that of this rank.
            matter: what ranks must agree on.
            patience: how long to wait for a rank, in seconds.
            pause: on rank 0, the number of steps until the next comparison.

        Raises:
            DisagreementError: the process that serves the store has ended, and the store with it.
        """
        try:
            return self._settle(report, matter, patience, pause)
        except dist.DistNetworkError as error:
            when = f"at {report.stage}" if report.stage else "after this rank had failed"
            raise DisagreementError(
                f"the connection to rank 0 broke off {when}: rank 0 has ended; its output says why"
            ) from error

    def text_of_rank_0(self, text: str, patience: float) -> str:
        """Return the text of rank 0. Collective.

        Args:
            text: that of this rank; those of other ranks are not read.
            patience: how long to wait for rank 0, in seconds.

        Raises:
            DisagreementError: rank 0 has ended, or has not sent its text in time.
        """
        key, self._texts = f"text/{self._texts}", self._texts + 1
        try:
            if self._rank == 0:
                self._store.set(key, text)
                return text
            if wait_for(lambda: self._store.check([key]), patience):
                return self._store.get(key).decode()
        except dist.DistNetworkError as error:
            raise DisagreementError("the connection to rank 0 broke off; its output says why") from error
        raise DisagreementError(f"rank 0 has not sent its text within {patience:g} s")

    def pending_verdict(self) -> Verdict | None:
        """Look for the verdict of an exchange that this rank has not entered; does not wait.

        Returns:
            None where the others have reached no verdict, or the store can no longer be reached.
        """
        key = self._key("verdict")
        with suppress(dist.DistNetworkError):
            return load_verdict(self._store.get(key)) if self._store.check([key]) else None
        return None

    def exchange_marks(self, key: str, mark: str, patience: float) -> dict[int, str]:
        """Store a mark, and return those that other ranks have stored under the same key. Not collective.

        Args:
            key: of the mark; the mark of the key before the last is deleted.
            mark: that of this rank.
            patience: how long to wait for the other ranks, in seconds.

        Returns:
            The marks by rank, that of this rank included.
        """
        keys = [f"{key}/{rank}" for rank in range(self._size)]
        with suppress(dist.DistNetworkError):
            self._left.append(keys[self._rank])
            self._store.set(keys[self._rank], mark)
            if len(self._left) > 2:  # another rank may still be waiting for the last one
                self._store.delete_key(self._left.pop(0))
            wait_for(lambda: self._store.check(keys), patience)
            return {rank: self._store.get(own).decode() for rank, own in enumerate(keys) if self._store.check([own])}
        return {self._rank: mark}

    def silent(self, patience: float) -> list[int]:
        """Return the ranks that do not call this in time, after the connections between ranks have broken.

        Args:
            patience: how long to wait for them, in seconds.
        """
        keys = [f"broken/{rank}" for rank in range(self._size)]
        try:
            self._store.set(keys[self._rank], "")
            wait_for(lambda: self._store.check(keys), patience)
            return [rank for rank, key in enumerate(keys) if not self._store.check([key])]
        except dist.DistNetworkError:
            return [0]

    def _settle(self, report: Report, matter: Matter, patience: float, pause: int) -> Verdict:
        self._store.set(self._key(self._rank), dump(report))
        if report.failure is not None:
            patience = min(patience, _PATIENCE_AFTER_FAILURE)
        verdict = (
            self._receive_verdict(report, matter, patience)
            if self._rank
            else self._give_verdict(matter, patience, pause)
        )
        self._number += 1
        return verdict

    def _give_verdict(self, matter: Matter, patience: float, pause: int) -> Verdict:
        keys = [self._key(rank) for rank in range(self._size)]
        wait_for(lambda: self._store.check(keys), patience)
        reports = [load_report(self._store.get(key)) if self._store.check([key]) else None for key in keys]
        verdict = self._publish(attrs.evolve(judge(reports, matter, patience), pause=pause))
        self._store.delete_key(keys[0])
        self._unread[:] = keys[1:]
        if self._number:
            # all ranks that have reported have read the verdict before
            self._store.delete_key(self._key("verdict", self._number - 1))
        if verdict.sentence is not None:
            _wait_until_read(self._store, self._unread)
        return verdict

    def _receive_verdict(self, report: Report, matter: Matter, patience: float) -> Verdict:
        key = self._key("verdict")
        if report.failure is None:
            patience *= 2  # rank 0 may be late, and then wait as long for another rank
        if wait_for(lambda: self._store.check([key]), patience):
            verdict = load_verdict(self._store.get(key))
            self._store.delete_key(self._key(self._rank))  # this shows rank 0 that the verdict has been read
            return verdict
        reports = [None] * self._rank + [report]
        if report.failure is not None:
            return self._publish(attrs.evolve(judge(reports, matter, patience), reported_by=self._rank))
        present = next(rank for rank in range(self._size) if self._store.check([self._key(rank)]))
        return self._publish(Verdict(absence([0], report.stage, patience, matter), present))

    def _publish(self, verdict: Verdict) -> Verdict:
        self._store.set(self._key("verdict"), dump(verdict))
        return verdict

    def _key(self, who: int | str, number: int | None = None) -> str:
        return f"{self._number if number is None else number}/{who}"


def _wait_until_read(store: Store, reports: Sequence[str]) -> None:
    """Wait until the ranks that have reported have read the verdict: they delete their reports then."""
    with suppress(dist.DistNetworkError):
        wait_for(lambda: not any(store.check([key]) for key in reports), _READING_TIME)


def wait_for(event: Callable[[], bool], patience: float) -> bool:
    """Wait for an event.

    Args:
        event: returns whether it has happened; called repeatedly.
        patience: how long to wait, in seconds.

    Returns:
        Whether it has happened.
    """
    # polled, because the store's own way of waiting cannot be interrupted
    end, pause = time.monotonic() + patience, 2e-4
    while not event():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return True
