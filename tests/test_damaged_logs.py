"""Lines of a run's logs that are damaged are sentences with the file and the line, in reports and in replays."""

import base64
import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import SMALL, small_images
from in_process import run_in_process

from sparsecore.errors import InputError
from sparsecore.run.folder import RunFolder
from sparsecore.run.replay import replay

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    images = small_images(folder / "small.npz")
    settings = ["--set", "strategy.schedule.steps=3", "--set", "backend.name=numpy"]
    done = run_in_process("train", *SMALL, "--data-dir", images, *settings, "--out", folder / "run")
    assert done.status == 0, done.stderr
    return folder / "run"


def packed(*positions: int) -> str:
    differences = np.diff(np.array(positions, "<i8"), prepend=0)
    return base64.b64encode(zlib.compress(differences.astype("<i8").tobytes())).decode()


def changed(**entries: Any) -> Callable[[bytes], bytes]:
    """The line with other entries."""
    return lambda line: json.dumps({**json.loads(line), **entries}).encode()


def without(name: str) -> Callable[[bytes], bytes]:
    return lambda line: json.dumps({key: entry for key, entry in json.loads(line).items() if key != name}).encode()


BOTH: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda line: line[:30],
    "a list": lambda _: b"[1, 2]",
    "a number": lambda _: b"3",
    "nested deeply": lambda _: b'{"step": ' + b"[" * 100_000,
    "a number of thousands of digits": changed(step="STEP"),
    "no UTF-8": lambda line: line.replace(b'"step"', b'"st\xffep"'),
    "no step": without("step"),
    "half a step": changed(step=2.5),
}
POSITIONS: dict[str, Callable[[bytes], bytes]] = {
    "no base 64": changed(pruned_positions="***"),
    "nothing packed": changed(pruned_positions=base64.b64encode(b"not zlib").decode()),
    "a packed text cut off": lambda line: changed(pruned_positions=json.loads(line)["pruned_positions"][:-8])(line),
    "not whole numbers": changed(pruned_positions=base64.b64encode(zlib.compress(b"123")).decode()),
    "more than it counts": changed(pruned_positions=packed(*range(70))),
    "a thousand times more": changed(pruned_positions=base64.b64encode(zlib.compress(bytes(10**7))).decode()),
    "beyond the layout": changed(pruned={"x": 2}, pruned_positions=packed(5, 10**9)),
    "below zero": changed(pruned={"x": 2}, pruned_positions=packed(-4, 3)),
    "twice the same": changed(pruned={"x": 2}, pruned_positions=packed(4, 4)),
    "without end": changed(pruned={"x": 2}, pruned_positions=packed(2**62, -(2**63))),
    "a number in place of a text": changed(pruned_positions=3),
    "a text in place of counts": changed(pruned="many"),
    "counts that are texts": changed(pruned={"x": "2"}),
    "a count without end": changed(pruned={"x": 10**30}),
    "a count below zero": changed(pruned={"x": -2}),
    "no positions": without("grown_positions"),
    "positions that were not there": changed(pruned={"x": 1}, pruned_positions=packed(303)),
}


def damaged(run: Path, folder: Path, log: str, damage: Callable[[bytes], bytes]) -> Path:
    shutil.copytree(run, folder)
    first, *others = (folder / log).read_bytes().splitlines()
    line = damage(first).replace(b'"STEP"', b"9" * 5000)
    (folder / log).write_bytes(b"\n".join([line, *others]) + b"\n")
    return folder


@pytest.mark.parametrize("kind", [*BOTH, *POSITIONS])
def test_a_damaged_line_of_updates_stops_a_replay_with_its_number(run: Path, tmp_path: Path, kind: str) -> None:
    folder = damaged(run, tmp_path / "run", "reallocations.jsonl", {**BOTH, **POSITIONS}[kind])
    with pytest.raises(InputError, match=r"line 1 of .*reallocations.jsonl"):
        list(replay(RunFolder(folder)))


