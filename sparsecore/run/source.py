"""A finished run that another one starts from."""

from collections.abc import Mapping
from pathlib import Path

import attrs
import numpy as np

from sparsecore import lottery
from sparsecore.arrays import Arrays
from sparsecore.errors import InputError
from sparsecore.experiment.comparison import experiment_fingerprint
from sparsecore.experiment.experiment import Experiment
from sparsecore.experiment.structure import structure
from sparsecore.layout import Layout
from sparsecore.run.checkpoint import Checkpoint, read_checkpoint
from sparsecore.run.checkpoint_checks import blaming, check_values
from sparsecore.run.folder import RunFolder
from sparsecore.run.records import Metrics
from sparsecore.run.replay import layout_of
from sparsecore.run.start import Start
from sparsecore.topology import Topology

FINGERPRINTS = ("experiment", "data", "plugin code", "start")


@attrs.frozen(eq=False)
class Source:
    """A finished run.

    Attributes:
        folder: its files.
        experiment: what was run.
        end: its last state.
        start: what it started on itself, if that was taken from another run.
    """

    folder: RunFolder
    experiment: Experiment
    end: Checkpoint
    start: Start | None

    @classmethod
    def of(cls, path: str) -> "Source":
        """The run in this folder.

        Raises:
            InputError: there is none, it is damaged, or it has not come to its end.
        """
        folder = RunFolder(Path(path))
        if not folder.path.exists():
            raise InputError(f"start.run is the folder of a finished run; there is none at {folder.path}")
        if (folder.path / lottery.FILE).exists():
            raise InputError(f"{folder.path} is the folder of a lottery; give one of its runs, such as round-1 in it")
        experiment = Experiment.of(folder.read_tables())
        end = read_checkpoint(folder.checkpoint) if folder.checkpoint.exists() else None
        done = _epochs_done(end) if end else 0
        if end is None or done < experiment.training.epochs:
            raise InputError(
                f"start.run is the folder of a finished run; {folder.path} has done {done} of its "
                f"{experiment.training.epochs} epochs: go on with it by sparsecore train --resume --out {folder.path}"
            )
        if end.facts.get("experiment") != experiment_fingerprint(experiment.tables()):
            raise InputError(
                f"{folder.experiment} has changed since the run {folder.path} was trained: its checkpoint was made "
                "with other settings"
            )
        return cls(folder, experiment, end, Start.read(folder.start) if folder.start.exists() else None)

    @property
    def identity(self) -> Mapping[str, str]:
        """Fingerprints of its experiment, data, plugins' code and, if it has one, start."""
        return {name: self.end.facts[name] for name in FINGERPRINTS if name in self.end.facts}

    def topology(self, layout: Layout, arrays: Arrays) -> Topology:
        """The topology that it ended with.

        Raises:
            InputError: its layout is another one.
        """
        self._check_layout(layout)
        self.check(self.end, layout)
        return Topology.of(layout, arrays.from_numpy(self.end.arrays["positions"]), arrays)

    def check(self, moment: Checkpoint, layout: Layout) -> None:
        """Raise an :class:`InputError` unless the positions and values of one of its checkpoints can be."""
        try:
            check_values(
                moment.arrays.get("positions", np.zeros(0)),
                moment.arrays.get("learner/values"),
                moment.group("dense"),
                layout,
            )
        except InputError as error:
            raise InputError(f"{moment.source} is damaged: {error}") from error

    def kept(self, epoch: int) -> Checkpoint:
        """Its state at the end of this epoch.

        Raises:
            InputError: it has not been kept.
        """
        if not self.folder.kept(epoch).exists():
            known = ", ".join(map(str, self.experiment.keep.epochs)) or "none"
            raise InputError(
                f"the run {self.folder.path} has not kept its values at the end of epoch {epoch}; kept: {known}. "
                "keep.epochs says before a run which are"
            )
        return read_checkpoint(self.folder.kept(epoch))

    def _check_layout(self, layout: Layout) -> None:
        found = layout_of(self.folder)
        there = dict(zip(found.names, found.shapes, strict=True))
        here = dict(zip(layout.names, layout.shapes, strict=True))
        for name in [*here, *there]:
            if there.get(name) != here.get(name):
                raise InputError(
                    f"the run {self.folder.path} is of another network: its sparse tensor {name!r} is "
                    f"{_told(there.get(name))} there, {_told(here.get(name))} here"
                )
        if tuple(there) != tuple(here):
            raise InputError(f"the run {self.folder.path} is of another network: its tensors are in another order")


def _epochs_done(end: Checkpoint) -> int:
    last = end.facts.get("last")
    if last is None:
        return 0
    with blaming(end):
        return structure(last, Metrics, "last").epoch


def _told(shape: tuple[int, ...] | None) -> str:
    return "×".join(map(str, shape)) if shape else "none"
