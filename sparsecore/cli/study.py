"""``sparsecore study``: compare training methods in a folder of runs."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import click

from sparsecore.cli.options import ExperimentOptions, common_options, study_experiment_options
from sparsecore.cli.output import print_message, print_table, result_stream
from sparsecore.cli.progress import StudyStatus
from sparsecore.cli.strategies import print_comparison, strategies
from sparsecore.cli.study_options import Execution, execution_options, progress_class, settings_of
from sparsecore.errors import InputError
from sparsecore.experiment.toml_files import toml_value
from sparsecore.run.folder import create_numbered
from sparsecore.run.setup import images_of
from sparsecore.study.comparison import (
    CellComparison,
    compare_cells,
    difference_texts,
    finished_results,
    mean_and_spread,
    numbered_remarks,
)
from sparsecore.study.definition import Study, load_study, preset_names
from sparsecore.study.folder import StudyFolder
from sparsecore.study.hypotheses import HypothesisResult, evaluate_hypotheses, hypothesis_json, hypothesis_texts
from sparsecore.study.images import identify_images
from sparsecore.study.pools import LOCAL, Pool
from sparsecore.study.report import check_reportable, write_study_report
from sparsecore.study.report.panels import full_name
from sparsecore.study.report.results import cell_json
from sparsecore.study.scheduler import ExecutionResult, execute
from sparsecore.study.strategy_comparison.folder import ComparisonFolder
from sparsecore.study.strategy_comparison.report import write_comparison_report
from sparsecore.study.trials import check_options, experiment_of, model_of, trials_of

_HEAD = ("arm", "sparsity", "trials", "test accuracy, %")
_HYPOTHESIS_HEAD = ("hypothesis", "sparsity", "difference", "t", "p, one-sided", "p after Holm", "")
_PUBLISHED_HEAD = ("the authors', %", "difference", "standard errors", "t", "p", "")


class _StudyGroup(click.Group):
    """``show``, ``report``, and a command for each preset and for each study in a file."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [*preset_names(), *super().list_commands(context)]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return super().get_command(context, name) or _study_command(name)


@click.group(cls=_StudyGroup, subcommand_metavar="NAME [ARGS]...")
def study() -> None:
    """Compare training methods over several runs.

    NAME is a preset, your own FILE.toml or a command below. A study is a folder of runs, which can be stopped and
    resumed at any time; finished runs are not repeated.
    """


@study.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
def show(folder: Path, *, as_json: bool) -> None:
    """Show the results so far and what is left.

    DIR is the folder of the study.
    """
    opened = StudyFolder(folder)
    with result_stream() as stream:
        if ComparisonFolder(folder).exists():
            print_comparison(ComparisonFolder(folder), stream, as_json=as_json)
        else:
            print_study(opened.read(), opened, ExecutionResult(), stream, as_json=as_json)


@study.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--images", metavar="TITLE", default="", help="Name of the images in the report from now on.")
def report(folder: Path, images: str) -> None:
    """Write the report of the trials finished so far.

    DIR is the folder of the study. The report is report.html, figures/ (SVG and PNG) and results.json.
    """
    with result_stream() as stream:
        if ComparisonFolder(folder).exists():
            if images:
                raise InputError(
                    "--images names the images of one network; give the folder of its trials, NETWORK/trials in "
                    f"{folder}, and the report of the comparison has the name, too"
                )
            print_message(str(write_comparison_report(ComparisonFolder(folder))), stream)
        else:
            print_message(str(write_study_report(StudyFolder(folder), images)), stream)


study.add_command(strategies)


