"""Carrying out what was asked for: the first rank keeps the files and shows progress, the others take part."""

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import attrs

from sparsecore.cli.options import ExperimentOptions
from sparsecore.cli.output import print_message
from sparsecore.cli.progress import RunProgressBar
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore.experiment.assembly import Tables, differences
from sparsecore.experiment.experiment import Experiment
from sparsecore.experiment.plugin_choice import PluginChoice
from sparsecore.extras import MissingPackageError
from sparsecore.learning.ranks import Ranks, launch, ranks_of
from sparsecore.run.folder import RunFolder, create_numbered, free_path
from sparsecore.run.identity import identity
from sparsecore.run.logs import Result
from sparsecore.run.setup import Setup, set_up
from sparsecore.run.training import Callback, Finished, Participant, conclude, reading_participant, writing_participant


@attrs.frozen(eq=False)
class RunRequest:
    """What is to be done.

    Attributes:
        experiment: to carry out.
        folder: where.
        is_new: whether the folder is to be made.
        is_numbered: whether the folder may be made under the next free number, where another process takes this one.
        note: to be said before.
    """

    experiment: Experiment
    folder: RunFolder
    is_new: bool = True
    is_numbered: bool = False
    note: str = ""

    def set_up(self) -> Setup:
        """All that training needs; nothing is written yet.

        Raises:
            InputError: the folder cannot be made, or the experiment cannot be set up.
        """
        if self.is_new and not self.is_numbered:
            self.folder.check_absent()
        return set_up(self.experiment, self.folder)

    def create_folder(self, setup: Setup) -> "RunRequest":
        """The same with its folder made, perhaps under another number; as it is where the run goes on.

        Raises:
            InputError: the folder cannot be made.
        """
        if not self.is_new:
            return self
        tables = self.experiment.tables()
        others = {} if setup.source is None else {self.folder.start.name: setup.source.content()}
        if not self.is_numbered:
            self.folder.create(tables, others)
            return self
        parent, name = self.folder.path.parent, self.folder.path.name.rpartition("-")[0]
        return attrs.evolve(
            self, folder=create_numbered(parent, name, lambda path: RunFolder(path).create(tables, others))
        )


def new_request(out: Path | None, given: ExperimentOptions) -> RunRequest:
    """A run that begins, in a folder of its own where none is given."""
    experiment = Experiment.of(given.tables())
    if out:
        return RunRequest(experiment, RunFolder(out))
    return RunRequest(experiment, RunFolder(free_path(Path("runs"), _run_name(experiment))), is_numbered=True)


def resume_request(out: Path | None, given: ExperimentOptions) -> RunRequest:
    """A run that goes on, or begins where there is none yet.

    Raises:
        InputError: no folder is given, or the run in it was begun as another experiment.
    """
    if out is None:
        raise InputError("--resume needs --out, the folder of the run to continue")
    if not out.exists() and not given.names_experiment:
        raise InputError(
            f"there is no run at {out} to continue; to begin one there, say which: FILE.toml, --model or --data"
        )
    return request_in_folder(Experiment.of(given.tables()), RunFolder(out))


def request_in_folder(experiment: Experiment, folder: RunFolder) -> RunRequest:
    """The experiment in its folder, whether it has begun there or not.

    Raises:
        InputError: what was begun there is another experiment, or no run.
    """
    if not folder.path.exists():
        return RunRequest(experiment, folder, note=f"there is no run at {folder.path} yet; it begins now")
    told = differences(Experiment.of(folder.read_tables()).tables(), experiment.tables())
    if told:
        raise InputError(f"the run {folder.path} was begun as another experiment: {'; '.join(told)}")
    return RunRequest(experiment, folder, is_new=False)


def experiment_to_resume(out: Path | None) -> Path | None:
    """The experiment of the run to continue, where there is one."""
    if out is None or not out.exists():
        return None
    folder = RunFolder(out)
    folder.read_tables()  # refuses what is no run
    return folder.experiment


def _run_name(experiment: Experiment) -> str:
    """What a run is called that was given no folder."""
    strategies = "+".join(plugin_stem(strategy.name) for strategy in experiment.strategies)
    begins = [] if experiment.start.run is None else ["from", Path(experiment.start.run).name]
    sparse = [] if experiment.sparsity is None else [f"{experiment.sparsity:g}"]
    return "-".join(
        [plugin_stem(experiment.model.name), plugin_stem(experiment.dataset.name), strategies, *begins, *sparse]
    )


def plugin_stem(selection: str) -> str:
    """What a plugin is called in the name of a folder: of one in a file, the file without its folder."""
    return Path(selection.partition(":")[0]).stem


@attrs.frozen(eq=False)
class CompletedRun:
    """A run that was carried out.

    Attributes:
        experiment: as it was carried out.
        start: the topology at the start.
        end: the topology at the end.
        result: accuracy, loss and counts.
        report: its page; None where that could not be drawn.
    """

    experiment: Experiment
    start: Topology
    end: Topology
    result: Result
    report: Path | None


