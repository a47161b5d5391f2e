"""Carrying out what was asked for: the first rank keeps the files and shows progress, the others take part."""

import sys

import attrs
import click

from sparsecore.cli.asking import Asked
from sparsecore.cli.progress import ProgressBar
from sparsecore.errors import InputError
from sparsecore.experiment.assembly import Tables
from sparsecore.experiment.chosen import Chosen
from sparsecore.launch import launch
from sparsecore.ranks import Ranks, ranks_of
from sparsecore.run.beginning import Place, first, further
from sparsecore.run.result import Result, conclude
from sparsecore.run.setup import Setup
from sparsecore.run.training import Finished
from sparsecore.run.watching import Nobody
from sparsecore.topology import Topology


@attrs.frozen(eq=False)
class Done:
    """A run that was carried out: its topologies at the start and at the end, and its result."""

    start: Topology
    end: Topology
    result: Result


def ranks_for(tables: Tables) -> Ranks:
    """The processes that carry it out together; known first, so that they tell one another of all other mistakes.

    Raises:
        InputError: the backend cannot be had, or does not train in as many processes as were started.
    """
    backend, started = Chosen.of("backend", tables["backend"]), launch().size
    ranks = ranks_of(backend.plugin)
    if ranks.size != started:
        raise InputError(f"{started} processes were started, and the backend {backend.name!r} trains in {ranks.size}")
    return ranks


def lead(asked: Asked, setup: Setup, ranks: Ranks, again: str) -> Done:
    """Carry out the experiment and keep its files.

    Args:
        asked: what and where.
        setup: of the experiment.
        ranks: who takes part.
        again: the command that goes on with it after an interruption.
    """
    from sparsecore.report import write_report

    if asked.note:
        click.echo(asked.note, err=True)
    place = ranks.jointly(lambda: _begun(asked, setup, ranks), lambda place: place.run.facts())
    try:
        finished = _watched(place, setup)
    except KeyboardInterrupt:
        click.echo(f"sparsecore: stopped; continue with: {again}", err=True)
        raise
    result = conclude(setup, finished, asked.folder)
    write_report(asked.folder.path)
    return Done(setup.start.topology, finished.state.topology, result)


def take_part(asked: Asked, setup: Setup, ranks: Ranks) -> None:
    """Carry out the experiment with the leading rank, which keeps the files and does the talking."""
    place = ranks.jointly(lambda: further(setup, asked.folder, ranks), lambda place: place.run.facts())
    place.train(Nobody())


def _begun(asked: Asked, setup: Setup, ranks: Ranks) -> Place:
    if asked.is_new:
        others = {} if setup.source is None else {asked.folder.start.name: setup.source.content()}
        asked.folder.create(asked.experiment.tables(), others)
    return first(setup, asked.folder, ranks)


def _watched(place: Place, setup: Setup) -> Finished:
    if sys.stderr is not None and sys.stderr.isatty():
        with ProgressBar(setup.start.clock, setup.experiment.training.epochs) as bar:
            return place.train(bar)
    return place.train(Nobody())
