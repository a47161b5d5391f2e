"""All that the report of a study shows, read from its folder."""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from sparsecore.study.arms import Arm, Study
from sparsecore.study.comparison import ArmPair, CellComparison, MeanDifference, arm_pairs, compare_cells
from sparsecore.study.experiments import Trial, trials_of
from sparsecore.study.folder import StudyFolder
from sparsecore.study.images import StudyImages, describe_subset, identify_images
from sparsecore.study.published_results import source
from sparsecore.study.report.styles import Style, family, styles_of
from sparsecore.study.topology_history import TopologyHistory, topology_history_of


@attrs.frozen(eq=False)
class StudyResults:
    """A study and what it has come to so far.

    Attributes:
        study: what is asked.
        text: study.toml as it stands.
        tables: the experiment of the first trial; others differ as their arms do.
        images: which they were trained on.
        rows: a cell of the study each.
        histories: of the finished trials.
        missing: the trials that are not finished.
        styles: how figures show the families of arms.
    """

    study: Study
    text: str
    tables: Mapping[str, Any]
    images: StudyImages
    rows: tuple[CellComparison, ...]
    histories: Mapping[Trial, TopologyHistory]
    missing: tuple[Trial, ...]
    styles: Mapping[str, Style]

    @property
    def epochs(self) -> int:
        """Of the study's first arm."""
        return int(self.tables["training"]["epochs"])

    @property
    def protocol(self) -> str:
        """Network, images, length and trials, in a line: what every title tells."""
        restricted = describe_subset(self.tables["data"])
        images = self.images.title + (f" ({restricted})" if restricted else "")
        return f"{self.tables['model']['name']} on {images}, {in_number(self.epochs, 'epoch')}, {self._trials}"

    @property
    def _trials(self) -> str:
        done = {len(row.ours) for row in self.rows}
        wanted = in_number(self.study.trials, "trial")
        if done == {self.study.trials}:
            return wanted
        return f"{'–'.join(map(str, sorted({min(done), max(done)})))} of {wanted}"

    def style_of(self, arm: Arm) -> Style:
        """How figures show the arm."""
        return self.styles[family(arm)]

    def at(self, sparsity: float) -> Iterator[CellComparison]:
        """The cells at a sparsity, and of the arms that run once."""
        return (row for row in self.rows if row.cell.sparsity in {sparsity, None})

    def histories_of(self, arm: Arm, sparsity: float) -> list[TopologyHistory]:
        """The histories of an arm's finished trials at a sparsity."""
        return [
            history
            for trial, history in self.histories.items()
            if trial.arm == arm.name and trial.sparsity in {sparsity, None}
        ]


def read_study_results(folder: StudyFolder, title: str = "") -> StudyResults:
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
    images = identify_images(folder, tables["data"], title)
    histories = {trial: topology_history_of(folder, trial) for trial in trials}
    return StudyResults(
        study=study,
        text=folder.study.read_text("utf-8"),
        tables=tables,
        images=images,
        rows=tuple(compare_cells(study, folder, images)),
        histories={trial: history for trial, history in histories.items() if history is not None},
        missing=tuple(trial for trial, history in histories.items() if history is None),
        styles=styles_of(study),
    )


def in_number(count: int, what: str) -> str:
    """So many of these: '1 trial', '5 trials'."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def results_json(results: StudyResults) -> dict[str, Any]:
    """What results.json holds; accuracies are shares in 0..1, differences are in percentage points."""
    return {
        "study": results.study.name,
        "title": results.study.title,
        "protocol": results.protocol,
        "images": attrs.asdict(results.images),
        "missing": [trial.name for trial in results.missing],
        "authors": source() if any(row.theirs for row in results.rows) else None,
        "cells": [cell_numbers(row) for row in results.rows],
        "pairs": [
            {"sparsity": sparsity, **_pair(pair)}
            for sparsity in results.study.sparsities
            for pair in pairs_at(results, sparsity)
        ],
        "topology_histories": {trial.name: attrs.asdict(history) for trial, history in results.histories.items()},
    }


def cell_numbers(row: CellComparison) -> dict[str, Any]:
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


def pairs_at(results: StudyResults, sparsity: float) -> list[ArmPair]:
    """Every two arms at a sparsity, by name, the surest difference first; arms that run once are at each."""
    return arm_pairs({row.cell.arm.name: row.ours for row in results.at(sparsity)})


def _pair(pair: ArmPair) -> Mapping[str, Any]:
    return {"better": pair.better, "worse": pair.worse, **_difference(pair.difference)}


def _difference(found: MeanDifference | None) -> Mapping[str, float | None]:
    if found is None:
        return dict.fromkeys(("difference", "standard_errors", "t", "p"))
    return {
        "difference": found.of_means,
        "standard_errors": found.in_standard_errors,
        "t": found.t,
        "p": found.p,
    }
