"""A crafted checkpoint whose checksum is right is refused by one sentence that names the file."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from command_line import SMALL, small_images
from in_process import contents, run_in_process

from sparsecore.run.checkpoint import Checkpoint, read_checkpoint

pytestmark = pytest.mark.usefixtures("quick_runs")

Arrays = dict[str, Any]
Facts = dict[str, Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs, without its result; what its checkpoint is to have been is for each test to say."""
    folder = tmp_path_factory.mktemp("crafted")
    images = small_images(folder / "small.npz")
    settings = ["--set", "strategy.schedule.steps=3", "--set", "backend.name=numpy", "--set", "keep.epochs=[1]"]
    done = run_in_process("train", *SMALL, "--data-dir", images, *settings, "--out", folder / "run")
    assert done.status == 0, done.stderr
    (folder / "run/result.json").unlink()
    return folder / "run"


def array(name: str, change: Callable[[Any], Any]) -> Callable[[Arrays, Facts], None]:
    """Another array in the place of this one."""

    def craft(arrays: Arrays, facts: Facts) -> None:  # noqa: ARG001
        arrays[name] = change(arrays[name].copy())

    return craft


def entry(name: str, index: int, value: float) -> Callable[[Arrays, Facts], None]:
    """Another number in an array."""

    def change(numbers: Any) -> Any:
        numbers[index] = value
        return numbers

    return array(name, change)


def without(name: str) -> Callable[[Arrays, Facts], None]:
    """Without this array."""
    return lambda arrays, _: arrays.pop(name)


def fact(value: Any, *path: str) -> Callable[[Arrays, Facts], None]:
    """Another fact in the place of this one."""

    def craft(arrays: Arrays, facts: Facts) -> None:  # noqa: ARG001
        for part in path[:-1]:
            facts = facts[part]
        facts[path[-1]] = value

    return craft


def no_fact(*path: str) -> Callable[[Arrays, Facts], None]:
    """Without this fact."""

    def craft(arrays: Arrays, facts: Facts) -> None:  # noqa: ARG001
        for part in path[:-1]:
            facts = facts[part]
        del facts[path[-1]]

    return craft


def swapped(positions: Any) -> Any:
    positions[[3, 4]] = positions[[4, 3]]
    return positions


LEARNER = ("learner/values", "learner/momentum", "learner/dense", "learner/dense_momentum", "learner/running")
NAMES = (*LEARNER, "learner/steps", "learner/totals", "positions", "dense/layer1.norm.scale")

