"""Execution of one run: rank 0 writes its files and shows progress, the other ranks only train."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
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
from sparsecore.learning.ranks import Ranks, launch, ranks_of
from sparsecore.run.folder import RunFolder, create_numbered, free_path
from sparsecore.run.identity import identity
from sparsecore.run.logs import Result
from sparsecore.run.participants import Participant, reading_participant, writing_participant
from sparsecore.run.setup import Setup, set_up
from sparsecore.run.training import Callback, Finished, conclude


@attrs.frozen(eq=False)
class RunRequest:
    """A run that is to be started or continued.

    Attributes:
        experiment: the experiment to run.
        folder: folder of the run.
        is_new: whether the folder is to be created.
        is_numbered: whether another number may be chosen if another process creates this folder first.
        note: message to print before training.
        observers: observers of the run, by the names that select them.
    """

    experiment: Experiment
    folder: RunFolder
    is_new: bool = True
    is_numbered: bool = False
    note: str = ""
    observers: Mapping[str, PluginChoice] = attrs.field(factory=dict)

    def set_up(self) -> Setup:
        """Set up all that training needs, without writing anything.

        Raises:
            InputError: the folder cannot be created, or the experiment cannot be set up.
        """
        if self.is_new and not self.is_numbered:
            self.folder.check_absent()
        return set_up(self.experiment, self.folder)

    def create_folder(self, setup: Setup) -> "RunRequest":
        """Create the folder of a new run.

        Args:
            setup: setup of the run; what it takes from another run is stored in the folder.

        Returns:
            The request with the folder that was created, perhaps under another number; the same for a run that is
            continued.

        Raises:
            InputError: the folder cannot be created.
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
    """Request a new run.

    Args:
        out: folder of the run; None for a new one in ``runs/``.
        given: the experiment.

    Raises:
        InputError: the experiment is not valid.
    """
    experiment = Experiment.of(given.tables())
    experiment.check_folder()
    if out:
        return RunRequest(experiment, RunFolder(out))
    return RunRequest(experiment, RunFolder(free_path(Path("runs"), _run_name(experiment))), is_numbered=True)


def resume_request(out: Path | None, given: ExperimentOptions) -> RunRequest:
    """Request to continue a run, or to start one that has not begun.

    Args:
        out: folder of the run.
        given: the experiment.

    Raises:
        InputError: no folder is given, its run has another experiment, or the data set reads no files and a folder
            with them is given now.
    """
    if out is None:
        raise InputError("--resume needs --out, the folder of the run to continue")
    if not out.exists() and not given.names_experiment:
        raise InputError(
            f"there is no run at {out} to continue; to start one there, give its experiment: FILE.toml, --model or "
            "--data"
        )
    experiment = Experiment.of(given.tables())
    if given.names_folder:
        experiment.check_folder()
    return request_in_folder(experiment, RunFolder(out))


def request_in_folder(experiment: Experiment, folder: RunFolder) -> RunRequest:
    """Request a run in a folder, whether it has begun there or not.

    Args:
        experiment: the experiment to run.
        folder: the run's folder, which need not exist.

    Raises:
        InputError: the folder has another experiment, or no run.
    """
    if not folder.path.exists():
        return RunRequest(experiment, folder, note=f"there is no run at {folder.path} yet; starting it")
    different = differences(Experiment.of(folder.read_tables()).tables(), experiment.tables())
    if different:
        raise InputError(f"the run {folder.path} was begun as another experiment: {'; '.join(different)}")
    return RunRequest(experiment, folder, is_new=False)


def experiment_to_resume(out: Path | None) -> Path | None:
    """Return the experiment file of the run in a folder; None if there is no folder.

    Raises:
        InputError: the folder has no run.
    """
    if out is None or not out.exists():
        return None
    folder = RunFolder(out)
    folder.read_tables()
    return folder.experiment


def _run_name(experiment: Experiment) -> str:
    """Return the name of the folder of a run, without its number."""
    strategies = "+".join(plugin_stem(strategy.name) for strategy in experiment.strategies)
    start = experiment.start.run or experiment.start.weights
    source = [] if start is None else ["from", Path(start).stem]
    sparsity = [] if experiment.sparsity is None else [f"{experiment.sparsity:g}"]
    names = (plugin_stem(experiment.model.name), plugin_stem(experiment.dataset.name), strategies)
    return "-".join([*names, *source, *sparsity])


def plugin_stem(selection: str) -> str:
    """Return a plugin's name in names of folders.

    Args:
        selection: an installed name, 'package.module:Object' or 'file.py:Object'.

    Returns:
        The selection before its colon; of a file its name without folder and ending.
    """
    return Path(selection.partition(":")[0]).stem


@attrs.frozen(eq=False)
class CompletedRun:
    """A run that has finished.

    Attributes:
        experiment: the experiment of the run.
        start: topology before the first step.
        end: topology after the last step.
        result: accuracy, loss and counts.
    """

    experiment: Experiment
    start: Topology
    end: Topology
    result: Result


