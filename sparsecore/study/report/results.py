"""The results of a study, read from its folder: everything that its report shows."""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from sparsecore.notebook.html import as_html, bar, block, note, table
from sparsecore.report.colours import Style
from sparsecore.run.logs import Effort, Metrics, read_lines
from sparsecore.study.comparison import (
    ArmPair,
    CellComparison,
    MeanDifference,
    arm_pairs,
    compare_cells,
    finished_results,
    mean_and_spread,
)
from sparsecore.study.definition import Arm, Study
from sparsecore.study.folder import StudyFolder
from sparsecore.study.hypotheses import HypothesisResult, evaluate_hypotheses, hypothesis_json
from sparsecore.study.images import StudyImages, describe_subset, identify_images
from sparsecore.study.published_results import source
from sparsecore.study.report.panels import styles_of
from sparsecore.study.topology_history import TopologyHistory, topology_history_of
from sparsecore.study.trials import Trial, trials_of


@attrs.frozen(eq=False)
class StudyResults:
    """A study and its results so far.

    Attributes:
        study: the study.
        text: text of study.toml.
        tables: tables of the first trial's experiment, from which others differ by the settings of their arms.
        images: images that the networks are trained on.
        rows: cells of the study, compared with the authors' results.
        hypotheses: hypotheses of the study at each sparsity, tested on the finished trials.
        histories: topology histories of the finished trials.
        missing: trials that have not finished.
        learning_rates: epochs and learning rates of one finished trial of each arm, by the arm's name.
        efforts: time and machine of the finished trials.
        styles: styles of the arms by their names in figures.
    """

    study: Study
    text: str
    tables: Mapping[str, Any]
    images: StudyImages
    rows: tuple[CellComparison, ...]
    hypotheses: tuple[HypothesisResult, ...]
    histories: Mapping[Trial, TopologyHistory]
    missing: tuple[Trial, ...]
    learning_rates: Mapping[str, tuple[tuple[int, float], ...]]
    efforts: Mapping[Trial, Effort]
    styles: Mapping[str, Style]

    def _repr_html_(self) -> str:
        """Return what notebooks show: the accuracies of each arm at each sparsity, and what is missing."""
        rows = [
            (
                as_html(row.cell.arm.title),
                "" if row.cell.sparsity is None else f"{row.cell.sparsity:g}",
                f"{len(row.accuracies)} of {row.cell.wanted}",
                as_html(mean_and_spread(row.accuracies) or "none yet"),
                "" if row.cell.mean is None else bar(row.cell.mean),
            )
            for row in self.rows
        ]
        return block(
            self.study.title,
            note(self.protocol),
            table(("arm", "sparsity", "trials", "test accuracy, mean ± std (%)", ""), rows),
            note(f"{counted(len(self.missing), 'trial')} not finished") if self.missing else "",
        )

    @property
    def epochs(self) -> int:
        """The number of epochs of the study's first arm."""
        return int(self.tables["training"]["epochs"])

    @property
    def protocol(self) -> str:
        """Network, images, epochs and trials in one line, for the titles of figures."""
        subset = describe_subset(self.tables["data"])
        images = self.images.title + (f" ({subset})" if subset else "")
        return f"{self.tables['model']['name']} on {images}, {counted(self.epochs, 'epoch')}, {self._trials}"

    @property
    def _trials(self) -> str:
        done = {len(row.accuracies) for row in self.rows}
        wanted = counted(self.study.trials, "trial")
        if done == {self.study.trials}:
            return wanted
        return f"{'–'.join(map(str, sorted({min(done), max(done)})))} of {wanted}"

    @property
    def accuracies(self) -> list[tuple[Trial, float]]:
        """The finished trials and their test accuracies in [0, 1], in the order of the rows."""
        trials: dict[tuple[str, float | None], list[Trial]] = {}
        for trial in self.histories:
            trials.setdefault((trial.arm, trial.sparsity), []).append(trial)
        return [
            (trial, accuracy)
            for row in self.rows
            for trial, accuracy in zip(
                trials.get((row.cell.arm.name, row.cell.sparsity), ()), row.cell.accuracies, strict=True
            )
        ]

    def style_of(self, arm: Arm) -> Style:
        """Return the style of an arm in figures."""
        return self.styles[arm.title]

    def at(self, sparsity: float) -> Iterator[CellComparison]:
        """Return the cells at a sparsity, and those of the arms that run once.

        Args:
            sparsity: one of the study's.

        Returns:
            An iterator in the order of the rows.
        """
        return (row for row in self.rows if row.cell.sparsity in {sparsity, None})

    def histories_of(self, arm: Arm, sparsity: float) -> list[TopologyHistory]:
        """Return the topology histories of an arm's finished trials at a sparsity.

        Args:
            arm: an arm of the study.
            sparsity: one of the study's; it does not matter for an arm that runs once.

        Returns:
            One for each finished trial, in the order of the trials; empty if there are none.
        """
        return [
            history
            for trial, history in self.histories.items()
            if trial.arm == arm.name and trial.sparsity in {sparsity, None}
        ]