CRAFTED: dict[str, Callable[[Arrays, Facts], None]] = {
    "positions out of order": array("positions", swapped),
    "a position twice": array("positions", lambda positions: np.sort(np.r_[positions[:-1], positions[0]])),
    "a position below zero": entry("positions", 0, -1),
    "a position beyond the layout": entry("positions", -1, 10**6),
    "a position fewer": array("positions", lambda positions: positions[:-1]),
    "no positions at all": array("positions", lambda positions: positions[:0]),
    "positions in a table": array("positions", lambda positions: positions.reshape(-1, 2)),
    "positions as floats": array("positions", lambda positions: positions.astype(np.float64)),
    "positions as wider integers": array("positions", lambda positions: positions.astype(np.int64)),
    "positions as bools": array("positions", lambda positions: positions > 0),
    "a weight fewer in all arrays": lambda arrays, _: arrays.update(
        {name: arrays[name][1:] for name in ("positions", "learner/values", "learner/momentum")}
    ),
    **{f"{name} not finite": entry(name, 0, np.nan) for name in (*LEARNER, "learner/totals")},
    **{f"{name} without end": entry(name, 0, -np.inf) for name in LEARNER},
    **{f"no {name}": without(name) for name in NAMES},
    **{f"{name} longer": array(name, lambda numbers: np.r_[numbers, numbers[-1:]]) for name in NAMES},
    **{f"{name} empty": array(name, lambda numbers: numbers[:0]) for name in NAMES},
    **{f"{name} in a table": array(name, lambda numbers: numbers[None]) for name in NAMES},
    **{f"{name} of 16 bits": array(name, lambda numbers: numbers.astype(np.float16)) for name in NAMES},
    **{f"{name} of one byte": array(name, lambda numbers: numbers.astype(np.int8)) for name in NAMES},
    "a dense parameter not finite": entry("dense/layer1.norm.scale", 0, np.nan),
    "another tensor": lambda arrays, _: arrays.update({"learner/more": np.zeros(3, np.float32)}),
    "another array": lambda arrays, _: arrays.update({"more": np.zeros(3, np.float32)}),
    "another dense parameter": lambda arrays, _: arrays.update({"dense/more": np.zeros(3, np.float32)}),
    "a memory of no strategy": lambda arrays, _: arrays.update({"memory/set/more": np.zeros(3, np.float32)}),
    "a field of no memory": lambda arrays, _: arrays.update({"memory/dpr/more": np.zeros(3, np.float32)}),
    "a field of a memory as an array": lambda arrays, _: arrays.update({"memory/dpr/threshold": np.zeros(3)}),
    "steps below zero": entry("learner/steps", 0, -5),
    "more steps than there were": entry("learner/steps", 0, 22),
    "more hits than images": entry("learner/totals", 1, 10**9),
    "images below zero": entry("learner/totals", 2, -16),
    "no clock": no_fact("clock"),
    "a clock that is a list": fact([1, 2], "clock"),
    "a clock without updates": no_fact("clock", "updates"),
    "a clock with more": fact(1, "clock", "total_steps"),
    "a step that is a text": fact("7", "clock", "step"),
    "half a step": fact(7.5, "clock", "step"),
    "a step below zero": fact(-7, "clock", "step"),
    "a step beyond the end": fact(22, "clock", "step"),
    "a step in the middle of an epoch": fact(15, "clock", "step"),
    "a step without end": fact(10**40, "clock", "step"),
    "updates below zero": fact(-1, "clock", "updates"),
    "more updates than steps": fact(22, "clock", "updates"),
    "no last metrics": no_fact("last"),
    "last metrics of no epoch": fact(None, "last"),
    "last metrics that are a text": fact("good", "last"),
    "last metrics of another epoch": fact(2, "last", "epoch"),
    "last metrics of another step": fact(20, "last", "step"),
    "last metrics without a loss": no_fact("last", "test_loss"),
    "last metrics with a text": fact("0.5", "last", "test_loss"),
    "an accuracy above one": fact(1.5, "last", "test_accuracy"),
    "no memories": no_fact("memories"),
    "memories that are a list": fact([], "memories"),
    "no memory of a strategy": fact({}, "memories"),
    "a memory of another strategy": fact({"set": {}}, "memories"),
    "a memory that is a number": fact(3, "memories", "dpr"),
    "a memory without a field": fact({}, "memories", "dpr"),
    "a memory with another field": fact({"threshold": 0.1, "more": 1}, "memories", "dpr"),
    "a memory with a text": fact("high", "memories", "dpr", "threshold"),
    "a memory with a list": fact([0.1], "memories", "dpr", "threshold"),
    "a memory with nothing": fact(None, "memories", "dpr", "threshold"),
    "a memory with zero": fact(0.0, "memories", "dpr", "threshold"),
    "a memory with a truth": fact(True, "memories", "dpr", "threshold"),
    "no logs": no_fact("logs"),
    "logs that are a number": fact(3, "logs"),
    "a log without a length": no_fact("logs", "metrics", "bytes"),
    "a log of a length below zero": fact(-1, "logs", "metrics", "bytes"),
    "a log of a length that is a text": fact("9", "logs", "metrics", "bytes"),
    "a log that was longer": fact(10**6, "logs", "metrics", "bytes"),
    "a log with another digest": fact("0" * 32, "logs", "reallocations", "blake2b"),
    "no fingerprint of the data": no_fact("data"),
    "another experiment": fact("0" * 64, "experiment"),
}


