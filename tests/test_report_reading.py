"""Run folders as they are found: killed while writing, damaged, or not runs at all."""

import json
import os

import pytest
from test_report import RESULT, epoch_line, update_line, write_run

from sparsecore.errors import InputError, InputWarning
from sparsecore.report.reading import read_run


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run", updates=[update_line(1), update_line(2)])


def test_a_run_reads_as_it_was_written(folder):
    run = read_run(folder)
    assert [(tensor.name, tensor.shape, tensor.active) for tensor in run.tensors] == [
        ("first.weight", (8, 4, 3, 3), 100),
        ("second.weight", (16, 8, 3, 3), 300),
    ]
    assert [epoch.test_loss for epoch in run.epochs] == [epoch_line(epoch)["test_loss"] for epoch in (1, 2, 3)]
    assert [update.step for update in run.updates] == [10, 20]
    assert run.updates[0].pruned == {"second.weight": 5}
    assert run.result is not None
    assert run.result.test_accuracy == RESULT["test_accuracy"]
    assert run.active == (100, 300)
    assert run.last_step == 45


@pytest.mark.parametrize("name", ["metrics.jsonl", "reallocations.jsonl"])
@pytest.mark.parametrize("partial", ['{"epoch": 4, "st', "\ufffd", json.dumps(epoch_line(4))])
def test_a_last_line_without_its_newline_is_ignored(folder, name, partial):
    expected = read_run(folder)
    with (folder / name).open("a", encoding="utf-8") as lines:
        lines.write(partial)
    assert read_run(folder) == expected


def test_a_last_line_cut_within_a_letter_is_ignored(folder):
    expected = read_run(folder)
    with (folder / "reallocations.jsonl").open("ab") as lines:
        lines.write('{"update": 3, "pruned": {"é'.encode()[:-1])
    assert read_run(folder) == expected


@pytest.mark.parametrize("missing", ["reallocations.jsonl", "result.json"])
def test_a_run_without_updates_or_result_can_be_read(folder, missing):
    (folder / missing).unlink()
    run = read_run(folder)
    assert (run.updates == ()) == (missing == "reallocations.jsonl")
    assert (run.result is None) == (missing == "result.json")


@pytest.mark.parametrize("name", ["metrics.jsonl", "reallocations.jsonl"])
@pytest.mark.parametrize("content", ["", "no newline"])
def test_a_finished_run_whose_log_has_lost_lines_is_refused_by_name(tmp_path, name, content):
    updates = [update_line(1), update_line(2)]
    folder = write_run(tmp_path / "run", updates=updates, result=RESULT | {"epochs": 3, "reallocations": 2})
    assert read_run(folder).last_step == 45
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=rf"{name} .*\b0\b.*\b[23]$"):
        read_run(folder)


@pytest.mark.parametrize("name", ["reallocations.jsonl", "result.json", "tensors.json"])
def test_a_pipe_in_a_run_folder_does_not_block_reading(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(InputError, match=name):
        read_run(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"5", b"\xff", b'{"seconds": "long"}', None])
def test_unreadable_durations_are_left_out_with_a_warning(folder, content):
    if content is None:
        os.mkfifo(folder / "seconds.json")
    else:
        (folder / "seconds.json").write_bytes(content)
    with pytest.warns(InputWarning, match="seconds.json"):
        assert read_run(folder).effort.seconds == 0


@pytest.mark.parametrize("missing", ["experiment.toml", "metrics.jsonl", "tensors.json"])
def test_a_folder_without_a_runs_files_is_refused_by_name(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(InputError, match=missing):
        read_run(folder)


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not the folder of a run"):
        read_run(tmp_path / "nowhere")


def without(key):
    return json.dumps({name: value for name, value in epoch_line(2).items() if name != key})


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"epoch": 2', "not valid JSON"),
        ("", "not valid JSON"),
        ("[2]", "expected a JSON object"),
        (without("step"), "'step' is missing"),
        (json.dumps({**epoch_line(2), "step": 1.5}), "1.5"),
        (json.dumps({**epoch_line(2), "epoch": True}), "True"),
        (json.dumps({**epoch_line(2), "train_loss": "low"}), "'low'"),
    ],
)
def test_a_damaged_line_is_named_with_its_file_and_number(folder, line, problem):
    good = json.dumps(epoch_line(1))
    (folder / "metrics.jsonl").write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(InputError) as caught:
        read_run(folder)
    assert str(folder / "metrics.jsonl") + ", line 2: " in str(caught.value)
    assert problem in str(caught.value)


def test_bytes_that_are_not_utf_8_are_reported_with_their_line(folder):
    (folder / "metrics.jsonl").write_bytes(json.dumps(epoch_line(1)).encode() + b"\n\xff\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: expected UTF-8"):
        read_run(folder)


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("tensors.json", '{"tensors": [\n{"name": "a",\n]}', "tensors.json, line 3: "),
        ("tensors.json", '{"tensors": [{"name": "a", "shape": 3, "active": 1}]}', "tensors.json, line 1: "),
        ("result.json", '{"test_accuracy": "good"}', "result.json, line 1: "),
        ("result.json", "{}", "test_accuracy"),
        ("result.json", "", "result.json, line 1: "),
        ("experiment.toml", "", "no settings"),
        ("experiment.toml", "presets = false\n", "no settings"),
        ("experiment.toml", "seed = 1\nseed =\n", "line 2"),
    ],
)
def test_a_damaged_file_is_named_with_the_line(folder, name, text, where):
    (folder / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read_run(folder)
    assert name in str(caught.value)
    assert where in str(caught.value)


def test_active_weights_follow_from_pruned_and_grown_counts(folder):
    moves = [({"first.weight": 7}, {"second.weight": 4}), ({"second.weight": 1}, {"first.weight": 2}), ({}, {})]
    lines = [update_line(n) | {"pruned": pruned, "grown": grown} for n, (pruned, grown) in enumerate(moves, 1)]
    (folder / "reallocations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    counts = [(update.active["first.weight"], update.active["second.weight"]) for update in read_run(folder).updates]
    assert counts == [(93, 304), (95, 303), (95, 303)]


@pytest.mark.parametrize(
    ("changed", "odd"),
    [
        ({"pruned": {"third.weight": 1}}, "third.weight"),
        ({"grown": {"third.weight": 1}}, "third.weight"),
    ],
)
def test_an_update_of_other_tensors_than_the_runs_is_refused_by_name(folder, changed, odd):
    (folder / "reallocations.jsonl").write_text(json.dumps(update_line(1) | changed) + "\n")
    with pytest.raises(InputError, match=rf"reallocations\.jsonl, line 1: .*{odd}"):
        read_run(folder)
