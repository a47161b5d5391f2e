"""A run that starts from another one: on its last topology, with the values that were asked for, and with no others."""

import shutil
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from command_line import small_images
from safetensors.numpy import load_file
from start_oracles import STILL, at, carry_out, dense, end, metrics, result, same, survivors, tensor_of, trained

from sparsecore.errors import InputError
from sparsecore.experiment.experiment import Experiment
from sparsecore.learning.ranks import SingleProcess
from sparsecore.run.checkpoint import read_checkpoint
from sparsecore.run.folder import RunFolder
from sparsecore.run.participants import writing_participant
from sparsecore.run.replay import replay
from sparsecore.run.setup import set_up
from sparsecore.run.training import Callback

pytestmark = pytest.mark.usefixtures("quick_runs")

PLAIN = ("--set", "training.momentum=0", "--set", "training.nesterov=false")
BACKENDS = ["numpy", "torch"]


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    images = small_images(tmp_path_factory.mktemp("data") / "small.npz")
    return ["--model", "lenet-12-8", "--data", "npz", "--data-dir", str(images), "--batch-size", "16"]


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "torch":
        pytest.importorskip("torch")
    return str(request.param)


class Runs:
    """Runs in a folder, of a backend."""

    def __init__(self, folder: Path, common: list[str]) -> None:
        self.folder, self._common = folder, common

    def within(self, folder: Path) -> "Runs":
        """Such runs in another folder."""
        return Runs(folder, self._common)

    def train(self, name: str, *arguments: str) -> Path:
        """A run of three epochs by this name."""
        folder = self.folder / name
        carry_out("train", *self._common, "--epochs", "3", *arguments, "--out", folder)
        return folder

    def start(self, name: str, run: Path, values: str, *arguments: str) -> Path:
        """A static run that starts from another one."""
        start = ("--set", f"start.run={run}", "--set", f"start.values={values}")
        return self.train(name, "--strategy", "static", *start, *arguments)