def ranks_for(tables: Tables) -> Ranks:
    """Return the processes that run an experiment together; from then on they share all errors.

    Args:
        tables: tables of the experiment.

    Raises:
        InputError: the backend is not available, or does not train in as many processes as were started.
    """
    backend, started = PluginChoice.of("backend", tables["backend"]), launch().size
    ranks = ranks_of(backend.plugin)
    if ranks.size != started:
        raise InputError(f"{started} processes were started, but the backend {backend.name!r} trains in {ranks.size}")
    return ranks


_COMPARED_SETTINGS = ("sparsity", "seed", "model", "strategy", "reallocation", "training", "backend")
"""Tables of an experiment that all ranks compare; the paths in data and start may differ between machines."""


def facts_to_agree_on(setup: Setup) -> dict[str, str]:
    """Return what must be equal on all ranks before there is a run folder and before they form a process group.

    Args:
        setup: the setup on this rank.

    Returns:
        Texts by the names that an error message calls them by: settings, the run's identity, and the start topology.
    """
    tables = setup.experiment.tables()
    settings = {f"setting {name!r}": json.dumps(tables.get(name), sort_keys=True) for name in _COMPARED_SETTINGS}
    return {**settings, **identity(setup), "topology": setup.start.topology.sha256()}


def execute_on_first_rank(
    request: RunRequest, setup: Setup, ranks: Ranks, resume_command: Callable[[RunFolder], str]
) -> CompletedRun:
    """Run an experiment on rank 0, or on the only process, and write its files.

    Args:
        request: the run.
        setup: setup of the run.
        ranks: all processes of the run.
        resume_command: returns the command that continues the run in a folder, for the message after an interrupt.

    Raises:
        OSError: a file cannot be written; a note names the command that continues the run.
    """
    from sparsecore.report import write_report

    created = _CreatedFiles()
    try:
        folder, participant = ranks.jointly(
            lambda: _create(request, setup, ranks, created), lambda both: both[1].run.facts()
        )
    except BaseException:
        created.remove()
        raise
    for note in created.notes:
        print_message(f"sparsecore: {note}")
    try:
        finished = _train(participant, setup)
        result = conclude(setup, finished, folder)
        write_report(folder.path)
    except KeyboardInterrupt:
        print_message(f"sparsecore: stopped; continue with: {resume_command(folder)}")
        raise
    except OSError as error:
        error.add_note(f"the last checkpoint is kept; continue with: {resume_command(folder)}")
        raise
    return CompletedRun(request.experiment, setup.start.topology, finished.state.topology, result)


def execute_on_other_rank(request: RunRequest, setup: Setup, ranks: Ranks) -> None:
    """Run an experiment on a rank other than 0, which writes no files and prints nothing.

    Args:
        request: the run, as on rank 0.
        setup: setup of the run on this rank.
        ranks: all processes of the run.

    Raises:
        DisagreementError: the ranks do not agree, or another one failed or ended.
    """
    folder = None if request.is_new else request.folder
    participant = ranks.jointly(lambda: reading_participant(setup, folder, ranks), lambda joined: joined.run.facts())
    participant.train(Callback())


def describe_backend(experiment: Experiment) -> str:
    """Describe which backend computes and in which dtype."""
    return f"computed by the {experiment.backend.name} backend in {experiment.backend.plugin.dtype}"


@attrs.define
class _CreatedFiles:
    """What rank 0 creates and finds out before all ranks agree to start the run."""

    folder: RunFolder | None = None
    participant: Participant | None = None
    notes: tuple[str, ...] = ()
    """The messages to print before training."""

    def remove(self) -> None:
        """Remove the folder, in which nothing has been trained, unless another process uses it by now."""
        if self.folder is None:
            return
        with suppress(InputError, OSError):
            if self.participant is not None:
                self.participant.writer.close()
            lock = self.folder.lock()
            shutil.rmtree(self.folder.path, ignore_errors=True)
            lock.release()


def _create(request: RunRequest, setup: Setup, ranks: Ranks, created: _CreatedFiles) -> tuple[RunFolder, Participant]:
    created.notes = tuple(_notes(request, setup))  # first, because a strategy is asked, and may fail
    folder = request.create_folder(setup).folder
    if request.is_new:
        created.folder = folder
    created.participant = writing_participant(setup, folder, ranks, request.observers)
    return folder, created.participant


def _notes(request: RunRequest, setup: Setup) -> Iterator[str]:
    """Yield the messages to print before training."""
    if request.note:
        yield request.note
    if sys.stderr is not None and sys.stderr.isatty():
        yield describe_backend(request.experiment)
    clock = setup.start.clock
    if request.is_new and setup.engine.moves_weights and setup.engine.first_update(setup.start) is None:
        yield (
            f"this run has no update, so no weight will move: none is due within its {clock.total_steps} steps "
            f"({clock.steps_per_epoch} per epoch); train for more epochs, with a smaller batch size or on another "
            "schedule"
        )


def _train(participant: Participant, setup: Setup) -> Finished:
    if sys.stderr is not None and sys.stderr.isatty():
        with RunProgressBar(setup.start.clock, setup.experiment.training.epochs) as bar:
            return participant.train(bar)
    return participant.train(Callback())
