"""Opening a run on each rank: rank 0 writes the files of the folder, the others only read the checkpoint."""

import json
import warnings
from collections.abc import Mapping

import attrs

from sparsecore.errors import InputError, InputWarning
from sparsecore.experiment.conversion import structure
from sparsecore.learning.ranks import Ranks
from sparsecore.run.checkpoint import Checkpoint, read_checkpoint
from sparsecore.run.files import check_regular
from sparsecore.run.folder import RunFolder
from sparsecore.run.identity import identity
from sparsecore.run.recording import Effort, RunFolderWriter, RunWriter
from sparsecore.run.setup import Setup
from sparsecore.run.training import Callback, Finished, Run


@attrs.frozen(eq=False)
class Participant:
    """One rank's part in a run: the run itself, and what writes its files."""

    run: Run
    writer: RunWriter

    def train(self, callback: Callback) -> Finished:
        """Train to the end; see :meth:`sparsecore.run.training.Run.train`."""
        return self.run.train(self.writer, callback)


def writing_participant(setup: Setup, folder: RunFolder, ranks: Ranks) -> Participant:
    """Open the run for rank 0, or for the only process, which locks the folder until the end and writes its files.

    Raises:
        InputError: the folder is damaged, belongs to another experiment or other data, or another process is at work
            in it.
    """
    lock, own = folder.lock(), identity(setup)
    try:
        checkpoint = _checkpoint(own, folder)
        run = Run(setup, ranks, own, checkpoint, _effort(folder) if checkpoint else Effort())
        return Participant(run, RunFolderWriter(folder, lock, setup.start.topology, checkpoint))
    except BaseException:
        lock.release()
        raise


def reading_participant(setup: Setup, folder: RunFolder | None, ranks: Ranks) -> Participant:
    """Open the run for any other rank, which reads the checkpoint and writes nothing.

    Args:
        setup: of the run.
        folder: of the run that goes on; None for one that begins.
        ranks: who takes part.

    Raises:
        InputError: as for :func:`writing_participant`.
    """
    own = identity(setup)
    return Participant(Run(setup, ranks, own, None if folder is None else _checkpoint(own, folder)), RunWriter())


def _checkpoint(own: Mapping[str, str], folder: RunFolder) -> Checkpoint | None:
    """Where the run of this identity was left, if it was begun."""
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
        check_regular(folder.seconds, str(folder.seconds))
        return structure(json.loads(folder.seconds.read_text("utf-8")), Effort, folder.seconds.name)
    except (OSError, ValueError, RecursionError) as error:
        # how long it took is no reason to refuse a sound checkpoint
        warnings.warn(
            InputWarning(f"{folder.seconds} is damaged: {error}; the time before is not counted"), stacklevel=2
        )
        return Effort()