def ranks_for(tables: Tables) -> Ranks:
    """The processes that carry it out together; known first, so that they tell one another of all other mistakes.

    Raises:
        InputError: the backend cannot be had, or does not train in as many processes as were started.
    """
    backend, started = PluginChoice.of("backend", tables["backend"]), launch().size
    ranks = ranks_of(backend.plugin)
    if ranks.size != started:
        raise InputError(f"{started} processes were started, and the backend {backend.name!r} trains in {ranks.size}")
    return ranks


def facts_to_agree_on(setup: Setup) -> dict[str, str]:
    """What must be the same on all ranks before there is a run folder, and before they form a process group."""
    tables = setup.experiment.tables()
    settings = {f"setting {name!r}": json.dumps(tables.get(name), sort_keys=True) for name in _SETTINGS}
    return {**settings, **identity(setup), "topology": setup.start.topology.sha256()}


_SETTINGS = ("sparsity", "seed", "model", "strategy", "reallocation", "training", "backend")
"""The tables of an experiment that are compared by name; data and start may lie elsewhere on another machine."""


def execute_on_first_rank(
    asked: RunRequest, setup: Setup, ranks: Ranks, again: Callable[[RunFolder], str]
) -> CompletedRun:
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

    made = _Created()
    try:
        folder, participant = ranks.jointly(
            lambda: _begun(asked, setup, ranks, made), lambda begun: begun[1].run.facts()
        )
    except BaseException:
        made.undo()
        raise
    for note in _notes(asked, setup):
        print_message(f"sparsecore: {note}")
    try:
        finished = _train(participant, setup)
        result = conclude(setup, finished, folder)
        report = _write_report(folder, write_report)
    except KeyboardInterrupt:
        print_message(f"sparsecore: stopped; continue with: {again(folder)}")
        raise
    except OSError as error:
        error.add_note(f"what is finished is kept; continue with: {again(folder)}")
        raise
    return CompletedRun(asked.experiment, setup.start.topology, finished.state.topology, result, report)


def _write_report(folder: RunFolder, write_report: Callable[[Path], Path]) -> Path | None:
    """Write the run's report. Where what draws it is missing, say so: the run is finished without it."""
    try:
        return write_report(folder.path)
    except MissingPackageError as error:
        print_message(f"sparsecore: {error}; then: {shlex.join(['sparsecore', 'report', str(folder.path)])}")
        return None


def execute_on_other_rank(asked: RunRequest, setup: Setup, ranks: Ranks) -> None:
    """Carry out the experiment with the leading rank, which keeps the files and does the talking."""
    folder = None if asked.is_new else asked.folder
    participant = ranks.jointly(lambda: reading_participant(setup, folder, ranks), lambda joined: joined.run.facts())
    participant.train(Callback())


def _notes(asked: RunRequest, setup: Setup) -> Iterator[str]:
    """What is to be known before the run begins."""
    if asked.note:
        yield asked.note
    if sys.stderr is not None and sys.stderr.isatty():
        yield describe_backend(asked.experiment)
    clock = setup.start.clock
    if asked.is_new and setup.engine.moves_weights and setup.engine.first_update(setup.start) is None:
        yield (
            f"this run will see no update, and no weight will move: none is due within its {clock.total_steps} steps, "
            f"{clock.steps_per_epoch} an epoch; more epochs, a smaller batch size or another schedule bring some"
        )


@attrs.define
class _Created:
    """What has been made of a run before all ranks agree to begin it."""

    folder: RunFolder | None = None
    participant: Participant | None = None

    def undo(self) -> None:
        """Remove the folder, in which nothing has been trained, unless another process has begun to."""
        if self.folder is None:
            return
        with suppress(InputError, OSError):
            if self.participant is not None:
                self.participant.writer.close()
            lock = self.folder.lock()
            shutil.rmtree(self.folder.path, ignore_errors=True)
            lock.release()


def describe_backend(experiment: Experiment) -> str:
    """Which backend computes, and in which dtype."""
    return f"computed by the {experiment.backend.name} backend in {experiment.backend.plugin.dtype}"


def _begun(asked: RunRequest, setup: Setup, ranks: Ranks, made: _Created) -> tuple[RunFolder, Participant]:
    folder = asked.create_folder(setup).folder
    if asked.is_new:
        made.folder = folder
    made.participant = writing_participant(setup, folder, ranks)
    return folder, made.participant


def _train(participant: Participant, setup: Setup) -> Finished:
    if sys.stderr is not None and sys.stderr.isatty():
        with RunProgressBar(setup.start.clock, setup.experiment.training.epochs) as bar:
            return participant.train(bar)
    return participant.train(Callback())
