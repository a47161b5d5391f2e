"""All that the report of a study shows, read from its folder."""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from sparsecore.study.arms import Arm, Study
from sparsecore.study.comparison import Compared, Difference, Pair, compared, pairs
from sparsecore.study.experiments import Trial, trials_of
from sparsecore.study.folder import StudyFolder
from sparsecore.study.images import Seen, restrictions, seen
from sparsecore.study.published_results import source
from sparsecore.study.report.styles import Look, family, looks
from sparsecore.study.topology_history import Course, course_of


@attrs.frozen(eq=False)
class Account:
    """A study and what it has come to so far.

    Attributes:
        study: what is asked.
        text: study.toml as it stands.
        tables: the experiment of the first trial; others differ as their arms do.
        images: which they were trained on.
        rows: a cell of the study each.
        courses: of the finished trials.
        missing: the trials that are not finished.
        looks: how figures show the families of arms.
    """

    study: Study
    text: str
    tables: Mapping[str, Any]
    images: Seen
    rows: tuple[Compared, ...]
    courses: Mapping[Trial, Course]
    missing: tuple[Trial, ...]
    looks: Mapping[str, Look]

    @property
    def epochs(self) -> int:
        """Of the study's first arm."""
        return int(self.tables["training"]["epochs"])

    @property
    def protocol(self) -> str:
        """Network, images, length and trials, in a line: what every title tells."""
        restricted = restrictions(self.tables["data"])
        images = self.images.title + (f" ({restricted})" if restricted else "")
        return f"{self.tables['model']['name']} on {images}, {in_number(self.epochs, 'epoch')}, {self._trials}"

    @property
    def _trials(self) -> str:
        done = {len(row.ours) for row in self.rows}
        wanted = in_number(self.study.trials, "trial")
        if done == {self.study.trials}:
            return wanted
        return f"{'–'.join(map(str, sorted({min(done), max(done)})))} of {wanted}"

    def look(self, arm: Arm) -> Look:
        """How figures show the arm."""
        return self.looks[family(arm)]

    def at(self, sparsity: float) -> Iterator[Compared]:
        """The cells at a sparsity, and of the arms that run once."""
        return (row for row in self.rows if row.cell.sparsity in {sparsity, None})

    def courses_of(self, arm: Arm, sparsity: float) -> list[Course]:
        """The courses of an arm's finished trials at a sparsity."""
        return [
            course
            for trial, course in self.courses.items()
            if trial.arm == arm.name and trial.sparsity in {sparsity, None}
        ]


def account_of(folder: StudyFolder, title: str = "") -> Account:
    """Read the study in the folder; logs of finished trials are replayed once, and what they tell is kept.

    Args:
        folder: the study's.
        title: what the images are to be called; what they were found to be, where it is empty.

    Raises:
        InputError: this is no study's folder, or a file of it is damaged.
    """
    study = folder.read()
    trials = trials_of(study)
    tables = folder.tables(trials[0])
    images = seen(folder, tables["data"], title)
    courses = {trial: course_of(folder, trial) for trial in trials}
    return Account(
        study=study,
        text=folder.study.read_text("utf-8"),
        tables=tables,
        images=images,
        rows=tuple(compared(study, folder, images)),
        courses={trial: course for trial, course in courses.items() if course is not None},
        missing=tuple(trial for trial, course in courses.items() if course is None),
        looks=looks(study),
    )


def in_number(count: int, what: str) -> str:
    """So many of these: '1 trial', '5 trials'."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def numbers(account: Account) -> dict[str, Any]:
    """What results.json holds; accuracies are shares in 0..1, differences are in percentage points."""
    return {
        "study": account.study.name,
        "title": account.study.title,
        "protocol": account.protocol,
        "images": attrs.asdict(account.images),
        "missing": [trial.name for trial in account.missing],
        "authors": source() if any(row.theirs for row in account.rows) else None,
        "cells": [cell_numbers(row) for row in account.rows],
        "pairs": [
            {"sparsity": sparsity, **_pair(pair)}
            for sparsity in account.study.sparsities
            for pair in pairs_at(account, sparsity)
        ],
        "courses": {trial.name: attrs.asdict(course) for trial, course in account.courses.items()},
    }


def cell_numbers(row: Compared) -> dict[str, Any]:
    """The numbers of a cell; the authors' are None where they have none to compare with."""
    cell = row.cell
    beside = {"accuracies": [accuracy / 100 for accuracy in row.theirs], **_difference(row.difference)}
    return {
        "arm": cell.arm.name,
        "sparsity": cell.sparsity,
        "accuracies": cell.accuracies,
        "mean": cell.mean,
        "std": cell.std,
        "wanted": cell.wanted,
        "authors": {**beside, "remark": row.remark} if row.theirs else None,
    }


def pairs_at(account: Account, sparsity: float) -> list[Pair]:
    """Every two arms at a sparsity, by name, the surest difference first; arms that run once are at each."""
    return pairs({row.cell.arm.name: row.ours for row in account.at(sparsity)})


def _pair(pair: Pair) -> Mapping[str, Any]:
    return {"better": pair.better, "worse": pair.worse, **_difference(pair.difference)}


def _difference(found: Difference | None) -> Mapping[str, float | None]:
    if found is None:
        return dict.fromkeys(("difference", "standard_errors", "t", "p"))
    return {
        "difference": found.of_means,
        "standard_errors": found.in_standard_errors,
        "t": found.t,
        "p": found.p,
    }
