"""Runs that are stopped after a step, to be resumed."""

from pathlib import Path
from typing import Any

import pytest

from sparsecore.experiment.experiment import Experiment
from sparsecore.learning.ranks import SingleProcess
from sparsecore.run.folder import RunFolder
from sparsecore.run.participants import writing_participant
from sparsecore.run.setup import set_up
from sparsecore.run.training import Callback


class StopsAt(Callback):
    """Stops a run after a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def step(self, clock: Any, totals: Any) -> None:  # noqa: ARG002
        if clock.step == self._step:
            raise KeyboardInterrupt


def stopped(whole: Path, out: Path, step: int) -> RunFolder:
    """A run of the same experiment that has been stopped after a step, with a checkpoint of every step."""
    folder, experiment = RunFolder(out), Experiment.of(RunFolder(whole).read_tables())
    setup = set_up(experiment, folder)
    folder.create(experiment.tables())
    participant = writing_participant(setup, folder, SingleProcess())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(participant.writer), "wants_checkpoint", True)
        with pytest.raises(KeyboardInterrupt):
            participant.train(StopsAt(step))
    return folder
