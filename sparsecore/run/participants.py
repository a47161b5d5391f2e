"""One rank's part in a run: the first writes the files of the folder, the others read its checkpoint."""

import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from types import MappingProxyType

import attrs

from sparsecore.errors import InputError, InputWarning
from sparsecore.experiment.assembly import experiment_fingerprint
from sparsecore.experiment.plugin_choice import PluginChoice
from sparsecore.learning.ranks import Ranks
from sparsecore.run.checkpoint import Checkpoint, read_checkpoint
from sparsecore.run.folder import RunFolder
from sparsecore.run.identity import identity
from sparsecore.run.logs import Effort, read_record
from sparsecore.run.observing import ObservingWriter
from sparsecore.run.recording import RunFolderWriter, RunWriter
from sparsecore.run.setup import Setup
from sparsecore.run.training import Callback, Finished, Run


@attrs.frozen(eq=False)
class Participant:
    """One rank's part in a run.

    Attributes:
        run: the run itself.
        writer: what writes its files; on all ranks but the first it writes nothing.
    """

    run: Run
    writer: RunWriter

    def train(self, callback: Callback) -> Finished:
        """Train to the end; see :meth:`sparsecore.run.training.Run.train`.

        Args:
            callback: called after steps, updates and epochs, on this rank.

        Raises:
            DivergedError: a loss or a weight is no longer finite.
            InvariantError: a plugin broke a promise.
            DisagreementError: the ranks have come to different results.
        """
        return self.run.train(self.writer, callback)


def writing_participant(
    setup: Setup, folder: RunFolder, ranks: Ranks, observers: Mapping[str, PluginChoice] = MappingProxyType({})
) -> Participant:
    """Open the run for rank 0, or for the only process, which locks the folder until the end and writes its files.

    Args:
        setup: the parts of the run that do not change.
        folder: the run's folder, which exists; with a checkpoint in it, the run is resumed.
        ranks: the processes that train together.
        observers: those that are called after updates and epochs, by the names that select them.

    Raises:
        InputError: the folder is damaged, belongs to another experiment or other data, another process is at work in
            it, or an observer cannot be started.
    """
    lock = folder.lock()
    try:
        own = _identity_in(setup, folder)
        checkpoint = _checkpoint(own, folder)
        run = Run(setup, ranks, own, checkpoint, _effort(folder) if checkpoint else Effort())
        writer: RunWriter = RunFolderWriter(folder, lock, setup.start.topology, checkpoint)
        with ExitStack() as opened:
            opened.callback(writer.close)
            if observers:
                writer = ObservingWriter(writer, observers, setup, folder, run.state)
            opened.pop_all()
        return Participant(run, writer)
    except BaseException:
        lock.release()
        raise


def reading_participant(setup: Setup, folder: RunFolder | None, ranks: Ranks) -> Participant:
    """Open the run for any other rank, which reads the checkpoint and writes nothing.

    Args:
        setup: the parts of the run that do not change.
        folder: the folder of a run that is resumed; None for one that begins.
        ranks: the processes that train together.

    Raises:
        InputError: as for :func:`writing_participant`.
    """
    own = identity(setup) if folder is None else _identity_in(setup, folder)
    return Participant(Run(setup, ranks, own, None if folder is None else _checkpoint(own, folder)), RunWriter())


def _identity_in(setup: Setup, folder: RunFolder) -> dict[str, str]:
    """The fingerprints of a run, of which that of the experiment is of the settings that its folder has.

    An earlier version may have begun the run: settings that it did not have are at their defaults, and are not in the
    fingerprint that it has written.
    """
    return {**identity(setup), "experiment": experiment_fingerprint(folder.read_tables())}


def _checkpoint(own: Mapping[str, str], folder: RunFolder) -> Checkpoint | None:
    """The checkpoint of the run, if it has one, which must be of this identity."""
    if not folder.checkpoint.exists():
        return None
    checkpoint = read_checkpoint(folder.checkpoint)
    for what, expected in own.items():
        if checkpoint.facts.get(what) != expected:
            raise InputError(f"{checkpoint.source} is foreign: it was made with other {what}")
    return checkpoint


def _effort(folder: RunFolder) -> Effort:
    if not folder.seconds.exists():
        return Effort()
    try:
        return read_record(folder.seconds, Effort)
    except InputError as error:
        # how long it took is no reason to refuse a sound checkpoint
        warnings.warn(InputWarning(f"{error}; the time before is not counted"), stacklevel=2)
        return Effort()