@click.command()
@study_experiment_options
@click.option("--sparsity", "sparsities", metavar="S", multiple=True, help="Replace the sparsities. Repeatable.")
@click.option("--arm", "arms", metavar="NAME", multiple=True, help="Run only this arm. Repeatable.")
@click.option("--trials", metavar="N", type=int, help="Runs of each arm at each sparsity.")
@execution_options
@common_options
@click.pass_context
def _run_study(
    context: click.Context,
    /,
    *,
    out: Path | None,
    resume: bool,
    jobs: int | None,
    pool_name: str,
    pool_options: tuple[str, ...],
    as_json: bool,
    trials: int | None,
    sparsities: tuple[str, ...],
    arms: tuple[str, ...],
    settings: tuple[str, ...],
    **options: str | None,
) -> int:
    name = str(context.info_name)
    with result_stream() as stream:
        check_reportable()
        requested = _requested_study(name, options, settings, trials, sparsities, arms)
        execution = Execution(jobs, pool_name, pool_options)
        pool = execution.pool()
        has_options = any((trials, sparsities, arms, settings, *options.values()))
        if resume:
            folder = _folder_to_resume(requested, out, has_options=has_options)
        else:
            if pool_name == LOCAL:  # other machines may have the data elsewhere
                _check_data(requested)
            folder = _new_folder(requested, out)
        outcome = _execute(folder, pool, lambda: execution.resume_command(name, folder.path))
        print_study(folder.read(), folder, outcome, stream, as_json=as_json)
        print_message(f"report: {write_study_report(folder)}", None if as_json else stream)
    return 1 if outcome.failed else 0


def _study_command(name: str) -> click.Command:
    """Create the command that runs this study."""
    command = copy.copy(_run_study)
    command.name, command.help = name, load_study(name).title
    return command


def _requested_study(
    name: str,
    options: Mapping[str, str | None],
    settings: Sequence[str],
    trials: int | None,
    sparsities: Sequence[str],
    arms: Sequence[str],
) -> Study:
    """Return the named study, changed by the options of the command line."""
    preset = load_study(name).only(arms) if arms else load_study(name)
    study_options = {**preset.options, **settings_of(ExperimentOptions.of(None, options, (), ()).options, settings)}
    changes: dict[str, Any] = {"options": study_options}
    if trials is not None:
        changes["trials"] = trials
    if sparsities:
        changes["sparsities"] = [toml_value(sparsity) for sparsity in sparsities]
    requested = Study.of({**preset.for_model(model_of(study_options)).tables(), **changes})
    check_options(requested)
    return requested


def _check_data(requested: Study) -> None:
    """Load the data of the study, without which each of its trials would fail.

    Raises:
        InputError: they cannot be loaded, or a folder is given and the data set reads no files.
    """
    first = next(trial for trial in trials_of(requested) if not trial.after)
    experiment = experiment_of(requested, first, Path())
    experiment.check_folder()
    images_of(experiment)


def _new_folder(requested: Study, out: Path | None) -> StudyFolder:
    if out is None:
        return create_numbered(Path("studies"), requested.name, lambda path: StudyFolder(path).create(requested))
    return StudyFolder(out).create(requested)


def _folder_to_resume(requested: Study, out: Path | None, *, has_options: bool) -> StudyFolder:
    """Return the folder of the study to continue, with whatever an interrupted creation left out."""
    if out is None:
        raise InputError("--resume needs --out, the folder of the study to continue")
    folder = StudyFolder(out)
    if not folder.path.exists():
        raise InputError(f"there is no study at {folder.path} to continue; to start one there, omit --resume")
    stored = folder.read()
    if stored.name != requested.name or (has_options and stored != requested):
        raise InputError(
            f"the folder {folder.path} was created for another study; its {folder.study.name} has the settings"
        )
    folder.complete(stored)
    return folder


def _execute(folder: StudyFolder, pool: Pool, resume_command: Callable[[], str]) -> ExecutionResult:
    """Execute the study; if that is interrupted or a file cannot be written, tell the command that continues it."""
    trials = trials_of(folder.read())
    progress = progress_class()
    try:
        with folder.locked():
            print_message(f"sparsecore: study folder {folder.path}")
            with progress(StudyStatus(trials, folder, pool.jobs)) as callback:
                return execute(trials, folder, pool, callback)
    except KeyboardInterrupt:
        print_message(f"sparsecore: stopped; continue with: {resume_command()}")
        raise
    except OSError as error:
        error.add_note(f"finished trials are kept; continue with: {resume_command()}")
        raise


