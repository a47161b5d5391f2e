"""Carrying out what was asked for: the first rank keeps the files and shows progress, the others take part."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

import attrs

from sparsecore.cli.asking import Asked
from sparsecore.cli.output import say
from sparsecore.cli.progress import ProgressBar
from sparsecore.errors import InputError
from sparsecore.experiment.assembly import Tables
from sparsecore.experiment.chosen import Chosen
from sparsecore.experiment.experiment import Experiment
from sparsecore.launch import launch
from sparsecore.ranks import Ranks, ranks_of
from sparsecore.run.beginning import Place, first, further
from sparsecore.run.folder import RunFolder
from sparsecore.run.identity import identity
from sparsecore.run.result import Result, conclude
from sparsecore.run.setup import Setup
from sparsecore.run.training import Finished
from sparsecore.run.watching import Nobody
from sparsecore.topology import Topology


@attrs.frozen(eq=False)
class Done:
    """A run that was carried out: its experiment, its topologies at the start and at the end, and its result."""

    experiment: Experiment
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


def start_facts(setup: Setup) -> dict[str, str]:
    """What must be the same on all ranks before there is a run folder, and before they form a process group."""
    tables = setup.experiment.tables()
    settings = {f"setting {name!r}": json.dumps(tables.get(name), sort_keys=True) for name in _SETTINGS}
    return {**settings, **identity(setup), "topology": setup.start.topology.sha256()}


_SETTINGS = ("sparsity", "seed", "model", "strategy", "reallocation", "training", "backend")
"""The tables of an experiment that are compared by name; data and start may lie elsewhere on another machine."""


def lead(asked: Asked, setup: Setup, ranks: Ranks, again: Callable[[RunFolder], str]) -> Done:
    """Carry out the experiment and keep its files.

    Args:
        asked: what and where.
        setup: of the experiment.
        ranks: who takes part.
        again: the command that goes on with the run in a folder after an interruption.

    Raises:
        OSError: a file could not be written; a note says how to go on.
    """
    from sparsecore.report import write_report

    made = _Made()
    try:
        folder, place = ranks.jointly(lambda: _begun(asked, setup, ranks, made), lambda begun: begun[1].run.facts())
    except BaseException:
        made.undo()
        raise
    for note in _notes(asked, setup):
        say(f"sparsecore: {note}")
    try:
        finished = _watched(place, setup)
        result = conclude(setup, finished, folder)
        write_report(folder.path)
    except KeyboardInterrupt:
        say(f"sparsecore: stopped; continue with: {again(folder)}")
        raise
    except OSError as error:
        error.add_note(f"what is finished is kept; continue with: {again(folder)}")
        raise
    return Done(asked.experiment, setup.start.topology, finished.state.topology, result)


def take_part(asked: Asked, setup: Setup, ranks: Ranks) -> None:
    """Carry out the experiment with the leading rank, which keeps the files and does the talking."""
    folder = None if asked.is_new else asked.folder
    place = ranks.jointly(lambda: further(setup, folder, ranks), lambda place: place.run.facts())
    place.train(Nobody())


def _notes(asked: Asked, setup: Setup) -> Iterator[str]:
    """What is to be known before the run begins."""
    if asked.note:
        yield asked.note
    if sys.stderr is not None and sys.stderr.isatty():
        yield computed_by(asked.experiment)
    clock = setup.start.clock
    if asked.is_new and setup.engine.moves_weights and setup.engine.first_update(setup.start) is None:
        yield (
            f"this run will see no update, and no weight will move: none is due within its {clock.total_steps} steps, "
            f"{clock.steps_per_epoch} an epoch; more epochs, a smaller batch size or another schedule bring some"
        )


@attrs.define
class _Made:
    """What has been made of a run before all ranks agree to begin it."""

    folder: RunFolder | None = None
    place: Place | None = None

    def undo(self) -> None:
        """Remove the folder, in which nothing has been trained, unless another process has begun to."""
        if self.folder is None:
            return
        with suppress(InputError, OSError):
            if self.place is not None:
                self.place.recorder.close()
            lock = self.folder.lock()
            shutil.rmtree(self.folder.path, ignore_errors=True)
            lock.release()


def computed_by(experiment: Experiment) -> str:
    """Which backend computes, and in which dtype."""
    return f"computed by the {experiment.backend.name} backend in {experiment.backend.plugin.dtype}"


def _begun(asked: Asked, setup: Setup, ranks: Ranks, made: _Made) -> tuple[RunFolder, Place]:
    folder = asked.begun(setup).folder
    if asked.is_new:
        made.folder = folder
    made.place = first(setup, folder, ranks)
    return folder, made.place


def _watched(place: Place, setup: Setup) -> Finished:
    if sys.stderr is not None and sys.stderr.isatty():
        with ProgressBar(setup.start.clock, setup.experiment.training.epochs) as bar:
            return place.train(bar)
    return place.train(Nobody())
