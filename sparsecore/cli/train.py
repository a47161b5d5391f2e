"""``sparsecore train`` runs an experiment; ``sparsecore report`` writes the page of a folder again."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import attrs
import click

from sparsecore.cli.execution import (
    CompletedRun,
    RunRequest,
    describe_backend,
    execute_on_first_rank,
    execute_on_other_rank,
    experiment_to_resume,
    facts_to_agree_on,
    new_request,
    ranks_for,
    resume_request,
)
from sparsecore.cli.log_options import chosen_observers, split_settings
from sparsecore.cli.options import ExperimentOptions, common_options, experiment_options
from sparsecore.cli.output import print_message, print_table, result_stream
from sparsecore.errors import InputError
from sparsecore.learning.ledger import format_memory
from sparsecore.report import write_report
from sparsecore.run.folder import LOTTERY_FILE, RunFolder
from sparsecore.run.observing import read_observers
from sparsecore.run.setup import Setup
from sparsecore.study.folder import StudyFolder
from sparsecore.study.lottery_report import write_lottery_report
from sparsecore.study.report import write_study_report
from sparsecore.study.strategy_comparison.folder import ComparisonFolder
from sparsecore.study.strategy_comparison.report import write_comparison_report


@click.command()
@experiment_options
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Run folder  [default: new in runs/]")
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@click.option("--log", "logs", metavar="NAME", multiple=True, help="Log to csv, tensorboard, wandb, ... Repeatable.")
@common_options
def train(
    *,
    file: Path | None,
    stack: tuple[str, ...],
    out: Path | None,
    settings: tuple[str, ...],
    resume: bool,
    logs: tuple[str, ...],
    as_json: bool,
    **options: str | None,
) -> None:
    """Train a sparse network.

    Without arguments, this trains the demo: WRN-28-2 on scikit-learn's digits.

    FILE is an experiment in TOML. Options override it; presets for the model and the data set fill in the rest. A
    plugin is given by its installed name, as package.module:Object or as file.py:Object.
    """
    if resume and out and (out / LOTTERY_FILE).exists():
        raise InputError(f"{out} is the folder of a lottery; continue it with: sparsecore lottery --resume --out {out}")
    if file is not None and file.is_dir():
        continued = shlex.join(["sparsecore", "train", "--resume", "--out", str(file)])
        raise InputError(f"{file} is a folder, not an experiment in TOML; a run in it continues with: {continued}")
    request = resume_request if resume else new_request
    with result_stream() as stream:
        file = experiment_to_resume(out) if resume and file is None else file
        settings, of_logs = split_settings(settings)
        given = ExperimentOptions.of(file, options, stack, settings)
        ranks = ranks_for(given.tables())
        requested, setup = ranks.jointly(
            lambda: _with_setup(_observed(request(out, given), logs, of_logs)), lambda both: facts_to_agree_on(both[1])
        )
        if ranks.rank != 0:
            execute_on_other_rank(requested, setup, ranks)
            return
        completed = execute_on_first_rank(requested, setup, ranks, _resume_command)
        if as_json:
            click.echo(json.dumps(attrs.asdict(completed.result)), file=stream)
        else:
            _print_run(completed, stream)


def _resume_command(folder: RunFolder) -> str:
    return shlex.join(["sparsecore", "train", "--resume", "--out", str(folder.path)])


def _observed(request: RunRequest, logs: Sequence[str], settings: Sequence[str]) -> RunRequest:
    known = {} if request.is_new else read_observers(request.folder).observers
    return attrs.evolve(request, observers=chosen_observers(logs, settings, known))


def _with_setup(request: RunRequest) -> tuple[RunRequest, Setup]:
    return request, request.set_up()


def _print_run(completed: CompletedRun, file: TextIO) -> None:
    """Print the active weights of each tensor, the accuracy and the memory of a run."""
    start, now, result = completed.start, completed.end, completed.result
    layout = start.layout
    columns = zip(layout.names, layout.shapes, layout.sizes, start.counts, now.counts, strict=True)
    rows = [
        (name, "×".join(map(str, shape)), f"{before:,}", f"{after:,}", f"{1 - after / size:.4f}")
        for name, shape, size, before, after in columns
    ]
    rows.append(("all", "", f"{start.size:,}", f"{now.size:,}", f"{now.sparsity:.4f}"))
    print_table(("tensor", "shape", "active at start", "active now", "sparsity"), rows, numbers=(2, 3, 4), file=file)
    print(f"test accuracy  {result.test_accuracy:.4f}   test loss  {result.test_loss:.4f}", file=file)
    print(
        f"{result.sparse_parameters:,} sparse and {result.dense_parameters:,} dense parameters, "
        f"{result.reallocations} {'update' if result.reallocations == 1 else 'updates'}, "
        f"{result.seconds:.0f} s",
        file=file,
    )
    print(format_memory(result.memory), file=file)
    variation = "the last digits vary with processor, backend and threads"
    print_message(f"{describe_backend(completed.experiment)}; {variation}", file)
    print_message(f"report: {result.run}/report.html", file)


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Write report.html of a run, a study, a lottery or a comparison of strategies again.

    DIR is the folder of one of these, finished or not.
    """
    with result_stream() as stream:
        print_message(str(_written_report(folder)), stream)


def _written_report(folder: Path) -> Path:
    study, comparison = StudyFolder(folder), ComparisonFolder(folder)
    if study.study.exists():
        return write_study_report(study)
    if comparison.exists():
        return write_comparison_report(comparison)
    if (folder / LOTTERY_FILE).exists():
        return write_lottery_report(folder)
    run = RunFolder(folder).experiment
    if not run.exists():
        files = [study.study.name, comparison.definition.name, LOTTERY_FILE, run.name]
        reason = f"it has none of {', '.join(files)}" if folder.is_dir() else "there is no such folder"
        raise InputError(f"{folder} is not the folder of a run, a study, a lottery or a comparison: {reason}")
    return write_report(folder)
