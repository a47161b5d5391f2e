"""``sparsecore train`` end to end."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from command_line import SMALL, small_images, sparsecore, train
from safetensors.numpy import load_file

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_images(tmp_path_factory.mktemp("data") / "small.npz")


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of DPR with an update every 5 steps."""
    folder = tmp_path_factory.mktemp("runs") / "dpr"
    settings = ("schedule.steps=5", "target=8", "initial_threshold=0.1")
    options = [part for setting in settings for part in ("--set", f"strategy.dpr.{setting}")]
    train(*SMALL, "--backend", "numpy", "--data-dir", images, "--out", folder, *options)
    return folder


def test_a_run_folder_contains_all_its_files(run: Path) -> None:
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoint.safetensors",
        "experiment.toml",
        "metrics.jsonl",
        "reallocations.jsonl",
        "report.html",
        "result.json",
        "seconds.json",
        "tensors.json",
    ]


def test_the_result_contains_parameters_and_accuracy(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    # 16-12-8-2: 192 + 96 + 16 positions of which ⌊0.2·D_i⌋ = 38 + 19 + 3 are active
    assert result["sparse_parameters"] == 60
    # three batch norms with scale and shift
    assert result["dense_parameters"] == 2 * (12 + 8 + 2)
    assert result["sparsity"] == pytest.approx(1 - 60 / 304)
    assert 0.6 < result["test_accuracy"] <= 1.0
    assert result["run"] == str(run.resolve())


def test_the_result_contains_the_memory_of_the_trained_parameters(run: Path) -> None:
    memory = json.loads((run / "result.json").read_text())["memory"]
    weights = 60 + 2 * (12 + 8 + 2)
    assert list(memory) == ["values", "indices", "gradients", "optimizer_state", "total"]
    for part in ("values", "gradients", "optimizer_state"):
        assert memory[part] == {"theoretical": 4 * weights, "measured": 4 * weights}
    assert memory["indices"]["theoretical"] == 4 * 60
    assert memory["total"]["theoretical"] == 3 * 4 * weights + 4 * 60
    parts = [memory[part]["measured"] for part in ("values", "indices", "gradients", "optimizer_state")]
    assert memory["total"]["measured"] == sum(parts)


def test_metrics_have_one_line_per_epoch(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["step"] for line in lines] == [7, 14, 21]


def test_reallocations_have_one_line_per_update_and_grow_as_many_as_they_prune(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "reallocations.jsonl").read_text().splitlines()]
    result = json.loads((run / "result.json").read_text())
    # every 5 steps until 0.95 of the 21 steps
    assert [line["step"] for line in lines] == [5, 10, 15]
    assert [line["update"] for line in lines] == [1, 2, 3]
    assert result["reallocations"] == 3
    for line in lines:
        assert sum(line["pruned"].values()) == sum(line["grown"].values()) == line["moved"]
        assert line["metrics"].keys() == {"dpr.threshold"}
        assert line["metrics"]["dpr.threshold"] >= 0.1 / 4
        assert line["moved"] > 0


def test_the_sha256_is_over_layout_and_positions_as_little_endian_int64(run: Path) -> None:
    import hashlib

    positions = load_file(run / "checkpoint.safetensors")["positions"]
    tensors = json.loads((run / "tensors.json").read_text())["tensors"]
    layout = json.dumps([[tensor["name"] for tensor in tensors], [tensor["shape"] for tensor in tensors]])
    expected = hashlib.sha256(layout.encode() + positions.astype("<i8").tobytes()).hexdigest()
    assert json.loads((run / "result.json").read_text())["topology_sha256"] == expected


def test_the_learner_keeps_one_entry_per_weight(run: Path) -> None:
    buffers = load_file(run / "checkpoint.safetensors")
    assert len(buffers["positions"]) == 60
    assert len(buffers["learner/values"]) == 60
    # 192 is the first layer's dense size; only running statistics and dense vectors of at most 42 entries remain
    assert all(buffer.size <= 60 for buffer in buffers.values())


