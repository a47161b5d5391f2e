"""``sparsecore train --log``: runs with observers are the same runs, and logs go on where a run is resumed."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from command_line import SMALL, said, small_images, sparsecore, train

from sparsecore.cli.log_options import chosen_observers
from sparsecore.errors import InputError
from sparsecore.run.folder import RunFolder
from sparsecore.run.replay import replay

pytestmark = pytest.mark.usefixtures("quick_runs")

MINE = '''
import json

import attrs

from sparsecore.observers import Observer


@attrs.define(eq=False)
class Counting(Observer):
    """Counts its calls, in a file; interrupts the run, or fails, at some update."""

    path: str = "counts.jsonl"
    interrupt: int = -1
    fail: int = -1

    def add(self, *entry):
        with open(self.path, "a") as file:
            file.write(json.dumps(entry) + "\\n")

    def started(self, start):
        self.add("started", start.clock.step, start.folder.name, start.name, dict(start.saved), start.settings["seed"])

    def reallocated(self, update):
        self.add("reallocated", update.clock.step)
        if update.clock.updates == self.interrupt:
            raise KeyboardInterrupt
        if update.clock.updates == self.fail:
            raise OSError("the disk is full")

    def measured(self, step, metrics):
        self.add("measured", step, sorted(metrics))

    def state(self):
        return {"some": "id"}

    def ended(self):
        self.add("ended")
'''
SAME = ("checkpoint.safetensors", "metrics.jsonl", "reallocations.jsonl", "tensors.json", "experiment.toml")
LOGS = ("--log", "csv", "--set", "log.csv.itop=true", "--log", "tensorboard")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_images(tmp_path_factory.mktemp("data") / "small.npz")


@pytest.fixture(scope="module")
def runs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run without observers, one with, and one with that was interrupted and resumed."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "mine.py").write_text(MINE)
    settings = (*SMALL, "--data-dir", images, "--strategy", "dpr", "--set", "strategy.schedule.steps=2")
    train(*settings, "--set", "strategy.target=8", "--out", folder / "alone")
    train(*settings, "--set", "strategy.target=8", "--out", folder / "observed", *LOGS)
    mine = ("--log", "mine.py:Counting", "--set", "log.Counting.interrupt=7")
    arguments = (*settings, "--set", "strategy.target=8", "--out", folder / "resumed", *LOGS, *mine)
    stopped = sparsecore("train", *arguments, cwd=folder)
    assert stopped.returncode == 130, stopped.stderr
    counts = ("--set", f"log.Counting.path={folder / 'counts.jsonl'}", "--set", "log.Counting.interrupt=-1")
    train("--resume", "--out", folder / "resumed", *counts, cwd=tmp_path_factory.mktemp("elsewhere"))
    return folder


def log(run: Path) -> dict[tuple[int, str], float]:
    """The log of a run, each of whose lines is there once."""
    head, *rows = csv.reader((run / "log.csv").read_text().splitlines())
    assert head == ["step", "metric", "value"]
    values = {(int(step), name): float(value) for step, name, value in rows}
    assert len(values) == len(rows)
    return values


def test_a_run_with_observers_is_bit_for_bit_that_without(runs):
    for name in SAME:
        contents = {(runs / run / name).read_bytes() for run in ("alone", "observed", "resumed")}
        assert len(contents) == 1, name
    results = [json.loads((runs / run / "result.json").read_text()) for run in ("alone", "observed")]
    assert len({result["experiment_sha256"] for result in results}) == 1
    assert not (runs / "alone" / "observers.json").exists()


def test_the_log_has_the_metrics_of_updates_and_epochs(runs):
    values = log(runs / "observed")
    epochs = [json.loads(line) for line in (runs / "observed" / "metrics.jsonl").read_text().splitlines()]
    for line in epochs:
        step = line.pop("step")
        assert {name: values[step, name] for name in line} == line
    updates = [json.loads(line) for line in (runs / "observed" / "reallocations.jsonl").read_text().splitlines()]
    assert len(updates) > 7
    ever_active: set[int] = set()
    topologies = replay(RunFolder(runs / "observed"))
    steps = [0, *(line["step"] for line in updates)]
    for step, topology in zip(steps, topologies, strict=True):
        ever_active |= set(topology.positions.tolist())
        assert values[step, "itop_rate"] == len(ever_active) / topology.layout.size
        assert values[step, "sparsity"] == topology.sparsity
        for name, count, size in zip(topology.layout.names, topology.counts, topology.layout.sizes, strict=True):
            assert values[step, f"density/{name}"] == count / size
    for line in updates:
        assert values[line["step"], "pruned"] == line["moved"]
        assert values[line["step"], "dpr.threshold"] == line["metrics"]["dpr.threshold"]


def test_the_logs_of_a_resumed_run_are_those_of_the_uninterrupted_one(runs):
    assert log(runs / "resumed") == log(runs / "observed")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    scalars = []
    for run in ("observed", "resumed"):
        events = reader.EventAccumulator(str(runs / run / "tensorboard"))
        events.Reload()
        tags = events.Tags()["scalars"]
        scalars.append({tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags})
    assert scalars[0] == scalars[1]


def test_an_observer_of_ones_own_is_told_of_everything_and_resumed_with_its_state(runs):
    entries = [json.loads(line) for line in (runs / "counts.jsonl").read_text().splitlines()]
    assert entries[0] == ["started", 0, "resumed", "resumed", {}, 0]
    again = next(entry for entry in entries[1:] if entry[0] == "started")
    steps_per_epoch = next(entry for entry in entries if entry[0] == "measured")[1]
    assert again[1] > 0
    assert again[1] % steps_per_epoch == 0
    assert again[2:] == ["resumed", "resumed", {"some": "id"}, 0]
    assert Counter(entry[0] for entry in entries) == {
        "started": 2,
        "reallocated": 7 + sum(1 for entry in entries[entries.index(again) :] if entry[0] == "reallocated"),
        "measured": 3,
        "ended": 2,
    }
    assert entries[-1] == ["ended"]
    assert "test_accuracy" in next(entry for entry in entries if entry[0] == "measured")[2]


def test_an_observer_that_fails_is_left_out_and_the_run_ends_well(runs, images, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    failing = ("--log", "mine.py:Counting", "--set", "log.Counting.fail=1")
    settings = (*SMALL, "--data-dir", images, "--strategy", "dpr", "--set", "strategy.schedule.steps=2")
    done = sparsecore("train", *settings, "--set", "strategy.target=8", "--out", "run", *failing, cwd=tmp_path)
    assert done.returncode == 0
    assert "Counting has failed" in done.stderr
    assert "the disk is full" in done.stderr
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == (
        runs / "alone" / "checkpoint.safetensors"
    ).read_bytes()
    entries = [json.loads(line)[0] for line in (tmp_path / "counts.jsonl").read_text().splitlines()]
    assert entries == ["started", "reallocated", "ended"]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--log", "tensorbored"), ("no observer named 'tensorbored'", "tensorboard")),
        (("--log", "csv", "--log", "csv"), ("a log is given twice",)),
        (("--log", "csv", "--set", "log.csv.colour=red"), ("observer.csv", "'colour'", "path", "itop")),
        (("--set", "log.csv.itop=true"), ("no log named 'csv'", "--log csv")),
        (("--log", "csv", "--set", "log.itop=true"), ("log.NAME.option=value",)),
        (("--log", "csv", "--set", "log.csv.itop=3"), ("observer.csv.itop", "true or false")),
        (("--log", "sparsecore.errors:InputError"), ("is no observer",)),
        (("--log", "csv", "--set", "log.csv.path=/dev/null/x.csv"), ("CsvLog cannot be started",)),
    ],
)
def test_wrong_logs_are_refused_before_there_is_a_run(options, parts, images, tmp_path):
    done = sparsecore("train", *SMALL, "--data-dir", images, "--out", tmp_path / "run", *options)
    assert done.returncode == 2
    for part in parts:
        assert part in said(done)
    assert not (tmp_path / "run").exists()


def test_an_option_of_an_observer_from_a_file_is_given_by_its_class_or_with_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("one.py", "other.py"):
        (tmp_path / file).write_text(MINE)
    one, other = f"{tmp_path / 'one.py'}:Counting", f"{tmp_path / 'other.py'}:Counting"
    for setting in ("log.Counting.fail=3", "log.one.py:Counting.fail=3", f"log.{one}.fail=3"):
        assert chosen_observers(["one.py:Counting"], [setting], {})[one].plugin.fail == 3
    both = chosen_observers(["one.py:Counting", "other.py:Counting"], ["log.other.py:Counting.fail=3"], {})
    assert (both[one].plugin.fail, both[other].plugin.fail) == (-1, 3)
    with pytest.raises(InputError, match=r"log\.Counting may be .*one\.py:Counting or .*other\.py:Counting"):
        chosen_observers([one, other], ["log.Counting.fail=3"], {})