def print_study(study: Study, folder: StudyFolder, outcome: ExecutionResult, stream: TextIO, *, as_json: bool) -> None:
    """Print the results of a study, and on standard error the trials that failed or were skipped.

    Args:
        study: the study.
        folder: its folder.
        outcome: trials that could not be finished.
        stream: stream for the results.
        as_json: print one JSON object in place of tables.
    """
    images = identify_images(folder, folder.tables(trials_of(study)[0])["data"])
    rows = compare_cells(study, folder, images, finished_results(study, folder))
    hypotheses = evaluate_hypotheses(study, [row.cell for row in rows])
    if as_json:
        click.echo(json.dumps(_study_json(study, folder, rows, hypotheses, outcome)), file=stream)
    else:
        _print_cells(rows, stream)
        _print_hypotheses(study, hypotheses, stream)
        status = StudyStatus(trials_of(study), folder, 1)
        print_message(status.summary() + (" if one runs at a time" if status.time_left() else ""), stream)
    for trial in outcome.failed:
        print_message(f"sparsecore: {trial.name} failed; see {folder.log(trial)}")
    for trial in outcome.skipped:
        print_message(f"sparsecore: {trial.name} was skipped, because the trial that it starts from failed")


def _print_cells(rows: Sequence[CellComparison], stream: TextIO) -> None:
    """Print a row for each cell, with columns for the authors' results if there are any, and remarks below them."""
    has_published, notes = any(row.published for row in rows), numbered_remarks(rows)
    head = (*_HEAD, *_PUBLISHED_HEAD) if has_published else _HEAD
    cells = ((*_own_columns(row), *(_published_columns(row, notes) if has_published else ())) for row in rows)
    print_table(head, cells, numbers=range(1, 9), file=stream)
    for remark, number in notes.items():
        print_message(f"note {number}: {remark}", stream)


def _print_hypotheses(study: Study, hypotheses: Sequence[HypothesisResult], stream: TextIO) -> None:
    if hypotheses:
        rows = ((_in_words(study, one), *hypothesis_texts(one)) for one in hypotheses)
        print_table(_HYPOTHESIS_HEAD, rows, numbers=range(1, 6), file=stream)


def _in_words(study: Study, one: HypothesisResult) -> str:
    better, worse = (full_name(study.arm(name)) for name in (one.hypothesis.better, one.hypothesis.worse))
    return f"{better} > {worse}"


def _own_columns(row: CellComparison) -> tuple[str, ...]:
    cell = row.cell
    sparsity = "" if cell.sparsity is None else f"{cell.sparsity:g}"
    return full_name(cell.arm), sparsity, f"{len(cell.accuracies)} of {cell.wanted}", mean_and_spread(row.accuracies)


def _published_columns(row: CellComparison, notes: Mapping[str, int]) -> tuple[str, ...]:
    note = f"note {notes[row.remark]}" if row.remark else ""
    return mean_and_spread(row.published), *difference_texts(row.difference), note


def _study_json(
    study: Study,
    folder: StudyFolder,
    rows: Sequence[CellComparison],
    hypotheses: Sequence[HypothesisResult],
    outcome: ExecutionResult,
) -> dict[str, Any]:
    return {
        "study": study.name,
        "cells": [cell_json(row) for row in rows],
        "hypotheses": [hypothesis_json(one) for one in hypotheses],
        "unfinished": [trial.name for trial in trials_of(study) if folder.result(trial) is None],
        "failed": [trial.name for trial in outcome.failed],
        "skipped": [trial.name for trial in outcome.skipped],
        "folder": str(folder.path),
    }
