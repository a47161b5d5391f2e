"""``sparsecore study``: compare ways to train, in a folder of runs."""

import copy
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from sparsecore.cli.study_progress import Bars, Lines, Told
from sparsecore.cli.tables import print_table
from sparsecore.errors import InputError
from sparsecore.experiment.text import toml_value
from sparsecore.study.arms import Study
from sparsecore.study.carrying import Outcome, carry_out
from sparsecore.study.experiments import check_options
from sparsecore.study.folder import StudyFolder, free_study_folder
from sparsecore.study.pools import Means, pool
from sparsecore.study.presets import names, study_of
from sparsecore.study.summary import Cell, cells
from sparsecore.study.trials import trials_of

_SETTINGS = {
    "model": "model.name",
    "data": "data.name",
    "data_dir": "data.dir",
    "backend": "backend.name",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "seed": "seed",
}


class _Studies(click.Group):
    """``show``, and a command for each preset and for each study in a file."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [*names(), *super().list_commands(context)]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return super().get_command(context, name) or _command(name)


@click.group(cls=_Studies)
def study() -> None:
    """Compare ways to train: a figure of the paper, or a study of your own, FILE.toml.

    A study is a folder of runs. It can be stopped and resumed at any moment, and does nothing twice.
    """


@study.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
def show(folder: Path, *, as_json: bool) -> None:
    """Tell what the study in DIR has come to so far, and what is left."""
    place = StudyFolder(folder)
    asked = place.read()
    _tell(asked, place, Outcome((), ()), as_json=as_json)


@click.command()
@click.option("--model", metavar="NAME", help="Network; wrn-28-2 by default.")
@click.option("--data", metavar="NAME", help="Data set; digits by default.")
@click.option("--data-dir", metavar="DIR", help="Folder with the data set's files; downloaded where none is given.")
@click.option("--backend", metavar="NAME", help="What computes; numpy by default.")
@click.option("--sparsity", "sparsities", metavar="S", multiple=True, help="In place of the study's own; repeatable.")
@click.option("--trials", metavar="N", type=int, help="Runs of each arm at each sparsity.")
@click.option("--epochs", metavar="N", help="Passes over the training images; schedules in epochs are stretched.")
@click.option("--batch-size", metavar="N", help="Images a step.")
@click.option("--seed", metavar="N", help="Seed of the first trials; the others count on.")
@click.option("--set", "settings", metavar="SECTION.KEY=VALUE", multiple=True, help="Any other setting; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to make; a new one in studies/ by default.")
@click.option("--resume", is_flag=True, help="Continue the study in --out where it stopped.")
@click.option("--jobs", metavar="N", type=int, help="Trials at the same time; as many as cores by default.")
@click.option("--on", "where", metavar="PLACE", default="local", help="local, ray or slurm; local by default.")
@click.option("--on-set", "means", metavar="KEY=VALUE", multiple=True, help="An option of that place; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON object on standard output.")
@click.pass_context
def _carry_out(
    context: click.Context,
    /,
    *,
    out: Path | None,
    resume: bool,
    jobs: int | None,
    where: str,
    means: tuple[str, ...],
    as_json: bool,
    **given: Any,
) -> None:
    asked = _asked(str(context.info_name), given)
    place = pool(where, Means(jobs, dict(_pair(one) for one in means)))
    folder = _begun(asked, out, has_options=any(given.values())) if resume else _new(asked, out)
    asked, trials = folder.read(), trials_of(folder.read())
    shown = Bars if sys.stderr is not None and sys.stderr.isatty() else Lines
    try:
        with shown(Told(trials, folder, place.jobs)) as onlooker:
            outcome = carry_out(trials, folder, place, onlooker)
    except KeyboardInterrupt:
        again = f"sparsecore study {context.info_name} --resume --out {folder.path}"
        click.echo(f"sparsecore: stopped; continue with: {again}", err=True)
        raise
    _tell(asked, folder, outcome, as_json=as_json)
    sys.exit(1 if outcome.failed else 0)


def _command(name: str) -> click.Command:
    """The command that carries out this study."""
    command = copy.copy(_carry_out)
    command.name, command.help = name, study_of(name).title
    return command


def _asked(name: str, given: Mapping[str, Any]) -> Study:
    """The preset, with what the options say in place of its own."""
    own = study_of(name)
    options = {_SETTINGS[option]: toml_value(value) for option, value in given.items() if option in _SETTINGS and value}
    options |= {key: toml_value(value) for key, value in map(_pair, given["settings"])}
    changes: dict[str, Any] = {"options": {**own.options, **options}}
    if given["trials"] is not None:
        changes["trials"] = given["trials"]
    if given["sparsities"]:
        changes["sparsities"] = [toml_value(sparsity) for sparsity in given["sparsities"]]
    asked = Study.of({**own.tables(), **changes})
    check_options(asked)
    return asked


def _pair(setting: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not (name and equals):
        raise InputError(f"a setting is written key=value; given {setting!r}")
    return name.strip(), value.strip()


def _new(asked: Study, out: Path | None) -> StudyFolder:
    folder = StudyFolder(out) if out else free_study_folder(Path("studies"), asked.name)
    folder.create(asked)
    return folder


def _begun(asked: Study, out: Path | None, *, has_options: bool) -> StudyFolder:
    """The folder of the study to continue; one that is not there yet begins."""
    if out is None:
        raise InputError("--resume needs --out, the folder of the study to continue")
    folder = StudyFolder(out)
    if not folder.path.exists():
        return _new(asked, out)
    begun = folder.read()
    if begun.name != asked.name or (has_options and begun != asked):
        raise InputError(f"the study {folder.path} was begun as another one; its {folder.study.name} tells as which")
    return folder


def _tell(asked: Study, folder: StudyFolder, outcome: Outcome, *, as_json: bool) -> None:
    found = cells(asked, folder)
    if as_json:
        click.echo(json.dumps(_plain(asked, folder, found, outcome)))
    else:
        print_table(("arm", "sparsity", "trials", "test accuracy, %"), map(_row, found), numbers=(1, 2, 3))
        click.echo(Told(trials_of(asked), folder, 1).of_all())
    for trial in outcome.failed:
        click.echo(f"sparsecore: {trial.name} failed; see {folder.log(trial)}", err=True)
    for trial in outcome.left_out:
        click.echo(f"sparsecore: {trial.name} was left out: it starts from one that failed", err=True)


def _row(cell: Cell) -> tuple[str, ...]:
    mean = "" if cell.mean is None else f"{100 * cell.mean:.2f}"
    std = "" if cell.std is None else f" ± {100 * cell.std:.2f}"
    sparsity = "" if cell.sparsity is None else f"{cell.sparsity:g}"
    return cell.arm.title, sparsity, f"{len(cell.accuracies)} of {cell.wanted}", mean + std


def _plain(asked: Study, folder: StudyFolder, found: Sequence[Cell], outcome: Outcome) -> dict[str, Any]:
    return {
        "study": asked.name,
        "cells": [
            {
                "arm": cell.arm.name,
                "sparsity": cell.sparsity,
                "accuracies": cell.accuracies,
                "mean": cell.mean,
                "std": cell.std,
                "wanted": cell.wanted,
            }
            for cell in found
        ],
        "failed": [trial.name for trial in outcome.failed],
        "left_out": [trial.name for trial in outcome.left_out],
        "folder": str(folder.path),
    }