def test_the_experiment_file_reproduces_the_run(run: Path, tmp_path: Path) -> None:
    again = train(run / "experiment.toml", "--out", tmp_path / "again")
    result = json.loads((run / "result.json").read_text())
    assert again["topology_sha256"] == result["topology_sha256"]
    assert (tmp_path / "again/metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    assert (tmp_path / "again/checkpoint.safetensors").read_bytes() == (run / "checkpoint.safetensors").read_bytes()


def test_another_seed_gives_another_run(run: Path, tmp_path: Path) -> None:
    other = train(run / "experiment.toml", "--seed", "1", "--out", tmp_path / "other")
    assert other["topology_sha256"] != json.loads((run / "result.json").read_text())["topology_sha256"]


def test_the_experiment_file_is_complete(run: Path) -> None:
    tables = tomllib.loads((run / "experiment.toml").read_text())
    assert tables["presets"] is False
    assert tables["training"]["weight_decay"] == 5e-4
    assert tables["strategy"][0]["target"] == 8
    assert tables["strategy"][0]["schedule"]["steps"] == 5


def test_the_table_shows_where_the_parameters_went(images: Path, tmp_path: Path) -> None:
    schedule = ("--set", "strategy.schedule={ steps = 5 }", "--set", "strategy.target=6")
    done = sparsecore("train", *SMALL, "--data-dir", images, *schedule, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
    assert rows["layer1.weight"][1:3] == ["12×16", "38"]
    assert rows["all"][1] == "60"
    assert rows["all"][2] == "60"


@pytest.mark.parametrize("strategy", ["dpr", "set", "deepr", "static"])
def test_every_strategy_trains_and_keeps_the_number_of_weights(images: Path, tmp_path: Path, strategy: str) -> None:
    more = ("--set", "strategy.schedule.steps=5") if strategy == "dpr" else ()
    result = train(*SMALL, "--data-dir", images, "--strategy", strategy, "--out", tmp_path / "run", *more)
    assert result["sparse_parameters"] == 60
    assert (result["reallocations"] == 0) == (strategy == "static")


def test_strategies_can_be_stacked(images: Path, tmp_path: Path) -> None:
    stack = ("--strategy", "dpr", "--strategy", "static")
    result = train(*SMALL, "--data-dir", images, *stack, "--out", tmp_path / "run")
    assert result["reallocations"] == 0  # static, given last, says that no update is due
    names = [table["name"] for table in tomllib.loads((tmp_path / "run/experiment.toml").read_text())["strategy"]]
    assert names == ["dpr", "static"]


def test_without_out_every_run_gets_a_folder_of_its_own(images: Path, tmp_path: Path) -> None:
    first = train(*SMALL, "--data-dir", images, cwd=tmp_path)
    second = train(*SMALL, "--data-dir", images, cwd=tmp_path)
    assert first["run"] != second["run"]
    assert Path(first["run"]).parent == tmp_path.resolve() / "runs"
    assert first["topology_sha256"] == second["topology_sha256"]


def test_a_limit_keeps_the_first_images_of_the_engine_s_order(images: Path, tmp_path: Path) -> None:
    result = train(*SMALL, "--data-dir", images, "--set", "data.limit=32", "--out", tmp_path / "run")
    assert result["steps"] == 3 * 2


def test_float64_is_available_for_checking(images: Path, tmp_path: Path) -> None:
    train(*SMALL, "--data-dir", images, "--set", "backend.dtype=float64", "--out", tmp_path / "run")
    assert load_file(tmp_path / "run/checkpoint.safetensors")["learner/values"].dtype == np.float64


def test_dense_training_reallocates_nothing(images: Path, tmp_path: Path) -> None:
    result = train(*SMALL, "--data-dir", images, "--sparsity", "0", "--out", tmp_path / "run")
    assert result["sparse_parameters"] == 304
    assert result["reallocations"] == 0


@pytest.mark.usefixtures("drawn_reports")
def test_the_report_can_be_recreated(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(*SMALL, "--data-dir", images, "--out", run)
    page = (run / "report.html").read_bytes()
    assert b"<svg" in page
    (run / "report.html").unlink()
    done = sparsecore("report", run)
    assert done.returncode == 0, done.stderr
    assert (run / "report.html").read_bytes() == page


def test_the_log_replays_to_the_final_topology(run: Path) -> None:
    from sparsecore.run.folder import RunFolder
    from sparsecore.run.replay import replay

    topologies = list(replay(RunFolder(run)))
    assert len(topologies) == 1 + 3
    assert len({topology.size for topology in topologies}) == 1
    assert topologies[-1].sha256() == json.loads((run / "result.json").read_text())["topology_sha256"]
    lines = [json.loads(line) for line in (run / "reallocations.jsonl").read_text().splitlines()]
    for before, after, line in zip(topologies, topologies[1:], lines, strict=False):
        grown = after.counts - before.counts
        named = dict(zip(after.layout.names, grown, strict=True))
        assert {name: line["grown"].get(name, 0) - line["pruned"].get(name, 0) for name in named} == named


def test_a_log_of_another_run_does_not_replay(run: Path, tmp_path: Path) -> None:
    import shutil

    from sparsecore.errors import InputError
    from sparsecore.run.folder import RunFolder
    from sparsecore.run.replay import replay

    shutil.copytree(run, tmp_path / "run")
    experiment = tmp_path / "run/experiment.toml"
    experiment.write_text(experiment.read_text().replace("seed = 0", "seed = 1"))
    with pytest.raises(InputError, match=r"experiment\.toml has changed"):
        list(replay(RunFolder(tmp_path / "run")))
    (tmp_path / "run/checkpoint.safetensors").unlink()  # with it goes what tells that
    with pytest.raises(InputError, match=r"line 1 of .* does not follow"):
        list(replay(RunFolder(tmp_path / "run")))


@pytest.mark.integration
def test_a_terminal_that_lacks_characters_shows_question_marks(images: Path, tmp_path: Path) -> None:
    done = sparsecore("train", *SMALL, "--data-dir", images, "--out", tmp_path / "run", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "12?16" in done.stdout


@pytest.mark.integration
def test_a_run_succeeds_with_standard_error_closed(images: Path, tmp_path: Path) -> None:
    import shlex
    import subprocess
    import sys

    command = [sys.executable, "-m", "sparsecore", "train", *SMALL, "--data-dir", str(images), "--out", "run", "--json"]
    done = subprocess.run(f"{shlex.join(command)} 2>&-", shell=True, cwd=tmp_path, stdout=subprocess.PIPE, check=False)
    assert done.returncode == 0
    assert json.loads(done.stdout)["steps"] == 21


def test_a_resumed_run_finds_its_data_from_another_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    small_images(tmp_path / "mine/small.npz")
    first = train(*SMALL, "--set", "data.file=small.npz", "--out", "run", cwd=tmp_path / "mine")
    again = train("--resume", "--out", "mine/run", cwd=tmp_path)
    assert again["topology_sha256"] == first["topology_sha256"]
