"""A run may start with as many weights in each tensor as another one ended with, at positions that are its own."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import small_images
from start_oracles import STILL, carry_out, end, tensor_of

from sparsecore.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_runs")

MOVING = ("strategy.dpr.schedule.steps=2", "strategy.dpr.target=12", "strategy.dpr.initial_threshold=0.1")
CONTROL = ("start.active=densities", "start.values=fresh")


class Runs:
    """Runs of a small network in a folder."""

    def __init__(self, folder: Path, backend: str) -> None:
        self._common = ["--model", "lenet-12-8", "--data", "npz", "--batch-size", "16", "--backend", backend]
        self._folder, self._images = folder, small_images(folder / "small.npz")

    def train(self, name: str, *arguments: str, strategy: str = "static", settings: tuple[str, ...] = ()) -> Path:
        chosen = [part for setting in settings for part in ("--set", setting)]
        data = ("--data-dir", str(self._images))
        run = self._folder / name
        carry_out("train", *self._common, *data, "--strategy", strategy, *STILL, *arguments, *chosen, "--out", run)
        return run

    def control(self, name: str, source: Path, *arguments: str, settings: tuple[str, ...] = CONTROL) -> Path:
        return self.train(name, *arguments, settings=(f"start.run={source}", *settings))


@pytest.fixture(scope="module", params=["numpy", "torch", "cpu", pytest.param("jax", marks=pytest.mark.slow)])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    pytest.importorskip(f"sparsecore_{request.param}")
    return Runs(tmp_path_factory.mktemp("runs"), request.param)


@pytest.fixture(scope="module")
def moved(runs: Runs) -> Path:
    """A run of DPR that ends with other densities than it began with."""
    run = runs.train("moved", "--sparsity", "0.7", "--epochs", "3", strategy="dpr", settings=MOVING)
    assert counts(run).tolist() != [int(0.3 * size + 1e-9) for size in (192, 96, 16)]
    return run


def counts(run: Path) -> np.ndarray:
    return np.bincount(tensor_of(run, end(run)["positions"]), minlength=3)


@pytest.mark.parametrize("seed", ["0", "1", "7"])
def test_each_tensor_has_as_many_weights_as_at_the_end_of_the_source(runs: Runs, moved: Path, seed: str) -> None:
    control = runs.control(f"control-{seed}", moved, "--seed", seed)
    np.testing.assert_array_equal(counts(control), counts(moved))
    positions, theirs = end(control)["positions"], end(moved)["positions"]
    assert not np.array_equal(positions, theirs)
    # of n random positions of D, about n²/D are among n others
    expected = sum(n * n / size for n, size in zip(counts(moved), (192, 96, 16), strict=True))
    assert abs(np.isin(positions, theirs).sum() - expected) < 20


def test_positions_depend_on_the_seed_and_on_the_numbers_alone(runs: Runs) -> None:
    sources = [runs.train(f"source-{seed}", "--sparsity", "0.8", "--seed", seed) for seed in ("1", "2")]
    one, two = (runs.control(f"of-{source.name}", source, "--seed", "1") for source in sources)
    other = runs.control("other", sources[0], "--seed", "3")
    np.testing.assert_array_equal(end(one)["positions"], end(two)["positions"])
    for positions in (end(sources[0])["positions"], end(other)["positions"]):
        assert not np.array_equal(end(one)["positions"], positions)


def test_original_values_are_those_of_the_source_at_every_position(runs: Runs, moved: Path) -> None:
    control = end(runs.control("original", moved, settings=("start.active=densities", "start.values=original")))
    everywhere = end(runs.train("everywhere", "--sparsity", "0"))
    np.testing.assert_array_equal(control["learner/values"], everywhere["learner/values"][control["positions"]])


def test_units_are_drawn_whole(runs: Runs) -> None:
    blocks = ("reallocation.units=2x4",)
    source = runs.train("blocks", "--sparsity", "0.5", settings=blocks)
    control = runs.control("of-blocks", source, "--seed", "4", settings=(*CONTROL, *blocks))
    np.testing.assert_array_equal(counts(control), counts(source))
    mask = np.zeros(192, bool)
    mask[end(control)["positions"][: counts(control)[0]]] = True
    shares = mask.reshape(6, 2, 4, 4).mean((1, 3))
    assert set(shares.ravel()) == {0.0, 1.0}


def test_a_control_is_resumed_without_its_source(runs: Runs, moved: Path, tmp_path: Path) -> None:
    source, run = tmp_path / "source", tmp_path / "run"
    shutil.copytree(moved, source)
    shutil.copytree(runs.control("whole", source, "--epochs", "2"), run)
    shutil.rmtree(source)
    before = end(run)["positions"]
    (run / "checkpoint.safetensors").unlink()
    (run / "result.json").unlink()
    carry_out("train", "--resume", "--out", run)
    np.testing.assert_array_equal(end(run)["positions"], before)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("start.active=densities", "sparsity=0.5"), "number of active weights of each tensor from run.*without it"),
        (("start.run={moved}", *CONTROL, "sparsity=0.5"), "already sets the sparsity"),
        (("start.run={moved}", *CONTROL, "start.prune=0.5"), "given with active"),
        (("start.run={moved}", "start.active=densities", "start.values=trained"), "were not there when the run"),
        (("start.run={moved}", *CONTROL, "model.hidden=[13, 8]"), "of another network"),
    ],
)
def test_what_has_no_densities_to_start_from_is_refused(
    runs: Runs, moved: Path, settings: tuple[str, ...], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        runs.train("refused", settings=tuple(setting.format(moved=moved) for setting in settings))
