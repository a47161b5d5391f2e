"""The finished run that another one starts from."""

from collections.abc import Mapping
from pathlib import Path

import attrs
import numpy as np

from sparsecore.engine.arrays import Arrays
from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError
from sparsecore.experiment.conversion import structure
from sparsecore.experiment.experiment import Experiment
from sparsecore.run.checkpoint import Checkpoint, read_checkpoint
from sparsecore.run.checkpoint_validation import blaming, check_values
from sparsecore.run.folder import LOTTERY_FILE, RunFolder
from sparsecore.run.initialization import WarmStart
from sparsecore.run.logs import Metrics
from sparsecore.run.replay import check_settings, layout_of, start_of

FINGERPRINTS = ("experiment", "data", "plugin code", "start")


@attrs.frozen(eq=False)
class SourceRun:
    """The finished run that another one starts from.

    Attributes:
        folder: its files.
        experiment: what was run.
        end: its last state.
        start: its own warm start, if it had one.
    """

    folder: RunFolder
    experiment: Experiment
    end: Checkpoint
    start: WarmStart | None

    @classmethod
    def of(cls, path: str) -> "SourceRun":
        """The run in this folder.

        Raises:
            InputError: there is none, it is damaged, or it has not come to its end.
        """
        folder = RunFolder(Path(path))
        if not folder.path.exists():
            raise InputError(f"start.run is the folder of a finished run; there is none at {folder.path}")
        if (folder.path / LOTTERY_FILE).exists():
            raise InputError(f"{folder.path} is the folder of a lottery; give one of its runs, such as round-1 in it")
        tables = folder.read_tables()
        experiment = Experiment.of(tables)
        end = read_checkpoint(folder.checkpoint) if folder.checkpoint.exists() else None
        done = _epochs_done(end) if end else 0
        if end is None or done < experiment.training.epochs:
            raise InputError(
                f"start.run is the folder of a finished run; {folder.path} has done {done} of its "
                f"{experiment.training.epochs} epochs: resume it with sparsecore train --resume --out {folder.path}"
            )
        check_settings(folder, tables, end.facts)
        return cls(folder, experiment, end, start_of(folder, end.facts))

    @property
    def identity(self) -> Mapping[str, str]:
        """Fingerprints of its experiment, data, the code of plugins and, if it has one, its warm start."""
        return {name: self.end.facts[name] for name in FINGERPRINTS if name in self.end.facts}

    def topology(self, layout: Layout, arrays: Arrays, saved: Checkpoint | None = None) -> Topology:
        """The topology that it ended with, or that of another of its checkpoints.

        Args:
            layout: the sparse tensors of the new run.
            arrays: the operations of the backend that is to hold the positions.
            saved: a kept checkpoint; None for the last one.

        Raises:
            InputError: its layout is another one, or its last checkpoint is damaged.
        """
        saved = self.end if saved is None else saved
        self._check_layout(layout)
        self.check(saved, layout)
        return Topology.of(layout, arrays.from_numpy(saved.arrays["positions"]), arrays)

    def check(self, saved: Checkpoint, layout: Layout) -> None:
        """Check positions and values of one of its checkpoints.

        Args:
            saved: the last checkpoint or a kept one.
            layout: the sparse tensors of the new run, which must be those of this one.

        Raises:
            InputError: they are missing, not positions of the layout, or not finite.
        """
        try:
            check_values(
                saved.arrays.get("positions", np.zeros(0)),
                saved.arrays.get("learner/values"),
                saved.group("dense"),
                layout,
            )
        except InputError as error:
            raise InputError(f"{saved.source} is damaged: {error}") from error

    def kept(self, epoch: int) -> Checkpoint:
        """Its state at the end of an epoch.

        Args:
            epoch: the number of finished epochs, from 1.

        Raises:
            InputError: it has not been kept, is damaged, or is of another run or epoch.
        """
        if not self.folder.kept(epoch).exists():
            known = ", ".join(map(str, self.experiment.keep.epochs)) or "none"
            raise InputError(
                f"the run {self.folder.path} has not kept its values at the end of epoch {epoch}; kept: {known}. "
                "the setting keep.epochs, given when a run is begun, says which are kept"
            )
        saved = read_checkpoint(self.folder.kept(epoch))
        for name in FINGERPRINTS:
            if saved.facts.get(name) != self.end.facts.get(name):
                raise InputError(
                    f"{saved.source} is of another run than {self.end.source}: it was made with other {name}"
                )
        if _epochs_done(saved) != epoch:
            raise InputError(f"{saved.source} is of the end of epoch {_epochs_done(saved)}, not of epoch {epoch}")
        return saved

    def _check_layout(self, layout: Layout) -> None:
        found = layout_of(self.folder)
        there = dict(zip(found.names, found.shapes, strict=True))
        here = dict(zip(layout.names, layout.shapes, strict=True))
        for name in [*here, *there]:
            if there.get(name) != here.get(name):
                raise InputError(
                    f"the run {self.folder.path} is of another network: its sparse tensor {name!r} is "
                    f"{_shape(there.get(name))} there, {_shape(here.get(name))} here"
                )
        if tuple(there) != tuple(here):
            raise InputError(f"the run {self.folder.path} is of another network: its tensors are in another order")


def _epochs_done(end: Checkpoint) -> int:
    last = end.facts.get("last")
    if last is None:
        return 0
    with blaming(end):
        return structure(last, Metrics, "last").epoch


def _shape(shape: tuple[int, ...] | None) -> str:
    return "×".join(map(str, shape)) if shape else "none"
