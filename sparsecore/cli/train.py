"""``sparsecore train``: carry out an experiment."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import attrs
import click

from sparsecore.cli.progress import ProgressBar
from sparsecore.cli.tables import print_run
from sparsecore.errors import InputError
from sparsecore.experiment.assembly import Tables, assemble
from sparsecore.experiment.chosen import Chosen
from sparsecore.experiment.experiment import Experiment
from sparsecore.launch import launch
from sparsecore.ranks import Ranks, ranks_of
from sparsecore.run.beginning import Place, first, further
from sparsecore.run.folder import RunFolder, free_run_folder
from sparsecore.run.identity import PLACES
from sparsecore.run.result import conclude
from sparsecore.run.setup import Setup, set_up
from sparsecore.run.watching import Nobody

_SETTINGS = {
    "model": "model.name",
    "data": "data.name",
    "data_dir": "data.dir",
    "backend": "backend.name",
    "sparsity": "sparsity",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "seed": "seed",
}


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--model", metavar="NAME", help="Network; wrn-28-2 by default, wrn-16-4 and the like by their sizes.")
@click.option("--data", metavar="NAME", help="Data set; digits by default.")
@click.option("--data-dir", metavar="DIR", help="Folder with the data set's files; downloaded where none is given.")
@click.option("--backend", metavar="NAME", help="What computes; numpy by default.")
@click.option("--strategy", "stack", metavar="NAME", multiple=True, help="Strategy; dpr by default. Repeat to stack.")
@click.option("--sparsity", metavar="S", help="Share of weights that are absent, in [0, 1); 0.9 by default.")
@click.option("--epochs", metavar="N", help="Passes over the training images.")
@click.option("--batch-size", metavar="N", help="Images a step; 100 by default.")
@click.option("--seed", metavar="N", help="Seed of every draw; 0 by default.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder to make; a new one in runs/ by default.")
@click.option("--set", "settings", metavar="SECTION.KEY=VALUE", multiple=True, help="Any other setting; repeatable.")
@click.option("--resume", is_flag=True, help="Continue the run in --out where it stopped.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object on standard output.")
def train(
    *,
    file: Path | None,
    stack: tuple[str, ...],
    out: Path | None,
    settings: tuple[str, ...],
    resume: bool,
    as_json: bool,
    **given: str | None,
) -> None:
    """Train a sparse network; without any argument, the demo.

    FILE is an experiment in TOML. What neither it nor an option says comes from the presets for model and data. A
    plugin is named by its installed name, as package.module:Object or as file.py:Object.
    """
    options = {_SETTINGS[name]: value for name, value in given.items() if value is not None}
    asking = _resumed if resume else _new
    source = _begun_before(out) if resume and file is None else file
    ranks = _ranks(assemble(source, options, stack, settings))
    asked, setup = ranks.jointly(lambda: _prepared(asking(out, source, options, stack, settings)), lambda _: {})
    carry_out = _lead if ranks.rank == 0 else _take_part
    carry_out(asked, setup, ranks, as_json=as_json)


@attrs.frozen(eq=False)
class _Asked:
    """What is to be done.

    Attributes:
        experiment: to carry out.
        folder: where.
        is_new: whether the folder is to be made.
        note: to be said before.
    """

    experiment: Experiment
    folder: RunFolder
    is_new: bool = True
    note: str = ""


def _new(
    out: Path | None, file: Path | None, options: Mapping[str, str], stack: tuple[str, ...], settings: tuple[str, ...]
) -> _Asked:
    experiment = Experiment.of(assemble(file, options, stack, settings))
    return _Asked(experiment, RunFolder(out) if out else free_run_folder(Path("runs"), _name(experiment)))


def _resumed(
    out: Path | None, file: Path | None, options: Mapping[str, str], stack: tuple[str, ...], settings: tuple[str, ...]
) -> _Asked:
    if out is None:
        raise InputError("--resume needs --out, the folder of the run to continue")
    folder = RunFolder(out)
    if not folder.path.exists():
        note = f"sparsecore: there is no run at {folder.path} yet; it begins now"
        return _Asked(Experiment.of(assemble(file, options, stack, settings)), folder, note=note)
    begun = Experiment.of(folder.read_tables()).tables()
    asked = Experiment.of(assemble(file, options, stack, settings))
    differences = _differences(begun, asked.tables())
    if differences:
        raise InputError(f"the run {folder.path} was begun as another experiment: {'; '.join(differences)}")
    return _Asked(asked, folder, is_new=False)


def _begun_before(out: Path | None) -> Path | None:
    """The experiment of the run to continue, where there is one."""
    if out is None or not out.exists():
        return None
    folder = RunFolder(out)
    folder.read_tables()  # refuses what is no run
    return folder.experiment


def _differences(begun: Tables, asked: Tables, place: str = "") -> list[str]:
    """Settings that differ, but for where the data lie."""
    told = []
    for key in sorted(begun.keys() | asked.keys()):
        name, there, here = f"{place}{key}", begun.get(key), asked.get(key)
        if isinstance(there, dict) and isinstance(here, dict):
            told += _differences(there, here, f"{name}.")
        elif there != here and name not in PLACES:
            told.append(f"{name} is {there} there, {here} is asked for")
    return told


def _ranks(tables: Tables) -> Ranks:
    """The processes that carry it out together; known first, so that they tell one another of all other mistakes."""
    backend, started = Chosen.of("backend", tables["backend"]), launch().size
    ranks = ranks_of(backend.plugin)
    if ranks.size != started:
        raise InputError(f"{started} processes were started, and the backend {backend.name!r} trains in {ranks.size}")
    return ranks


def _prepared(asked: _Asked) -> tuple[_Asked, Setup]:
    if asked.is_new:
        asked.folder.check_absent()
    return asked, set_up(asked.experiment)


def _lead(asked: _Asked, setup: Setup, ranks: Ranks, *, as_json: bool) -> None:
    """Carry out the experiment, keep its files, and tell of it."""
    from sparsecore.report import write_report

    if asked.note:
        click.echo(asked.note, err=True)
    place = ranks.jointly(lambda: _begun(asked, setup, ranks), lambda place: place.run.facts())
    try:
        if sys.stderr is not None and sys.stderr.isatty():
            with ProgressBar(setup.start.clock, setup.experiment.training.epochs) as bar:
                finished = place.train(bar)
        else:
            finished = place.train(Nobody())
    except KeyboardInterrupt:
        click.echo(f"sparsecore: stopped; continue with: sparsecore train --resume --out {asked.folder.path}", err=True)
        raise
    result = conclude(setup, finished, asked.folder)
    write_report(asked.folder.path)
    if as_json:
        click.echo(json.dumps(attrs.asdict(result)))
    else:
        print_run(setup.start.topology, finished.state.topology, result)


def _begun(asked: _Asked, setup: Setup, ranks: Ranks) -> Place:
    if asked.is_new:
        asked.folder.create(asked.experiment.tables())
    return first(setup, asked.folder, ranks)


def _take_part(asked: _Asked, setup: Setup, ranks: Ranks, *, as_json: bool) -> None:  # noqa: ARG001
    """Carry out the experiment with the leading rank, which keeps the files and does the talking."""
    place = ranks.jointly(lambda: further(setup, asked.folder, ranks), lambda place: place.run.facts())
    place.train(Nobody())


def _name(experiment: Experiment) -> str:
    """What a run is called that was given no folder."""
    strategies = "+".join(Path(strategy.name.partition(":")[0]).stem for strategy in experiment.strategies)
    model = Path(experiment.model.name.partition(":")[0]).stem
    return f"{model}-{experiment.dataset.name}-{strategies}-{experiment.sparsity:g}"
