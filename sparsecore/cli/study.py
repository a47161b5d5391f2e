"""``sparsecore study``: compare ways to train, in a folder of runs."""

import copy
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import click

from sparsecore.cli.options import ExperimentOptions, common_options, study_experiment_options
from sparsecore.cli.output import print_message, result_stream
from sparsecore.cli.progress import StudyProgressBars, StudyProgressLines, StudyStatus
from sparsecore.cli.tables import print_table
from sparsecore.errors import InputError
from sparsecore.experiment.toml_files import toml_value
from sparsecore.run.folder import create_numbered
from sparsecore.study.arms import Study, load_study, preset_names
from sparsecore.study.comparison import CellComparison, compare_cells, mean_and_spread
from sparsecore.study.experiments import check_options, model_of, trials_of
from sparsecore.study.folder import StudyFolder
from sparsecore.study.images import identify_images
from sparsecore.study.pools import Pool, PoolOptions, create_pool
from sparsecore.study.report import check_reportable, write_study_report
from sparsecore.study.report.contents import cell_numbers
from sparsecore.study.report.styles import full_name
from sparsecore.study.scheduler import ExecutionResult, execute

_HEAD = ("arm", "sparsity", "trials", "test accuracy, %")
_HEAD_BESIDE = ("the authors', %", "difference", "standard errors", "t", "p", "")


def print_study(study: Study, folder: StudyFolder, outcome: ExecutionResult, stream: TextIO, *, as_json: bool) -> None:
    """Print the study on the stream, and what failed on standard error."""
    rows = compare_cells(study, folder, identify_images(folder, folder.tables(trials_of(study)[0])["data"]))
    if as_json:
        click.echo(json.dumps(_plain(study, folder, rows, outcome)), file=stream)
    else:
        print_cells(rows, stream)
        print_message(_status_line(study, folder), stream)
    for trial in outcome.failed:
        print_message(f"sparsecore: {trial.name} failed; see {folder.log(trial)}")
    for trial in outcome.skipped:
        print_message(f"sparsecore: {trial.name} was left out: it starts from one that failed")


def print_cells(rows: Sequence[CellComparison], stream: TextIO | None = None) -> None:
    """A row a cell; the authors have columns where they have measured any of them."""
    beside = any(row.theirs for row in rows)
    head = (*_HEAD, *_HEAD_BESIDE) if beside else _HEAD
    print_table(
        head, ((*_ours(row), *(_theirs(row) if beside else ())) for row in rows), numbers=range(1, 9), file=stream
    )


def _status_line(study: Study, folder: StudyFolder) -> str:
    told = StudyStatus(trials_of(study), folder, 1)
    return told.of_all() + (" if one runs at a time" if told.left() else "")


def _ours(row: CellComparison) -> tuple[str, ...]:
    cell = row.cell
    sparsity = "" if cell.sparsity is None else f"{cell.sparsity:g}"
    return full_name(cell.arm), sparsity, f"{len(cell.accuracies)} of {cell.wanted}", mean_and_spread(row.ours)


def _theirs(row: CellComparison) -> tuple[str, ...]:
    found = row.difference
    numbers = (
        ("", "", "", "")
        if found is None
        else (f"{found.of_means:+.2f}", f"{found.in_standard_errors:+.1f}", f"{found.t:+.2f}", f"{found.p:.2g}")
    )
    return mean_and_spread(row.theirs), *numbers, row.remark


def _plain(
    study: Study, folder: StudyFolder, rows: Sequence[CellComparison], outcome: ExecutionResult
) -> dict[str, Any]:
    return {
        "study": study.name,
        "cells": [cell_numbers(row) for row in rows],
        "unfinished": [trial.name for trial in trials_of(study) if folder.result(trial) is None],
        "failed": [trial.name for trial in outcome.failed],
        "skipped": [trial.name for trial in outcome.skipped],
        "folder": str(folder.path),
    }


