"""What each rank has come to, and the sentence that all of them hear where that is not the same."""

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
    """What a rank has come to.

    Attributes:
        place: where it is, as in "update 3 (step 300)".
        marks: numbers or texts that must be equal on all ranks.
        failure: the sentence of the error that it came to instead.
        refusal: whether that was an InputError.
    """

    place: str = ""
    marks: Sequence[Any] = ()
    failure: str | None = None
    refusal: bool = False

    @classmethod
    def of_error(cls, error: Exception) -> "Report":
        """The report of a rank that has failed."""
        said = str(error) if isinstance(error, SparsecoreError) else f"{type(error).__name__}: {error}"
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        return cls(failure=said + notes, refusal=isinstance(error, InputError))


@attrs.frozen
class Verdict:
    """What all ranks hear.

    Attributes:
        sentence: what is wrong; None where all agree.
        reported_by: the rank that says it to people, which is the one that judged.
        refusal: whether it is the user's mistake.
        marks_differ: whether all ranks have reported, from the same moment, and only their marks differ.
        pause: how many steps later the ranks compare their values again; rank 0 chooses it.
    """

    sentence: str | None = None
    reported_by: int = 0
    refusal: bool = False
    marks_differ: bool = False
    pause: int = 1


@attrs.frozen
class Matter:
    """What is to be agreed on.

    Attributes:
        subjects: what each of a report's marks is of.
        advice: what those who disagree should look at.
    """

    subjects: Sequence[str]
    advice: str


def judge(reports: Sequence[Report | None], matter: Matter, patience: float) -> Verdict:
    """The verdict on the reports by rank; None for a rank that has not come in ``patience`` seconds."""
    for rank, report in enumerate(reports):
        if report and report.failure is not None:
            return _on_failure(report, rank)
    missing = [rank for rank, report in enumerate(reports) if report is None]
    first = next(report for report in reports if report)
    if missing:
        return Verdict(absence(missing, first.place, patience, matter))
    for rank, report in enumerate(reports):
        if report and report.place != first.place:
            places = f"rank 0 is at {first.place}, rank {rank} at {report.place}"
            return Verdict(f"the ranks have lost one another: {places}; {matter.advice}")
    return _on_marks([report.marks for report in reports if report], first.place, matter)


def absence(missing: Sequence[int], place: str, patience: float, matter: Matter) -> str:
    """The sentence about ranks that never came."""
    waited = f"{patience:g} s ({RANK_TIMEOUT} sets how long a rank waits)"
    return f"{named(missing)} did not come to {place} in {waited}; {matter.advice}"


def _on_failure(report: Report, rank: int) -> Verdict:
    if report.refusal and rank == 0:
        return Verdict(report.failure, refusal=True)
    return Verdict(f"rank {rank} failed: {report.failure}", refusal=report.refusal)


def _on_marks(marks: Sequence[Sequence[Any]], place: str, matter: Matter) -> Verdict:
    strange = [rank for rank, each in enumerate(marks) if len(each) != len(matter.subjects)]
    if strange:
        return Verdict(f"the ranks disagree at {place} on what there is: {_differing(strange)}; {matter.advice}")
    wrong = {
        subject: [rank for rank, mark in enumerate(column) if mark != column[0]]
        for subject, *column in zip(matter.subjects, *marks, strict=True)
    }
    wrong = {subject: ranks for subject, ranks in wrong.items() if ranks}
    if not wrong:
        return Verdict()
    subject, ranks = next(iter(wrong.items()))
    more = f" (and on {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    told = _told([column[matter.subjects.index(subject)] for column in marks], ranks[0])
    sentence = f"the ranks disagree at {place} on {subject}{more}: {_differing(ranks)}{told}; {matter.advice}"
    return Verdict(sentence, marks_differ=True)


def _told(marks: Sequence[Any], rank: int) -> str:
    """What the first rank and this one have, where it is a text that people can read."""
    both = (marks[0], marks[rank])
    if not all(isinstance(mark, str) and len(mark) <= _READABLE for mark in both):
        return ""
    return f" ({both[0]} on rank 0, {both[1]} on rank {rank})"


_READABLE = 60
"""Letters; hashes have more."""


def _differing(ranks: Sequence[int]) -> str:
    return f"{named(ranks)} {'differs' if len(ranks) == 1 else 'differ'} from rank 0"


def named(ranks: Sequence[int]) -> str:
    """The ranks in words: "rank 1", "ranks 1, 2 and 5"."""
    names = [str(rank) for rank in ranks]
    return f"rank {names[0]}" if len(names) == 1 else f"ranks {', '.join(names[:-1])} and {names[-1]}"


def dump(value: Report | Verdict) -> str:
    """The value as text."""
    return json.dumps(attrs.asdict(value))


def load_report(text: bytes) -> Report:
    """The report that was dumped."""
    return Report(**json.loads(text))


def load_verdict(text: bytes) -> Verdict:
    """The verdict that was dumped."""
    return Verdict(**json.loads(text))


_PATIENCE_OF_THE_FAILED = 10.0
"""Seconds; others may wait for nothing but the one that has failed."""

_UNTIL_HEARD = 5.0
"""Seconds that rank 0, whose process usually serves the store, stays for ranks that have yet to read its verdict."""


