"""What each rank has come to, and the sentence that all of them hear where that is not the same."""

import json
from collections.abc import Sequence
from typing import Any

import attrs

from sparsecore.errors import InputError, SparsecoreError
from sparsecore.launch import RANK_TIMEOUT


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
        told_by: the rank that says it to people, which is the one that judged.
        refusal: whether it is the user's mistake.
        marks_differ: whether all ranks have reported, from the same moment, and only their marks differ.
        pause: how many steps later the ranks compare their values again; rank 0 chooses it.
    """

    sentence: str | None = None
    told_by: int = 0
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
