"""Experiments in which young weights count their own steps: backends agree, and stopped runs resume bit for bit."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import small_images
from safetensors.numpy import load_file

from sparsecore.errors import InputError
from sparsecore.experiment.experiment import Experiment
from sparsecore.learning.ranks import SingleProcess
from sparsecore.run.folder import RunFolder
from sparsecore.run.participants import writing_participant
from sparsecore.run.setup import set_up
from sparsecore.run.training import Callback
from sparsecore_numpy import NumpyBackend

pytestmark = pytest.mark.usefixtures("quick_runs")

SUBJECTS = {
    "numpy": {"backend": {"name": "numpy", "dtype": "float64"}},
    "torch": {"backend": {"name": "torch", "dtype": "float64", "device": "cpu"}},
    "module": {"backend": {"name": "torch", "device": "cpu"}},
    "cpu": {"backend": {"name": "cpu"}},
}
MODULE = """
from torch import nn
def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 2))
"""


class StopsAt(Callback):
    """Stops a run after a step."""

    def __init__(self, last: int) -> None:
        self._last = last

    def step(self, clock: Any, totals: Any) -> None:  # noqa: ARG002
        if clock.step == self._last:
            raise KeyboardInterrupt


def experiment(folder: Path, name: str, young: str = "own-steps", optimizer: str = "adamw") -> Experiment:
    """Two epochs of seven steps with an update after every third."""
    (folder / "net.py").write_text(MODULE)
    model = {"name": f"{folder / 'net.py'}:network"} if name == "module" else {"name": "lenet-16-8"}
    return Experiment.of(
        {
            "sparsity": 0.7,
            **SUBJECTS[name],
            "model": model,
            "data": {"name": "npz", "dir": str(small_images(folder / "small.npz"))},
            "strategy": [{"name": "set", "schedule": {"steps": 3}}],
            "training": {"optimizer": optimizer, "epochs": 2, "batch_size": 16, "learning_rate": 0.01},
            "reallocation": {"young": young},
        }
    )


def trained(given: Experiment, out: Path, callback: Callback = Callback()) -> dict[str, Any]:
    """The arrays of the last checkpoint of a run, which may have been stopped before."""
    folder = RunFolder(out)
    setup = set_up(given, folder)
    if not out.exists():
        folder.create(given.tables())
    participant = writing_participant(setup, folder, SingleProcess())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(participant.writer), "wants_checkpoint", True)
        participant.train(callback)
    return dict(load_file(folder.checkpoint))


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_run_that_was_stopped_resumes_bit_for_bit_with_the_ages_of_its_weights(name: str, tmp_path: Path) -> None:
    needed = {"torch": "torch", "module": "torch", "cpu": "sparsecore_cpu._kernels", "numpy": "numpy"}[name]
    if find_spec(needed.split(".")[0]) is None or find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    given = experiment(tmp_path, name)
    whole = trained(given, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(given, tmp_path / "stopped", StopsAt(8))
    resumed = trained(given, tmp_path / "stopped")
    marks = set(whole["learner/young"].tolist())  # one more than the steps since the updates after 3, 6, 9 and 12 of 14
    assert {0, 3, 6} <= marks <= {0, 3, 6, 9, 12}
    assert whole.keys() == resumed.keys()
    for array, entries in whole.items():
        np.testing.assert_array_equal(entries, resumed[array], err_msg=array)
    none = trained(experiment(tmp_path, name, "none"), tmp_path / "none")
    assert "learner/young" not in none
    assert not np.array_equal(none["learner/values"], whole["learner/values"])


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_numpy_and_torch_come_to_the_same_weights(tmp_path: Path) -> None:
    ends = [trained(experiment(tmp_path, name, "damped"), tmp_path / name) for name in ("numpy", "torch")]
    np.testing.assert_array_equal(ends[0]["positions"], ends[1]["positions"])
    np.testing.assert_array_equal(ends[0]["learner/young"], ends[1]["learner/young"])
    np.testing.assert_allclose(ends[0]["learner/values"], ends[1]["learner/values"], rtol=1e-9)


def test_what_young_weights_get_is_refused_where_nothing_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"young = 'damped' is of optimizers with a bias correction.*; with sgd"):
        experiment(tmp_path, "numpy", "damped", "sgd")
    with pytest.raises(InputError, match="'young' must be in"):
        experiment(tmp_path, "numpy", "all")
    monkeypatch.setattr(NumpyBackend, "corrects_young_weights", False)
    with pytest.raises(InputError, match="young weights are to get own-steps, and the backend 'numpy'"):
        trained(experiment(tmp_path, "numpy"), tmp_path / "run")