class Exchange:
    """Exchanges reports through the store. Collective: all ranks must call :meth:`settle` the same number of times.

    Args:
        store: of these ranks alone.
        rank: of this process.
        size: the number of ranks.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._number = self._sayings = 0
        self._left: list[str] = []
        self._unheard: list[str] = []
        weakref.finalize(self, _wait_until_heard, store, self._unheard)

    def settle(self, report: Report, matter: Matter, patience: float, pause: int = 1) -> Verdict:
        """Report to the other ranks, and return the verdict on the reports of all.

        Args:
            report: of this rank.
            matter: what is to be agreed on.
            patience: how many seconds a rank is waited for.
            pause: of rank 0, how many steps later the ranks are to compare again.

        Raises:
            DisagreementError: the process that serves the store has ended, and the store with it.
        """
        try:
            return self._settled(report, matter, patience, pause)
        except dist.DistNetworkError as error:
            place = f"at {report.place}" if report.place else "after this rank had failed"
            raise DisagreementError(
                f"the connection to rank 0 broke off {place}: rank 0 has ended; what it said tells why"
            ) from error

    def said_by_first(self, text: str, patience: float) -> str:
        """Return the text of rank 0; collective.

        Args:
            text: of this rank; those of other ranks are not read.
            patience: how many seconds rank 0 is waited for.

        Raises:
            DisagreementError: rank 0 has ended or never came.
        """
        key, self._sayings = f"said/{self._sayings}", self._sayings + 1
        try:
            if self._rank == 0:
                self._store.set(key, text)
                return text
            if happens(lambda: self._store.check([key]), patience):
                return self._store.get(key).decode()
        except dist.DistNetworkError as error:
            raise DisagreementError("the connection to rank 0 broke off; what it said tells why") from error
        raise DisagreementError(f"rank 0 has not come within {patience:g} s")

    def overheard(self) -> Verdict | None:
        """The verdict of an exchange that this rank has not come to, if there is one."""
        key = self._key("verdict")
        with suppress(dist.DistNetworkError):
            return load_verdict(self._store.get(key)) if self._store.check([key]) else None
        return None

    def left_beside(self, place: str, mark: str, patience: float) -> dict[int, str]:
        """Leave a mark for the others, and return the marks that ranks have left at the same place; not collective.

        Args:
            place: what the mark is of; that of the place before the last one is taken away.
            mark: of this rank.
            patience: how many seconds the other ranks are waited for.

        Returns:
            The marks by rank, with that of this one.
        """
        keys = [f"{place}/{rank}" for rank in range(self._size)]
        with suppress(dist.DistNetworkError):
            self._left.append(keys[self._rank])
            self._store.set(keys[self._rank], mark)
            if len(self._left) > 2:  # another rank may still be waiting for the last one
                self._store.delete_key(self._left.pop(0))
            happens(lambda: self._store.check(keys), patience)
            return {rank: self._store.get(key).decode() for rank, key in enumerate(keys) if self._store.check([key])}
        return {self._rank: mark}

    def silent(self, patience: float) -> list[int]:
        """The ranks that do not call this within so many seconds, after the connections between ranks have broken."""
        keys = [f"broken/{rank}" for rank in range(self._size)]
        try:
            self._store.set(keys[self._rank], "")
            happens(lambda: self._store.check(keys), patience)
            return [rank for rank, key in enumerate(keys) if not self._store.check([key])]
        except dist.DistNetworkError:
            return [0]

    def _settled(self, report: Report, matter: Matter, patience: float, pause: int) -> Verdict:
        self._store.set(self._key(self._rank), dump(report))
        if report.failure is not None:
            patience = min(patience, _PATIENCE_OF_THE_FAILED)
        verdict = self._heard(report, matter, patience) if self._rank else self._judged(matter, patience, pause)
        self._number += 1
        return verdict

    def _judged(self, matter: Matter, patience: float, pause: int) -> Verdict:
        keys = [self._key(rank) for rank in range(self._size)]
        happens(lambda: self._store.check(keys), patience)
        reports = [load_report(self._store.get(key)) if self._store.check([key]) else None for key in keys]
        verdict = self._said(attrs.evolve(judge(reports, matter, patience), pause=pause))
        self._store.delete_key(keys[0])
        self._unheard[:] = keys[1:]
        if self._number:
            # all who are here have read what was before
            self._store.delete_key(self._key("verdict", self._number - 1))
        if verdict.sentence is not None:
            _wait_until_heard(self._store, self._unheard)
        return verdict

    def _heard(self, report: Report, matter: Matter, patience: float) -> Verdict:
        key = self._key("verdict")
        if report.failure is None:
            patience *= 2  # rank 0 may come late, and then wait as long for somebody else
        if happens(lambda: self._store.check([key]), patience):
            verdict = load_verdict(self._store.get(key))
            self._store.delete_key(self._key(self._rank))  # rank 0 sees by this that the verdict has been read
            return verdict
        reports = [None] * self._rank + [report]
        if report.failure is not None:
            return self._said(attrs.evolve(judge(reports, matter, patience), reported_by=self._rank))
        present = next(rank for rank in range(self._size) if self._store.check([self._key(rank)]))
        return self._said(Verdict(absence([0], report.place, patience, matter), present))

    def _said(self, verdict: Verdict) -> Verdict:
        self._store.set(self._key("verdict"), dump(verdict))
        return verdict

    def _key(self, who: int | str, number: int | None = None) -> str:
        return f"{self._number if number is None else number}/{who}"


def _wait_until_heard(store: Store, reports: Sequence[str]) -> None:
    """Stay until those who have reported have read the verdict: they delete their reports then."""
    with suppress(dist.DistNetworkError):
        happens(lambda: not any(store.check([key]) for key in reports), _UNTIL_HEARD)


def happens(event: Callable[[], bool], patience: float) -> bool:
    """Whether the event happens within so many seconds."""
    # looked at again and again, because the store's own way of waiting cannot be interrupted
    end, pause = time.monotonic() + patience, 2e-4
    while not event():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return True
