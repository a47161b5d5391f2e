"""``sparsecore lottery``: each round has the largest weights of the one before, with the values of the first."""

import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import said, small_images, sparsecore
from safetensors.numpy import load_file
from start_oracles import at, carry_out, dense, end, metrics, result, same, survivors
from test_report import csv_of

from sparsecore.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_runs")

ROUNDS = 3


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    images = small_images(tmp_path_factory.mktemp("data") / "small.npz")
    schedule = ("--set", "training.learning_rate={ 0 = 0.1, 1 = 0.05 }")
    shape = ("--model", "lenet-12-8", "--data", "npz", "--data-dir", str(images), "--batch-size", "16")
    return [*shape, "--epochs", "2", *schedule]


@pytest.fixture(scope="module", params=["numpy", "torch", pytest.param("jax", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "torch":
        pytest.importorskip("torch")
    return str(request.param)


@pytest.fixture(scope="module")
def original(backend: str, common: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lottery of three rounds with controls."""
    folder = tmp_path_factory.mktemp("lotteries") / "original"
    settings = ("--backend", backend, "--rounds", str(ROUNDS), "--prune", "0.3", "--control")
    carry_out("lottery", *common, *settings, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def rewound(backend: str, common: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lottery that returns to the end of the first epoch."""
    folder = tmp_path_factory.mktemp("lotteries") / "rewound"
    settings = ("--backend", backend, "--rounds", str(ROUNDS), "--rewind", "1")
    carry_out("lottery", *common, *settings, "--out", folder)
    return folder


@pytest.mark.parametrize("number", range(1, ROUNDS + 1))
def test_each_round_keeps_the_largest_weights_of_the_previous_network(original: Path, number: int) -> None:
    before, now = original / f"round-{number - 1}", original / f"round-{number}"
    count = int(0.3 * result(before)["sparse_parameters"])
    np.testing.assert_array_equal(end(now)["positions"], survivors(before, count))
    assert result(now)["sparsity"] == pytest.approx(1 - 0.7**number, abs=0.01)


def test_no_pruned_weight_returns(original: Path) -> None:
    topologies = [end(original / f"round-{number}")["positions"] for number in range(ROUNDS + 1)]
    for before, after in itertools.pairwise(topologies):
        assert np.isin(after, before).all()
        assert len(after) < len(before)


def test_every_round_starts_with_the_original_values(
    original: Path, common: list[str], backend: str, tmp_path: Path
) -> None:
    still = ("--strategy", "static", "--sparsity", "0", "--backend", backend, "--set", "training.learning_rate=0")
    carry_out("train", *common, *still, "--out", tmp_path / "still")
    values = end(tmp_path / "still")
    for number in range(1, ROUNDS + 1):
        start = load_file(original / f"round-{number}/start.safetensors")
        np.testing.assert_array_equal(start["values"], at(values, start["positions"]))
        assert not np.isin(start["values"], end(original / f"round-{number - 1}")["learner/values"]).any()
        for name, array in dense(start).items():
            # scales are one, shifts and biases zero; statistics as if nothing had been seen
            assert (array == float(name.endswith(("scale", "variance")))).all(), name


def test_every_round_starts_with_the_values_of_the_rewound_epoch(rewound: Path) -> None:
    kept = load_file(rewound / "round-0/epoch-1.safetensors")
    for number in range(1, ROUNDS + 1):
        start = load_file(rewound / f"round-{number}/start.safetensors")
        np.testing.assert_array_equal(start["values"], at(kept, start["positions"]))
        assert same(dense(start), dense(kept))
        count = int(0.2 * result(rewound / f"round-{number - 1}")["sparse_parameters"])
        np.testing.assert_array_equal(start["positions"], survivors(rewound / f"round-{number - 1}", count))


def test_the_schedule_of_every_round_starts_at_its_first_epoch(original: Path, rewound: Path) -> None:
    for folder, epochs in ((original, [(1, 0.1), (2, 0.05)]), (rewound, [(2, 0.05)])):
        for number in range(1, ROUNDS + 1):
            lines = metrics(folder / f"round-{number}")
            assert [(line["epoch"], line["learning_rate"]) for line in lines] == epochs


@pytest.mark.usefixtures("drawn_reports")
def test_a_rewound_round_has_a_report_of_the_epochs_that_it_trained(rewound: Path) -> None:
    done = sparsecore("report", rewound / "round-1")
    assert done.returncode == 0, done.stderr
    assert "<svg" in (rewound / "round-1/report.html").read_text("utf-8")


def test_a_lottery_has_a_report_of_all_its_rounds_also_before_its_end(original: Path, tmp_path: Path) -> None:
    page = (original / "report.html").read_text("utf-8")
    head, *rows = csv_of(page, "accuracy")
    assert head == ["round", "is_control", "weights", "sparsity", "test_accuracy"]
    assert len(rows) == 2 * ROUNDS + 1
    for number, is_control, weights, sparsity, accuracy in rows:
        run = result(original / f"{'control' if is_control == '1' else 'round'}-{number}")
        assert (int(weights), float(sparsity)) == (run["sparse_parameters"], run["sparsity"])
        assert float(accuracy) == run["test_accuracy"]
    for number, epoch, accuracy in csv_of(page, "curves")[1:]:
        lines = {line["epoch"]: line["test_accuracy"] for line in metrics(original / f"round-{number}")}
        assert lines[int(epoch)] == float(accuracy)
    shutil.copytree(original, tmp_path / "tickets")
    (tmp_path / "tickets/round-3/result.json").unlink()
    done = sparsecore("report", tmp_path / "tickets")
    assert done.stdout.strip() == str(tmp_path / "tickets/report.html")
    begun = (tmp_path / "tickets/report.html").read_text("utf-8")
    assert "1 run not finished: round-3." in begun
    dense = result(original / "round-0")["test_accuracy"]
    assert f"The dense network (round 0) has a test accuracy of {dense:.2%}" in begun
    assert "of 2 tickets are more accurate than the same structure from fresh values" in begun
    # no other round is taken for the dense network
    shutil.rmtree(tmp_path / "tickets/round-0")
    assert sparsecore("report", tmp_path / "tickets").returncode == 0
    rest = (tmp_path / "tickets/report.html").read_text("utf-8")
    assert "2 runs not finished: round-0, round-3." in rest
    assert "dense network (round 0)" not in rest
    assert {row[0] for row in csv_of(rest, "accuracy")[1:]} == {"1", "2", "3"}


def test_a_control_has_the_ticket_s_topology_and_values_of_its_own(original: Path) -> None:
    for number in range(1, ROUNDS + 1):
        ticket, control = original / f"round-{number}", original / f"control-{number}"
        assert result(control)["topology_sha256"] == result(ticket)["topology_sha256"]
        one, other = (load_file(run / "start.safetensors")["values"] for run in (ticket, control))
        assert not np.isin(one, other).any()


def test_a_resumed_lottery_equals_one_that_was_never_stopped(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(original, tmp_path / "tickets")
    # as if it had been stopped in round 2, before an epoch was over
    for name in ("control-2", "round-3", "control-3"):
        shutil.rmtree(tmp_path / "tickets" / name)
    for path in (tmp_path / "tickets/round-2").iterdir():
        if path.name not in {"experiment.toml", "start.safetensors"}:
            path.unlink()
    finished = tmp_path / "tickets/round-1/checkpoint.safetensors"
    written = finished.stat().st_mtime_ns
    capsys.readouterr()
    carry_out("lottery", "--resume", "--out", tmp_path / "tickets", "--json")
    output = json.loads(capsys.readouterr().out)
    assert [each["round"] for each in output["rounds"]] == [0, 1, 2, 3]
    assert [each["round"] for each in output["controls"]] == [1, 2, 3]
    for name in ("round-2", "control-2", "round-3", "control-3"):
        mine, theirs = tmp_path / "tickets" / name, original / name
        assert result(mine)["topology_sha256"] == result(theirs)["topology_sha256"]
        for file in ("checkpoint.safetensors", "metrics.jsonl"):
            assert (mine / file).read_bytes() == (theirs / file).read_bytes(), (name, file)
    assert finished.stat().st_mtime_ns == written


def test_a_finished_lottery_can_be_extended_by_more_rounds(original: Path, tmp_path: Path) -> None:
    shutil.copytree(original, tmp_path / "tickets")
    carry_out("lottery", "--resume", "--out", tmp_path / "tickets", "--rounds", str(ROUNDS + 1))
    count = int(0.3 * result(original / f"round-{ROUNDS}")["sparse_parameters"])
    expected = survivors(original / f"round-{ROUNDS}", count)
    np.testing.assert_array_equal(end(tmp_path / f"tickets/round-{ROUNDS + 1}")["positions"], expected)
    assert (tmp_path / f"tickets/control-{ROUNDS + 1}").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prune", "0.5"], "begun with prune = 0.3; given 0.5"),
        (["--rewind", "1"], "begun with rewind = 0; given 1"),
        (["--epochs", "3"], "training.epochs was 2, 3 is requested"),
    ],
)
def test_a_lottery_with_other_settings_is_refused_in_an_existing_folder(
    original: Path, arguments: list[str], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        carry_out("lottery", "--resume", "--out", original, *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rewind", "2"], "given rewind = 2 with 2 epochs"),
        (["--rewind", "-1"], "'rewind' must be >= 0"),
        (["--prune", "1"], r"in \(0, 1\); given 1.0"),
        (["--rounds", "0"], "'rounds' must be >= 1"),
        (["--set", "sparsity=0.5"], "given settings of sparsity"),
        (["--set", "strategy.dpr.target=5"], "given settings of strategy"),
        (["--set", "start.run=there"], "given settings of start"),
        (["mine.toml"], "given settings of sparsity, strategy"),
        (["--model", "thin-lenet-12-8"], "0.89"),
        (["--model", "lenet"], "no model named 'lenet'"),
        (["--data-dir", "/no/such/place"], "/no/such/place"),
        (["--resume"], "--resume needs --out"),
    ],
    ids=lambda given: ascii(given)[:40],
)
def test_wrong_input_is_refused_and_leaves_no_files(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text('sparsity = 0.9\nstrategy = ["dpr"]\n')
    with pytest.raises(InputError, match=words):
        carry_out("lottery", *common, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_a_folder_with_other_content_is_left_alone(original: Path, common: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists"):
        carry_out("lottery", *common, "--out", original)
    shutil.copytree(original / "round-0", tmp_path / "run")
    with pytest.raises(InputError, match="is the folder of no lottery"):
        carry_out("lottery", "--resume", "--out", tmp_path / "run")


def test_other_data_from_one_round_to_the_next_are_refused(original: Path, tmp_path: Path) -> None:
    shutil.copytree(original, tmp_path / "tickets")
    shutil.rmtree(tmp_path / "tickets/round-3")
    arrays = dict(np.load(small_images(tmp_path / "other.npz")))
    arrays["x_train"][0, 0, 0] ^= 1
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(InputError, match="round-2 was trained with other data"):
        carry_out("lottery", "--resume", "--out", tmp_path / "tickets", "--data-dir", tmp_path / "other.npz")


def test_the_command_prints_a_table(common: list[str], tmp_path: Path) -> None:
    done = sparsecore("lottery", *common, "--rounds", "1", "--prune", "0.5", "--control", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert " ".join(rows[0]) == "round weights sparsity test accuracy with fresh values"
    assert [row[:3] for row in rows[2:4]] == [["0", "304", "0.0000"], ["1", "152", "0.5000"]]
    assert [len(row) for row in rows[2:4]] == [4, 5]
    assert rows[4] == ["runs:", str((tmp_path / "runs/lottery-npz-1").resolve())]
    assert "round-1" in sparsecore("report", "runs/lottery-npz-1/round-1", cwd=tmp_path).stdout


def test_the_folder_of_a_lottery_is_not_accepted_as_a_run(original: Path, common: list[str]) -> None:
    start = ("--set", f"start.run={original}", "--set", "start.values=fresh")
    output = said(sparsecore("train", *common, "--strategy", "static", *start))
    assert "is the folder of a lottery; give one of its runs" in output
    assert "sparsecore lottery --resume" in said(sparsecore("train", "--resume", "--out", original))


def test_the_command_refuses_with_status_2(common: list[str], tmp_path: Path) -> None:
    assert "given rewind = 2" in said(sparsecore("lottery", *common, "--rewind", "2", cwd=tmp_path))
    done = sparsecore("lottery", *common, "--sparsity", "0.5", cwd=tmp_path)
    assert done.returncode == 2
    assert "--sparsity" in done.stderr


@pytest.mark.integration
def test_an_interrupted_lottery_prints_the_command_that_resumes_it(common: list[str], tmp_path: Path) -> None:
    command = ["lottery", *common, "--epochs", "100000", "--out", str(tmp_path / "tickets")]
    process = subprocess.Popen([sys.executable, "-m", "sparsecore", *command], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "tickets/round-0/checkpoint.safetensors").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output.strip() == f"sparsecore: stopped; continue with: sparsecore lottery --resume --out {tmp_path}/tickets"