@pytest.mark.parametrize("kind", CRAFTED)
def test_a_crafted_checkpoint_is_refused_naming_its_file_and_changes_nothing(
    run: Path, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    write_crafted(folder / "checkpoint.safetensors", CRAFTED[kind])
    before = contents(folder)
    ended = run_in_process("train", "--resume", "--out", folder)
    assert ended.status == 2
    assert str(folder) in ended.sentence
    assert "plugin" not in ended.sentence
    assert contents(folder) == before


def write_crafted(file: Path, craft: Callable[[Arrays, Facts], None]) -> None:
    """Change a checkpoint, and let its checksum be right."""
    known = read_checkpoint(file)
    arrays, facts = dict(known.arrays), copy.deepcopy(dict(known.facts))
    craft(arrays, facts)
    Checkpoint(facts, arrays).write(file)


AS_A_SOURCE = [
    "positions out of order",
    "a position beyond the layout",
    "a position fewer",
    "positions as floats",
    "learner/values not finite",
    "no positions",
    "no learner/values",
    "learner/values longer",
    "learner/values in a table",
    "dense/layer1.norm.scale longer",
    "no dense/layer1.norm.scale",
    "a dense parameter not finite",
    "last metrics that are a text",
    "last metrics with a text",
    "another experiment",
]


@pytest.mark.parametrize("kind", AS_A_SOURCE)
def test_a_run_does_not_start_from_a_crafted_checkpoint(run: Path, tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"
    shutil.copytree(run, source)
    write_crafted(source / "checkpoint.safetensors", CRAFTED[kind])
    sentence = start_from(run.parent / "small.npz", source, tmp_path / "run", "trained").sentence
    assert str(source) in sentence
    assert "plugin" not in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", AS_A_SOURCE[:12])
def test_a_run_does_not_start_from_crafted_values_of_an_epoch(run: Path, tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"
    shutil.copytree(run, source)
    write_crafted(source / "epoch-1.safetensors", CRAFTED[kind])
    sentence = start_from(
        run.parent / "small.npz", source, tmp_path / "run", "rewound", "--set", "start.epoch=1"
    ).sentence
    assert str(source / "epoch-1.safetensors") in sentence or "not there when the run" in sentence
    assert not (tmp_path / "run").exists()


STARTS: dict[str, Callable[[Arrays, Facts], None]] = {
    "positions out of order": CRAFTED["positions out of order"],
    "a position beyond the layout": CRAFTED["a position beyond the layout"],
    "a position fewer": CRAFTED["a position fewer"],
    "no positions": without("positions"),
    "no values": without("values"),
    "values not finite": entry("values", 0, np.nan),
    "values of whole numbers": array("values", lambda values: values.astype(np.int32)),
    "another array": CRAFTED["another array"],
    "a dense parameter longer": CRAFTED["dense/layer1.norm.scale longer"],
    "no dense parameter": without("dense/layer1.norm.scale"),
    "an epoch below zero": fact(-1, "epoch"),
    "an epoch that is a text": fact("1", "epoch"),
    "no run": no_fact("run"),
    "draws of nothing": fact({}, "draws"),
    "draws that are a text": fact("mine", "draws"),
}


@pytest.mark.parametrize("kind", STARTS)
def test_a_crafted_start_is_refused_naming_its_file(started: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(started, folder)
    write_crafted(folder / "start.safetensors", STARTS[kind])
    sentence = run_in_process("train", "--resume", "--out", folder).sentence
    assert str(folder / "start.safetensors") in sentence


@pytest.fixture(scope="module")
def started(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("started") / "run"
    assert start_from(run.parent / "small.npz", run, folder, "trained").status == 0
    for name in ("result.json", "checkpoint.safetensors"):
        (folder / name).unlink()
    return folder


def start_from(images: Path, source: Path, folder: Path, values: str, *more: str) -> Any:
    settings = {"start.run": f'"{source}"', "start.values": values, "backend.name": "numpy"}
    changed = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    arguments = [part for part in SMALL if part not in ("--sparsity", "0.8")]
    return run_in_process(
        "train", *arguments, "--data-dir", images, "--strategy", "static", *changed, *more, "--out", folder
    )


def test_an_edited_experiment_of_a_run_is_refused_as_a_start(run: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(run, source)
    experiment = source / "experiment.toml"
    experiment.write_text(experiment.read_text().replace("seed = 0", "seed = 7"))
    sentence = start_from(run.parent / "small.npz", source, tmp_path / "run", "original").sentence
    assert str(experiment) in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("log", ["metrics.jsonl", "reallocations.jsonl"])
def test_one_changed_digit_of_a_log_does_not_survive_a_resume(run: Path, tmp_path: Path, log: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    lines = (folder / log).read_bytes()
    place = next(i for i, letter in enumerate(lines) if chr(letter).isdigit())
    (folder / log).write_bytes(lines[:place] + bytes([lines[place] ^ 1]) + lines[place + 1 :])
    before = contents(folder)
    assert log in run_in_process("train", "--resume", "--out", folder).sentence
    assert contents(folder) == before


def test_the_genuine_run_resumes(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    assert run_in_process("train", "--resume", "--out", tmp_path / "run").status == 0


@pytest.mark.parametrize(
    "metadata",
    ["{", "[]", '"x"', "[" * 100_000, '{"format": "sparsecore checkpoint 2", "facts": 3}', "9" * 5000],
    ids=["cut", "list", "text", "deep", "number", "digits"],
)
def test_foreign_checkpoint_metadata_is_refused(run: Path, tmp_path: Path, metadata: str) -> None:
    from safetensors.numpy import save_file

    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    save_file({"positions": np.zeros(3, np.int32)}, folder / "checkpoint.safetensors", {"sparsecore": metadata})
    assert "checkpoint" in run_in_process("train", "--resume", "--out", folder).sentence


def test_memory_is_measured_once_however_often_a_run_is_finished(run: Path, tmp_path: Path) -> None:
    # the process was killed after the last checkpoint and before the result
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    ended = run_in_process("train", "--resume", "--out", folder, "--json")
    whole = run_in_process("train", folder / "experiment.toml", "--out", tmp_path / "whole", "--json")
    memory = [json.loads(each.stdout)["memory"] for each in (ended, whole)]
    assert memory[0] == memory[1]


def test_a_checkpoint_keeps_what_it_was_read_from(run: Path) -> None:
    known = read_checkpoint(run / "checkpoint.safetensors")
    assert str(run) in known.source
    assert attrs.evolve(known, source="x").sha256() == known.sha256()