def read_study_results(folder: StudyFolder, title: str = "") -> StudyResults:
    """Read the results of a study; the topology histories of finished trials are replayed once and then stored.

    Args:
        folder: folder of the study.
        title: name of the images from now on; if empty, the recorded name or the one that is found.

    Raises:
        InputError: the folder has no study, or one of its files is damaged.
    """
    study = folder.read()
    trials = trials_of(study)
    tables = folder.tables(trials[0])
    images = identify_images(folder, tables["data"], title)
    # read once: trials of a study in execution finish while their histories are replayed
    finished = finished_results(study, folder)
    histories = {trial: topology_history_of(folder, trial, result) for trial, result in finished.items()}
    first = {trial.arm: trial for trial in reversed(finished)}
    rows = tuple(compare_cells(study, folder, images, finished))
    return StudyResults(
        study=study,
        text=folder.study.read_text("utf-8"),
        tables=tables,
        images=images,
        rows=rows,
        hypotheses=tuple(evaluate_hypotheses(study, [row.cell for row in rows])),
        histories=histories,
        missing=tuple(trial for trial in trials if trial not in finished),
        learning_rates={arm: _learning_rates(folder, trial) for arm, trial in first.items()},
        efforts={trial: folder.effort(trial) for trial in finished},
        styles=styles_of(study),
    )


def _learning_rates(folder: StudyFolder, trial: Trial) -> tuple[tuple[int, float], ...]:
    lines = read_lines(folder.run(trial).metrics, Metrics)
    return tuple((line.epoch, line.learning_rate) for line in lines)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: '1 trial', '5 trials'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def results_json(results: StudyResults) -> dict[str, Any]:
    """Return the contents of results.json.

    Args:
        results: the results so far.

    Returns:
        What JSON can hold: accuracies in [0, 1], differences in percentage points, sparsities in [0, 1).
    """
    return {
        "study": results.study.name,
        "title": results.study.title,
        "protocol": results.protocol,
        "images": attrs.asdict(results.images),
        "missing": [trial.name for trial in results.missing],
        "authors": source() if any(row.published for row in results.rows) else None,
        "cells": [cell_json(row) for row in results.rows],
        "hypotheses": [hypothesis_json(one) for one in results.hypotheses],
        "pairs": [
            {"sparsity": sparsity, "better": pair.better, "worse": pair.worse, **_difference_json(pair.difference)}
            for sparsity in results.study.sparsities
            for pair in pairs_at(results, sparsity)
        ],
        "topology_histories": {trial.name: attrs.asdict(history) for trial, history in results.histories.items()},
    }


def cell_json(row: CellComparison) -> dict[str, Any]:
    """Return the numbers of a cell as JSON.

    Args:
        row: the cell, compared with the authors' results.

    Returns:
        Accuracies in [0, 1], ours and the authors'; 'authors' is None if they have no results of such images.
    """
    cell = row.cell
    differing = [attrs.asdict(one) for one in row.deviations]
    published = {"accuracies": [accuracy / 100 for accuracy in row.published], **_difference_json(row.difference)}
    return {
        "arm": cell.arm.name,
        "sparsity": cell.sparsity,
        "accuracies": cell.accuracies,
        "mean": cell.mean,
        "std": cell.std,
        "wanted": cell.wanted,
        "authors": {**published, "remark": row.remark, "deviations": differing} if row.published else None,
    }


def pairs_at(results: StudyResults, sparsity: float) -> list[ArmPair]:
    """Compare every two arms at a sparsity, those that run once included.

    Args:
        results: the results so far.
        sparsity: one of the study's.

    Returns:
        The pairs that can be compared, with two finished trials each or more, the smallest p first; differences in
        percentage points.

    Raises:
        MissingPackageError: scipy is not installed.
    """
    return arm_pairs({row.cell.arm.name: row.accuracies for row in results.at(sparsity)})


def _difference_json(difference: MeanDifference | None) -> Mapping[str, float | None]:
    if difference is None:
        return dict.fromkeys(("difference", "standard_errors", "t", "p"))
    return {
        "difference": difference.of_means,
        "standard_errors": difference.in_standard_errors,
        "t": difference.t,
        "p": difference.p,
    }