@pytest.mark.parametrize("log", ["metrics.jsonl", "reallocations.jsonl"])
@pytest.mark.parametrize("kind", BOTH)
def test_a_damaged_line_stops_a_report_with_its_number(run: Path, tmp_path: Path, kind: str, log: str) -> None:
    folder = damaged(run, tmp_path / "run", log, BOTH[kind])
    sentence = run_in_process("report", folder).sentence
    assert log in sentence
    assert "line 1" in sentence


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"tensors": 3}', b'{"tensors": [{"name": 3}]}', b"[" * 100_000, b"\xff"],
    ids=["empty", "list", "table", "number", "names", "deep", "no UTF-8"],
)
def test_a_damaged_tensor_list_raises_one_error_sentence(run: Path, tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "tensors.json").write_bytes(content)
    with pytest.raises(InputError, match=r"tensors\.json"):
        list(replay(RunFolder(folder)))
    assert "tensors.json" in run_in_process("report", folder).sentence


EMPTIED = {"empty": b"", "no table": b"5\n", "a brace": b"{", "an empty table": b"{}", "no UTF-8": b"\xff\xfe\x00"}


@pytest.mark.parametrize("content", EMPTIED)
@pytest.mark.parametrize("name", ["experiment.toml", "result.json", "tensors.json"])
def test_a_report_of_a_run_with_a_damaged_file_raises_one_error_sentence_naming_it(
    run: Path, tmp_path: Path, name: str, content: str
) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(EMPTIED[content])
    ended = run_in_process("report", tmp_path / "run")
    assert ended.status == 2
    assert name in ended.sentence


@pytest.mark.parametrize("content", [b"", b"presets = false\n"])
def test_a_run_whose_experiment_file_is_empty_does_not_resume_with_defaults(
    run: Path, tmp_path: Path, content: bytes
) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/experiment.toml").write_bytes(content)
    ended = run_in_process("train", "--resume", "--out", tmp_path / "run")
    assert ended.status == 2
    assert "experiment.toml" in ended.sentence


@pytest.mark.parametrize("finished", [True, False])
def test_a_report_shows_no_settings_that_the_run_did_not_have(run: Path, tmp_path: Path, finished: bool) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(run, folder.path)
    if not finished:
        folder.result.unlink()
    assert run_in_process("report", folder.path).status == 0
    settings = folder.experiment.read_text("utf-8")
    folder.experiment.write_text(settings.replace("batch_size = 16", "batch_size = 17"), "utf-8")
    ended = run_in_process("report", folder.path)
    assert ended.status == 2
    assert "other settings" in ended.sentence


@pytest.mark.parametrize("number", ["test_accuracy", "test_loss", "sparse_parameters"])
def test_a_report_shows_no_numbers_that_the_run_did_not_have(run: Path, tmp_path: Path, number: str) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(run, folder.path)
    result = json.loads(folder.result.read_text("utf-8"))
    changed = {**result, number: result[number] + 1}
    without_checksum = {key: value for key, value in changed.items() if key != "sha256"}
    for content, sentence in ((changed, "checksum"), (without_checksum, number)):
        folder.result.write_text(json.dumps(content), "utf-8")
        ended = run_in_process("report", folder.path)
        assert ended.status == 2
        assert sentence in ended.sentence


@pytest.mark.filterwarnings("ignore::sparsecore.errors.InputWarning")
@pytest.mark.parametrize("content", [*EMPTIED, "a time below zero", "no number"])
def test_damaged_durations_are_treated_as_missing(run: Path, tmp_path: Path, content: str) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(run, folder.path)
    damage = {**EMPTIED, "a time below zero": b'{"seconds": -4e9}', "no number": b'{"seconds": NaN}'}
    for is_finished in (True, False):
        folder.seconds.write_bytes(damage[content])
        if not is_finished:
            folder.result.unlink()
            folder.report.unlink()
        ended = run_in_process("train", "--resume", "--out", folder.path)
        assert ended.status == 0, ended.stderr
        assert folder.report.exists()
        assert 0 <= json.loads(folder.result.read_text("utf-8"))["seconds"] < 1000


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(("log", "entry"), [("metrics.jsonl", "train_loss"), ("reallocations.jsonl", "moved")])
def test_a_report_refuses_a_log_with_one_number_changed(
    run: Path, tmp_path: Path, log: str, entry: str, finished: bool
) -> None:
    folder = damaged(run, tmp_path / "run", log, changed(**{entry: 0.123}))
    if not finished:
        (folder / "result.json").unlink()
    ended = run_in_process("report", folder)
    assert ended.status == 2
    assert log in ended.sentence
