"""The pieces of ``benchmarks/strategies.py``: runs that are made once, and what the tables say of them."""

import base64
import importlib
import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SMALL = ("model.name=lenet-12-8", "training.epochs=2", "strategy.schedule={steps=4}", "strategy.target=5")


@pytest.fixture(scope="module")
def trials():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return importlib.import_module("trials")


@pytest.fixture(scope="module")
def tables():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return importlib.import_module("strategies")


@pytest.fixture(scope="module")
def made(trials, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    trial = trials.Trial("numpy", ("dpr",), 0.9, 1, SMALL)
    [(_, outcome)] = trials.outcomes([trial], folder, jobs=2)
    return folder, trial, outcome


@pytest.mark.slow
def test_an_outcome_repeats_the_result_of_its_run(made):
    folder, trial, outcome = made
    result = json.loads((folder / trial.name / "result.json").read_text())
    assert result["epochs"] == 2
    assert outcome.accuracy == result["test_accuracy"]
    assert outcome.weights == result["sparse_parameters"] == 93
    assert outcome.updates == result["reallocations"] == 7
    assert 0 < outcome.seconds < 300


def test_the_itop_rate_counts_what_is_active_at_the_end_or_was_pruned_once(made):
    folder, trial, outcome = made
    ever = set(load_file(folder / trial.name / "checkpoint.safetensors")["positions"].tolist())
    at_the_end = len(ever)
    for line in (folder / trial.name / "reallocations.jsonl").read_text().splitlines():
        packed = zlib.decompress(base64.b64decode(json.loads(line)["pruned_positions"]))
        ever |= set(np.cumsum(np.frombuffer(packed, "<i8")).tolist())
    assert len(ever) > at_the_end
    assert outcome.explored == len(ever) / (64 * 12 + 12 * 8 + 8 * 10)


def test_a_finished_run_is_not_repeated(made, trials, monkeypatch):
    folder, trial, outcome = made
    monkeypatch.setattr(trials.subprocess, "Popen", None)
    assert list(trials.outcomes([trial], folder, jobs=1)) == [(trial, outcome)]


def test_a_run_with_other_settings_is_not_reused(made, trials):
    folder, trial, _ = made
    other = trials.Trial("numpy", ("dpr",), 0.9, 1, (*SMALL, "training.epochs=3"))
    assert other.name == trial.name
    assert trials.known(other, folder) is None
    [(_, outcome)] = trials.outcomes([other], folder, jobs=1)
    assert outcome is None
    assert "was begun as another experiment" in (folder / f"{trial.name}.log").read_text()


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_and_reports_no_duration(made, trials, tmp_path):
    folder, trial, outcome = made
    shutil.copytree(folder / trial.name, tmp_path / trial.name)
    again = trials.outcome(trial, tmp_path)
    assert (again.accuracy, again.explored, again.seconds) == (outcome.accuracy, outcome.explored, None)


def test_a_table_row_has_mean_and_deviation_over_seeds_and_marks_missing_ones(tables, trials):
    found = [trials.Outcome(accuracy, 100, 7, 0.25, seconds) for accuracy, seconds in ((0.97, 4.0), (0.99, None))]
    assert tables.row(("dpr", "erk-start"), found) == [
        "`dpr` + `erk-start`", "98.00 ± 1.41 (2 seeds)", "100", "7", "0.250", "4"
    ]  # fmt: skip
    three = [*found, trials.Outcome(0.98, 130, 8, 0.5, None)]
    assert tables.row(("dpr",), three)[1:5] == ["98.00 ± 1.00", "110", "7–8", "0.333"]


def test_units_are_not_listed_as_a_strategy(tables, trials):
    trial = trials.Trial("numpy", ("set", "@4x4"), 0.9, 0)
    experiment = trial.experiment()
    assert [strategy.name for strategy in experiment.strategies] == ["set"]
    assert str(experiment.reallocation.units) == "4x4"
    assert "reallocation.units=4x4" in trial.command(Path("out"))
    assert tables.row(trial.stack, [trials.Outcome(0.97, 100, 7, 0.25, 4.0)])[0] == "`set` + units `4x4`"


def test_every_installed_strategy_has_a_table_row(tables):
    stacked = {name for stack in tables.stacks() for name in stack if not name.startswith("@")}
    assert {entry.name for entry in tables.installed("strategy")} == stacked


def test_new_tables_replace_the_old_ones_and_nothing_else(tables):
    page = f"before\n\n{tables.BEGIN}\n\nold\n{tables.END}\n\nafter\n"
    filled = tables.filled(page, "new\n")
    assert filled == f"before\n\n{tables.BEGIN}\n\nnew\n\n{tables.END}\n\nafter\n"
    with pytest.raises(SystemExit, match="no place for tables"):
        tables.filled("a page", "new\n")


def test_each_backend_and_sparsity_that_was_run_has_a_table(tables, trials):
    outcome = trials.Outcome(0.97, 100, 7, 0.25, 4.0)
    found = {trials.Trial("torch", ("dpr",), sparsity, seed): outcome for sparsity in (0.9, 0.98) for seed in (0, 1, 2)}
    text = tables.tables(found)
    assert "### `torch`, sparsity 0.9\n" in text
    assert "### `torch`, sparsity 0.98\n" in text
    assert text.count("###") == 2
    assert text.count("| `dpr` | 97.00 ± 0.00 | 100 | 7 | 0.250 | 4 |") == 2