@pytest.fixture(scope="module")
def runs(backend: str, common: list[str], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A dense run, one of DPR that moved weights, and the values that both had at the start, of all positions."""
    runs = Runs(tmp_path_factory.mktemp("runs"), [*common, "--backend", backend])
    runs.train("dense", "--strategy", "static", "--sparsity", "0", "--set", "keep.epochs=[1,2]", *PLAIN)
    moving = ("--set", "strategy.dpr.schedule.steps=5", "--set", "strategy.dpr.target=8")
    runs.train("moved", "--sparsity", "0.8", *moving, "--set", "strategy.dpr.initial_threshold=0.1")
    runs.train("still", "--strategy", "static", "--sparsity", "0", *STILL)
    return runs


@pytest.fixture
def again(runs: Runs, tmp_path: Path) -> Runs:
    """Further runs in a folder that is the test's own."""
    return runs.within(tmp_path)


def test_original_values_follow_the_seed_even_at_initially_inactive_positions(runs: Runs, again: Runs) -> None:
    moved, all_values = end(runs.folder / "moved"), end(runs.folder / "still")
    begun = next(iter(replay(RunFolder(runs.folder / "moved"))))
    assert np.setdiff1d(moved["positions"], begun.arrays.to_numpy(begun.positions)).size > 0
    got = end(again.start("new", runs.folder / "moved", "original", *STILL))
    np.testing.assert_array_equal(got["positions"], moved["positions"])
    np.testing.assert_array_equal(got["learner/values"], at(all_values, moved["positions"]))


@pytest.mark.parametrize("known", [None, "0" * 64], ids=["by a version without fingerprints", "by another model"])
def test_original_values_that_cannot_be_drawn_again_are_refused_and_the_others_are_not(
    runs: Runs, again: Runs, known: str | None
) -> None:
    old = again.folder / "old"
    shutil.copytree(runs.folder / "dense", old)
    checkpoint = read_checkpoint(old / "checkpoint.safetensors")
    facts = {name: fact for name, fact in checkpoint.facts.items() if name != "initial values"}
    attrs.evolve(checkpoint, facts=facts | ({"initial values": known} if known else {})).write(
        old / "checkpoint.safetensors"
    )
    with pytest.raises(InputError, match=r"original values of the run .*old cannot be drawn again: .*train it again"):
        again.start("new", old, "original", *STILL)
    assert not (again.folder / "new").exists()
    again.start("other", old, "trained", *STILL)


def test_original_values_include_dense_parameters(runs: Runs, again: Runs) -> None:
    got = dense(end(again.start("new", runs.folder / "dense", "original", *STILL)))
    assert same(got, dense(end(runs.folder / "still")))
    assert not same(got, dense(end(runs.folder / "dense")))


def test_an_unpruned_run_with_original_values_repeats_the_source_run(runs: Runs, again: Runs) -> None:
    got = end(again.start("new", runs.folder / "dense", "original", *PLAIN))
    assert same(got, end(runs.folder / "dense"))


def test_original_values_of_a_run_with_a_source_are_its_own_start_values(runs: Runs, again: Runs) -> None:
    fresh = again.start("fresh", runs.folder / "moved", "fresh", *STILL, "--seed", "4")
    got = end(again.start("new", again.folder / "fresh", "original", *STILL, "--set", "start.prune=0.3"))
    np.testing.assert_array_equal(got["learner/values"], at(end(fresh), got["positions"]))
    assert same(trained(got), trained(end(fresh)))


def test_original_values_keep_the_signs_of_deepr(runs: Runs, again: Runs) -> None:
    quiet = ("--strategy", "deepr", "--set", "strategy.l1=0", "--set", "strategy.temperature=0")
    rewired = again.train("rewired", "--sparsity", "0.5", *quiet, *STILL)
    got = end(again.start("new", rewired, "original", *STILL))
    np.testing.assert_array_equal(got["learner/values"], end(rewired)["learner/values"])
    assert not np.array_equal(got["learner/values"], at(end(runs.folder / "still"), got["positions"]))


def test_fresh_values_differ_from_the_original_and_are_reproducible(runs: Runs, again: Runs) -> None:
    one, two, other = (
        end(again.start(name, runs.folder / "dense", "fresh", *STILL, "--seed", seed))
        for name, seed in (("one", "0"), ("two", "0"), ("other", "1"))
    )
    original = at(end(runs.folder / "still"), one["positions"])
    assert not np.isin(one["learner/values"], original).any()
    assert not np.isin(one["learner/values"], other["learner/values"]).any()
    assert same(one, two)
    # the same distribution: uniform within 1/sqrt(16) in the first layer, which has 16 inputs
    first = one["learner/values"][:192]
    assert 0.85 < first.std() / (1 / 4 / 3**0.5) < 1.15
    assert abs(first).max() <= 1 / 4


def test_trained_values_and_statistics_are_those_at_the_end_of_the_source(runs: Runs, again: Runs) -> None:
    folder = again.start("new", runs.folder / "dense", "trained", *STILL, "--set", "start.prune=0.5")
    got, source = end(folder), end(runs.folder / "dense")
    np.testing.assert_array_equal(got["learner/values"], at(source, got["positions"]))
    assert same(dense(load_file(folder / "start.safetensors")), dense(source))
    assert same(trained(got), trained(source))


def test_a_rewound_run_continues_from_its_epoch_like_the_source(runs: Runs, again: Runs) -> None:
    folder = again.start("new", runs.folder / "dense", "rewound", "--set", "start.epoch=1", *PLAIN)
    assert metrics(folder) == metrics(runs.folder / "dense")[1:]
    got, source = end(folder), end(runs.folder / "dense")
    np.testing.assert_array_equal(got["learner/values"], source["learner/values"])
    assert same(dense(got), dense(source))


def test_a_pruned_run_rewinds_to_the_kept_values(runs: Runs, again: Runs) -> None:
    settings = ("--set", "start.epoch=2", "--set", "start.prune=0.4", "--set", "training.learning_rate=0")
    got = end(again.start("new", runs.folder / "dense", "rewound", *settings))
    kept = load_file(runs.folder / "dense/epoch-2.safetensors")
    np.testing.assert_array_equal(got["positions"], survivors(runs.folder / "dense", int(0.4 * 304)))
    np.testing.assert_array_equal(got["learner/values"], at(kept, got["positions"]))


def test_starts_without_rewinding_begin_at_the_first_epoch_of_the_schedule(runs: Runs, again: Runs) -> None:
    for values in ("original", "fresh", "trained"):
        folder = again.start(values, runs.folder / "dense", values, "--set", "training.learning_rate={0=0.1,1=0.01}")
        lines = metrics(folder)
        assert [(line["epoch"], line["learning_rate"]) for line in lines] == [(1, 0.1), (2, 0.01), (3, 0.01)]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
def test_pruning_removes_the_smallest_weights_of_the_whole_network(runs: Runs, again: Runs, share: float) -> None:
    folder = again.start("new", runs.folder / "dense", "original", *STILL, "--set", f"start.prune={share}")
    got, expected = end(folder)["positions"], survivors(runs.folder / "dense", int(share * 304))
    np.testing.assert_array_equal(got, expected)
    assert result(folder)["sparsity"] == pytest.approx(1 - len(expected) / 304)
    left = np.bincount(tensor_of(folder, got)) / (192, 96, 16)
    assert np.ptp(left) > 0.05  # of each tensor alike would be something else


def test_pruning_keeps_the_largest_weight_of_every_tensor(runs: Runs, again: Runs) -> None:
    folder = again.start("new", runs.folder / "dense", "original", *STILL, "--set", f"start.prune={301 / 304}")
    source, got = end(runs.folder / "dense"), end(folder)["positions"]
    sizes, tensors = np.abs(source["learner/values"]), tensor_of(folder, source["positions"])
    largest = [np.flatnonzero(tensors == t)[np.argmax(sizes[tensors == t])] for t in range(3)]
    np.testing.assert_array_equal(got, source["positions"][largest])


def test_a_stopped_run_resumes_bit_for_bit_after_its_source_is_deleted(runs: Runs, again: Runs) -> None:
    shutil.copytree(runs.folder / "dense", again.folder / "source")
    whole = again.start("whole", again.folder / "source", "original", "--set", "start.prune=0.5")
    stopped = RunFolder(again.folder / "stopped")
    experiment = Experiment.of(RunFolder(whole).read_tables())
    setup = set_up(experiment, stopped)
    stopped.create(experiment.tables(), {"start.safetensors": setup.source.content() if setup.source else b""})
    with pytest.raises(KeyboardInterrupt):
        writing_participant(setup, stopped, SingleProcess()).train(Stopping())
    shutil.rmtree(again.folder / "source")
    carry_out("train", "--resume", "--out", stopped.path)
    for name in ("checkpoint.safetensors", "metrics.jsonl", "experiment.toml", "start.safetensors", "tensors.json"):
        assert (stopped.path / name).read_bytes() == (whole / name).read_bytes(), name


class Stopping(Callback):
    """Stops a run when its first epoch is over."""

    def epoch(self, line: Any) -> None:  # noqa: ARG002
        raise KeyboardInterrupt


def test_a_changed_start_file_is_refused(runs: Runs, again: Runs) -> None:
    one = again.start("one", runs.folder / "dense", "original")
    other = again.start("other", runs.folder / "dense", "fresh")
    shutil.copy(other / "start.safetensors", one)
    with pytest.raises(InputError, match="was made with other start"):
        carry_out("train", "--resume", "--out", one)


def test_resuming_with_another_start_is_refused_and_with_a_moved_source_accepted(runs: Runs, again: Runs) -> None:
    one = again.start("one", runs.folder / "dense", "original", "--set", "start.prune=0.5")
    shutil.copytree(runs.folder / "dense", again.folder / "copy")
    carry_out("train", "--resume", "--out", one, "--set", f"start.run={again.folder / 'copy'}")
    again.train("else", "--strategy", "static", "--sparsity", "0", "--seed", "1")
    with pytest.raises(InputError, match=r"was begun from .*dense; what .*else gives is something else"):
        carry_out("train", "--resume", "--out", one, "--set", f"start.run={again.folder / 'else'}")


def test_the_log_of_a_run_replays_from_where_it_started(runs: Runs, again: Runs) -> None:
    moving = ("--strategy", "dpr", "--set", "strategy.dpr.schedule.steps=5", "--set", "strategy.dpr.target=8")
    start = ("--set", f"start.run={runs.folder / 'moved'}", "--set", "start.values=trained")
    folder = again.train("new", *moving, *start, "--set", "strategy.dpr.initial_threshold=0.1")
    topologies = list(replay(RunFolder(folder)))
    assert topologies[0].sha256() == result(runs.folder / "moved")["topology_sha256"]
    assert topologies[-1].sha256() == result(folder)["topology_sha256"] != topologies[0].sha256()


def test_a_strategy_that_becomes_sparser_ends_at_the_sparsity(runs: Runs, again: Runs) -> None:
    start = ("--set", f"start.run={runs.folder / 'dense'}", "--set", "start.values=trained")
    folder = again.train("new", "--strategy", "gmp", "--set", "strategy.schedule.steps=3", *start, "--sparsity", "0.8")
    assert result(folder)["sparse_parameters"] == 60


def test_a_run_can_start_from_a_run_of_another_backend(runs: Runs, again: Runs) -> None:
    pytest.importorskip("torch")
    for name in BACKENDS:
        folder = again.start(name, runs.folder / "dense", "trained", *STILL, "--backend", name)
        np.testing.assert_array_equal(end(folder)["learner/values"], end(runs.folder / "dense")["learner/values"])