class _Studies(click.Group):
    """``show``, ``report``, and a command for each preset and for each study in a file."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [*preset_names(), *super().list_commands(context)]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return super().get_command(context, name) or _command(name)


@click.group(cls=_Studies)
def study() -> None:
    """Compare ways to train: a figure of the paper, or a study of your own, FILE.toml.

    A study is a folder of runs. It can be stopped and resumed at any time, and does nothing twice.
    """


@study.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
def show(folder: Path, *, as_json: bool) -> None:
    """Tell what the study in DIR has come to so far, and what is left."""
    place = StudyFolder(folder)
    with result_stream() as stream:
        print_study(place.read(), place, ExecutionResult((), ()), stream, as_json=as_json)


@study.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--images", metavar="TITLE", default="", help="What the images are to be called from now on.")
def report(folder: Path, images: str) -> None:
    """Write report.html, figures and results.json of the study in DIR from what is finished so far."""
    with result_stream() as stream:
        print_message(str(write_study_report(StudyFolder(folder), images)), stream)


@click.command()
@study_experiment_options
@click.option("--sparsity", "sparsities", metavar="S", multiple=True, help="In place of the study's own; repeatable.")
@click.option("--arm", "arms", metavar="NAME", multiple=True, help="Only this one; repeatable.")
@click.option("--trials", metavar="N", type=int, help="Runs of each arm at each sparsity.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to make; a new one in studies/ by default.")
@click.option("--resume", is_flag=True, help="Continue the study in --out where it stopped.")
@click.option("--jobs", metavar="N", type=int, help="Trials at the same time; as many as cores by default.")
@click.option("--on", "where", metavar="PLACE", default="local", help="local, ray or slurm; local by default.")
@click.option("--on-set", "means", metavar="KEY=VALUE", multiple=True, help="An option of that place; repeatable.")
@common_options
@click.pass_context
def _run_study(
    context: click.Context,
    /,
    *,
    out: Path | None,
    resume: bool,
    jobs: int | None,
    where: str,
    means: tuple[str, ...],
    as_json: bool,
    trials: int | None,
    sparsities: tuple[str, ...],
    arms: tuple[str, ...],
    settings: tuple[str, ...],
    **options: str | None,
) -> None:
    name = str(context.info_name)
    with result_stream() as stream:
        check_reportable()
        asked = _requested_study(name, options, settings, trials, sparsities, arms)
        place = create_pool(where, PoolOptions(jobs, dict(_pair(one) for one in means)))
        is_told = any((trials, sparsities, arms, settings, *options.values()))
        folder = _folder_to_resume(asked, out, has_options=is_told) if resume else _new_folder(asked, out)
        outcome = _execute(folder, place, lambda: _resume_command(name, folder, jobs, where, means))
        print_study(folder.read(), folder, outcome, stream, as_json=as_json)
        print_message(f"report: {write_study_report(folder)}", None if as_json else stream)
    raise click.exceptions.Exit(1 if outcome.failed else 0)


def _execute(folder: StudyFolder, place: Pool, again: Callable[[], str]) -> ExecutionResult:
    """Carry out the study in the folder; where that is stopped, or a file cannot be written, say how to go on."""
    runs = trials_of(folder.read())
    shown = StudyProgressBars if sys.stderr is not None and sys.stderr.isatty() else StudyProgressLines
    try:
        with folder.locked():
            print_message(f"sparsecore: the study is in {folder.path}")
            with shown(StudyStatus(runs, folder, place.jobs)) as callback:
                return execute(runs, folder, place, callback)
    except KeyboardInterrupt:
        print_message(f"sparsecore: stopped; continue with: {again()}")
        raise
    except OSError as error:
        error.add_note(f"what is finished is kept; continue with: {again()}")
        raise


def _resume_command(name: str, folder: StudyFolder, jobs: int | None, where: str, means: Sequence[str]) -> str:
    """The command that goes on with the study in the same way."""
    by = ["--jobs", str(jobs)] if jobs else []
    on = [word for one in means for word in ("--on-set", one)]
    return shlex.join(["sparsecore", "study", name, "--resume", "--out", str(folder.path), "--on", where, *on, *by])


def _command(name: str) -> click.Command:
    """The command that carries out this study."""
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
    """The preset, with what the options say in place of its own."""
    own = load_study(name).only(arms) if arms else load_study(name)
    texts = {**ExperimentOptions.of(None, options, (), ()).options, **dict(map(_pair, settings))}
    given = {**own.options, **{key: toml_value(text) for key, text in texts.items()}}
    changes: dict[str, Any] = {"options": given}
    if trials is not None:
        changes["trials"] = trials
    if sparsities:
        changes["sparsities"] = [toml_value(sparsity) for sparsity in sparsities]
    asked = Study.of({**own.for_model(model_of(given)).tables(), **changes})
    check_options(asked)
    return asked


def _pair(setting: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not (name and equals):
        raise InputError(f"a setting is written key=value; given {setting!r}")
    return name.strip(), value.strip()


def _new_folder(asked: Study, out: Path | None) -> StudyFolder:
    if out is None:
        return create_numbered(Path("studies"), asked.name, lambda path: StudyFolder(path).create(asked))
    return StudyFolder(out).create(asked)


def _folder_to_resume(asked: Study, out: Path | None, *, has_options: bool) -> StudyFolder:
    """The folder of the study to continue."""
    if out is None:
        raise InputError("--resume needs --out, the folder of the study to continue")
    folder = StudyFolder(out)
    if not folder.path.exists():
        raise InputError(f"there is no study at {folder.path} to continue; to begin one there, leave --resume out")
    begun = folder.read()
    if begun.name != asked.name or (has_options and begun != asked):
        raise InputError(f"the study {folder.path} was begun as another one; its {folder.study.name} tells as which")
    folder.complete(begun)
    return folder
