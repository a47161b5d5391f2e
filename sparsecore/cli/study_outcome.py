"""What a study has come to, as a table or as one JSON object."""

import json
from collections.abc import Sequence
from typing import Any, TextIO

import click

from sparsecore.cli.output import say
from sparsecore.cli.study_progress import Told
from sparsecore.cli.tables import print_table
from sparsecore.study.arms import Study
from sparsecore.study.carrying import Outcome
from sparsecore.study.comparison import Compared, compared, mean_and_spread
from sparsecore.study.folder import StudyFolder
from sparsecore.study.images import seen
from sparsecore.study.report.looks import full_name
from sparsecore.study.report.numbers import cell_numbers
from sparsecore.study.trials import trials_of

_HEAD = ("arm", "sparsity", "trials", "test accuracy, %")
_HEAD_BESIDE = ("the authors', %", "difference", "standard errors", "t", "p", "")


def tell(study: Study, folder: StudyFolder, outcome: Outcome, stream: TextIO, *, as_json: bool) -> None:
    """Print the study on the stream, and what failed on standard error."""
    rows = compared(study, folder, seen(folder, folder.tables(trials_of(study)[0])["data"]))
    if as_json:
        click.echo(json.dumps(_plain(study, folder, rows, outcome)), file=stream)
    else:
        print_outcome(rows, stream)
        say(_in_all(study, folder), stream)
    for trial in outcome.failed:
        say(f"sparsecore: {trial.name} failed; see {folder.log(trial)}")
    for trial in outcome.left_out:
        say(f"sparsecore: {trial.name} was left out: it starts from one that failed")


def print_outcome(rows: Sequence[Compared], stream: TextIO | None = None) -> None:
    """A row a cell; the authors have columns where they have measured any of them."""
    beside = any(row.theirs for row in rows)
    head = (*_HEAD, *_HEAD_BESIDE) if beside else _HEAD
    print_table(
        head, ((*_ours(row), *(_theirs(row) if beside else ())) for row in rows), numbers=range(1, 9), file=stream
    )


def _in_all(study: Study, folder: StudyFolder) -> str:
    told = Told(trials_of(study), folder, 1)
    return told.of_all() + (" if one runs at a time" if told.left() else "")


def _ours(row: Compared) -> tuple[str, ...]:
    cell = row.cell
    sparsity = "" if cell.sparsity is None else f"{cell.sparsity:g}"
    return full_name(cell.arm), sparsity, f"{len(cell.accuracies)} of {cell.wanted}", mean_and_spread(row.ours)


def _theirs(row: Compared) -> tuple[str, ...]:
    found = row.difference
    numbers = (
        ("", "", "", "")
        if found is None
        else (f"{found.of_means:+.2f}", f"{found.in_standard_errors:+.1f}", f"{found.t:+.2f}", f"{found.p:.2g}")
    )
    return mean_and_spread(row.theirs), *numbers, row.remark


def _plain(study: Study, folder: StudyFolder, rows: Sequence[Compared], outcome: Outcome) -> dict[str, Any]:
    return {
        "study": study.name,
        "cells": [cell_numbers(row) for row in rows],
        "unfinished": [trial.name for trial in trials_of(study) if folder.result(trial) is None],
        "failed": [trial.name for trial in outcome.failed],
        "left_out": [trial.name for trial in outcome.left_out],
        "folder": str(folder.path),
    }
