"""``sparsecore study strategies``: all strategies tuned with the same number of runs, then compared."""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import attrs
import numpy as np
import pytest
from command_line import said, small_images, sparsecore
from in_process import no_waiting_for_the_disk
from scipy import stats
from study_examples import InProcessPool
from test_report import csv_of

from sparsecore.data.images import Images, Split
from sparsecore.errors import PluginError
from sparsecore.plugins import discovery
from sparsecore.plugins.discovery import installed
from sparsecore.study.pools import Job
from sparsecore.study.strategy_comparison.composition import ComparisonRequest, compose, default_comparison
from sparsecore.study.strategy_comparison.definition import Contender
from sparsecore.study.strategy_comparison.report import _figures as drawn_figures
from sparsecore.study.strategy_comparison.results import ArmResult, Measurement, compared

MINE = '''
from typing import ClassVar

import attrs
from sparsecore.strategy import Every, fraction_of, hookimpl, smallest_of_each


@attrs.frozen(eq=False)
class Mine:
    """Drop a fraction of the smallest weights of each tensor."""

    tuning: ClassVar = {"drop_fraction": (0.1, 0.5)}

    drop_fraction: float = 0.3

    @hookimpl
    def update_due(self, clock):
        return Every(steps=2)(clock)

    @hookimpl
    def prune(self, topology, values):
        return topology.all_but(smallest_of_each(topology, values, fraction_of(self.drop_fraction, topology.counts)))
'''
FAILING = """
class Failing(Mine):
    @hookimpl
    def update_due(self, clock):
        assert self.drop_fraction == 0.3, "it fails with every setting but the preset's"
        return False
"""
ARMS = ("--arm", "dense", "--arm", "static")


class StoppingPool(InProcessPool):
    """Runs some jobs in this process, and is then interrupted as by Ctrl-C or a kill.

    Attributes:
        done: names of the jobs that were run.
    """

    def __init__(self, most: int = 1000) -> None:
        self.done: list[str] = []
        self._most = most

    def submit(self, job: Job) -> "Future[int]":
        if len(self.done) == self._most:
            raise KeyboardInterrupt
        self.done.append(job.name)
        try:
            return super().submit(job)
        except AssertionError:
            failed: Future[int] = Future()
            failed.set_result(1)
            return failed


@pytest.fixture(autouse=True, scope="module")
def hurry() -> Iterator[None]:
    with no_waiting_for_the_disk(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparsecore.report.page.page", lambda _: "")
        patch.setattr("sparsecore.study.strategy_comparison.report._figures", lambda *_: ())
        yield


def compare(folder: Path, pool: StoppingPool, *arguments: object, json_output: bool = True):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparsecore.cli.study_options.create_pool", lambda *_: pool)
        given = [*map(str, arguments), *(["--json"] if json_output else [])]
        return sparsecore("study", "strategies", "--out", "out", *given, cwd=folder)


def options(folder: Path, *own: str) -> tuple[str, ...]:
    (folder / "mine.py").write_text(MINE + FAILING)
    small_images(folder / "images.npz")
    return (
        *("--model", "lenet-12-8", "--data", "npz", "--set", "data.file=images.npz", "--batch-size", "16"),
        *("--epochs", "1", "--sparsity", "0.8", "--trials", "2", "--tuning-runs", "3"),
        *(word for name in own for word in ("--strategy", f"mine.py:{name}")),
    )


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory: pytest.TempPathFactory, hurry: None):  # noqa: ARG001
    folder = tmp_path_factory.mktemp("strategies")
    stopped = StoppingPool(5)
    done = compare(folder, stopped, *options(folder, "Mine"), *ARMS)
    shown = json.loads(sparsecore("study", "show", folder / "out", "--json").stdout)
    assert len(shown["networks"][0]["unfinished"]) == 3 * 3 - 5 + 3 * 2
    assert done.returncode == 130, done.stderr
    assert "continue with: sparsecore study strategies --resume" in done.stderr
    resumed = StoppingPool()
    done = compare(folder, resumed, "--resume")
    assert done.returncode == 0, done.stderr
    return folder / "out", stopped.done, resumed.done, json.loads(done.stdout)


def experiments(folder: Path) -> dict[str, dict]:
    return {file.stem: tomllib.loads(file.read_text()) for file in sorted(folder.glob("experiments/*.toml"))}


def test_an_interrupted_comparison_continues_and_repeats_no_run(carried_out):
    _, before, after, result = carried_out
    assert len(before) == 5
    assert len({*before, *after}) == len(before) + len(after) == 3 * 3 + 3 * 2
    [network] = result["networks"]
    assert network["unfinished"] == []
    assert network["options"] == {
        "model.name": "lenet-12-8",
        "data.name": "npz",
        "training.batch_size": 16,
        "training.epochs": 1,
    }  # without paths


def test_every_strategy_has_the_same_number_of_tuning_runs_all_on_held_out_images(carried_out):
    out, *_, result = carried_out
    [network] = result["networks"]
    assert {name: len(tuned["runs"]) for name, tuned in network["tuning"].items()} == dict.fromkeys(
        ("dense", "static", "mine"), 3
    )
    tuning, trials = (experiments(out / "lenet-12-8" / part) for part in ("tuning", "trials"))
    assert len(tuning) == 9
    assert {experiment["data"]["held_out"] for experiment in tuning.values()} == {10}  # a tenth of 100
    assert {experiment["seed"] for experiment in tuning.values()} == {2}  # no trial has it
    assert not any("held_out" in experiment["data"] for experiment in trials.values())
    assert sorted({experiment["seed"] for experiment in trials.values()}) == [0, 1]


def test_all_strategies_try_the_same_learning_rates_and_each_its_own_options(carried_out):
    out, *_ = carried_out
    tuning = experiments(out / "lenet-12-8" / "tuning")
    rates = [
        [tuning[f"{arm}-setting-{number}{at}-trial-0"]["training"]["learning_rate"] for number in range(3)]
        for arm, at in (("dense", ""), ("static", "-at-0.8"), ("mine", "-at-0.8"))
    ]
    assert rates[0] == rates[1] == rates[2]
    assert rates[0][0] == 0.1
    assert all(0.1 / 3 <= rate <= 0.3 for rate in rates[0])
    assert len(set(rates[0])) == 3
    drops = [tuning[f"mine-setting-{number}-at-0.8-trial-0"]["strategy"][0]["drop_fraction"] for number in range(3)]
    assert drops[0] == 0.3
    assert all(0.1 <= drop <= 0.5 for drop in drops)


def test_the_trials_have_the_settings_of_the_best_tuning_run(carried_out):
    out, *_, result = carried_out
    trials = experiments(out / "lenet-12-8" / "trials")
    runs = result["networks"][0]["tuning"]["mine"]["runs"]
    best = max(runs, key=lambda run: (run["accuracy"], -run["loss"]))
    experiment = trials["mine-at-0.8-trial-1"]
    settings = best["settings"]
    assert experiment["training"]["learning_rate"] == settings.get("training.learning_rate", 0.1)
    assert experiment["strategy"][0]["drop_fraction"] == settings.get("strategy.Mine.drop_fraction", 0.3)
    assert result["networks"][0]["tuning"]["mine"]["best"] == settings


def test_the_reported_numbers_are_those_of_the_runs(carried_out):
    out, *_, result = carried_out
    [at_sparsity] = result["networks"][0]["sparsities"]
    for arm in at_sparsity["arms"]:
        suffix = "" if arm["arm"] == "dense" else "-at-0.8"
        runs = [out / f"lenet-12-8/trials/runs/{arm['arm']}{suffix}-trial-{number}" for number in range(2)]
        results = [json.loads((run / "result.json").read_text()) for run in runs]
        assert arm["accuracy"]["values"] == [one["test_accuracy"] for one in results]
        first, second = arm["accuracy"]["values"]
        # 12.706 is the 97.5 % quantile of Student's t with one degree of freedom, s/√2 is half the difference
        assert arm["accuracy"]["half_width"] == pytest.approx(12.7062047 * abs(first - second) / 2)
        ratios = [one["flops"]["training"] / one["flops"]["training_dense"] for one in results]
        assert arm["training_flops"]["values"] == ratios
        assert (min(ratios) == 1.0) == (arm["arm"] == "dense")
        assert arm["final_density"]["values"] == [1 - one["sparsity"] for one in results]
        updates = [len((run / "reallocations.jsonl").read_text().splitlines()) for run in runs]
        explored = arm["explored"]["values"]
        assert all(
            (rate > arm["final_density"]["values"][0]) == (count > 0)
            for rate, count in zip(explored, updates, strict=True)
        )


def test_the_report_and_show_have_the_tables(carried_out, monkeypatch):
    out, *_, result = carried_out
    assert sparsecore("report", out).stdout.strip() == str(out / "report.html")
    monkeypatch.setattr("sparsecore.study.strategy_comparison.report._figures", drawn_figures)
    assert sparsecore("study", "report", out).returncode == 0
    assert {file.name for file in (out / "figures").iterdir()} == {
        f"{name}-lenet-12-8.{kind}" for name in ("accuracy", "flops") for kind in ("png", "svg")
    }
    assert json.loads((out / "results.json").read_text()) == {
        key: value for key, value in result.items() if key != "folder"
    }
    page, tables = (out / "report.html").read_text(), (out / "tables.md").read_text()
    shown = sparsecore("study", "show", out).stdout
    assert "is the most accurate" in page
    rows = csv_of(page, "accuracy-lenet-12-8")[1:]
    measured = {arm["arm"]: arm["accuracy"] for arm in result["networks"][0]["sparsities"][0]["arms"]}
    for name, accuracy in measured.items():
        own = [float(row[4]) for row in rows if row[:2] == ["0.8", name]]
        assert own == accuracy["values"]
    assert "](figures/accuracy-lenet-12-8.svg)" in tables
    assert "--images names the images of one network" in said(sparsecore("study", "report", out, "--images", "dots"))
    for name in ("dense", "static", "mine"):
        assert f"| `{name}` |" in tables
        assert name in page
        assert name in shown
    assert "ITOP rate" in shown


def test_a_comparison_whose_settings_have_changed_or_are_others_is_refused(carried_out, tmp_path):
    out, *_ = carried_out
    longer = compare(out.parent, StoppingPool(0), *options(out.parent, "Mine"), *ARMS, "--resume", "--trials", 3)
    assert "was created for another comparison" in said(longer)
    assert compare(out.parent, StoppingPool(0), *options(out.parent, "Mine"), *ARMS, "--resume").returncode == 0
    assert "exists; give another --out, or --resume" in said(compare(out.parent, StoppingPool(0), *options(out.parent)))
    text = (out / "strategies.toml").read_text()
    try:
        (out / "strategies.toml").write_text(text.replace("trials = 2", "trials = 3"))
        assert "has changed since the comparison was begun: trials was 2" in said(sparsecore("study", "show", out))
    finally:
        (out / "strategies.toml").write_text(text)
    refused = compare(tmp_path, StoppingPool(0), *options(tmp_path), "--set", "data.held_out=5")
    assert "by --held-out, not by the setting data.held_out" in said(refused)
    refused = compare(tmp_path, StoppingPool(0), *options(tmp_path), "--held-out", 100)
    assert "100 of 100 training images cannot be held out" in said(refused)
    assert "every sparsity of a study must be unique" in said(
        compare(tmp_path, StoppingPool(0), *options(tmp_path), "--sparsity", "0.80")
    )
    assert "no strategy named 'rigel'" in said(
        compare(tmp_path, StoppingPool(0), "--strategy", "rigel", "--data-dir", tmp_path)
    )
    refused = compare(tmp_path, StoppingPool(0), "--seed", "lucky", "--data-dir", tmp_path)
    assert "study.seed: a seed is a whole number from 0 to 9007199254740992; given 'lucky'" in said(refused)
    assert "no arm named 'rigged'" in said(compare(tmp_path, StoppingPool(0), *options(tmp_path), "--arm", "rigged"))
    assert not (tmp_path / "out").exists()


def test_a_strategy_whose_hooks_cannot_be_registered_is_refused_before_the_folder_is_created(tmp_path):
    given = options(tmp_path, "Mine")
    mine = tmp_path / "mine.py"
    mine.write_text(mine.read_text().replace("topology, values", "topologie, values"))
    assert "takes topologie; the arguments of this hook" in said(compare(tmp_path, StoppingPool(0), *given))
    assert not (tmp_path / "out").exists()


def test_a_piece_without_a_strategy_below_it_is_refused(tmp_path):
    given = (*options(tmp_path), "--strategy", "magnitude-drop", "--arm", "static")
    assert "such as --strategy set+magnitude-drop" in said(compare(tmp_path, StoppingPool(0), *given))
    assert not (tmp_path / "out").exists()


def test_a_tuning_run_that_fails_is_not_the_best_and_an_arm_of_failing_runs_is_named_and_left_out(tmp_path):
    pool = StoppingPool()
    arms = ("--trials", 1, "--arm", "static")
    done = compare(tmp_path, pool, *options(tmp_path, "Failing"), *arms)
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)["networks"][0]["tuning"]["failing"]
    assert [run["accuracy"] is None for run in runs["runs"]] == [False, True, True]
    assert runs["best"] == {}
    assert "failing-setting-1-at-0.8-trial-0 failed" in done.stderr
    # which is asked for its first update before anything is created
    assert not [*tmp_path.rglob("runs/failing-setting-1-at-0.8-trial-0/*")]
    other = tmp_path / "other"
    other.mkdir()
    given = options(other, "Failing")
    (other / "mine.py").write_text((other / "mine.py").read_text().replace("self.drop_fraction == 0.3", "False"))
    done = compare(other, pool, *given, *arms)
    assert done.returncode == 1
    assert "failing has no trials, because all its tuning runs failed" in done.stderr
    [at_sparsity] = json.loads(done.stdout)["networks"][0]["sparsities"]
    assert [arm["arm"] for arm in at_sparsity["arms"]] == ["static"]


@pytest.fixture
def few_images(monkeypatch) -> None:
    """No data set is loaded."""
    nothing = Split(np.zeros((50, 4, 4, 1), np.uint8), np.zeros(50, np.int64))
    images = Images(nothing, nothing, 10)
    monkeypatch.setattr("sparsecore.study.strategy_comparison.composition.images_of", lambda _: images)


def test_a_comparison_whose_folder_is_taken_loads_no_images(monkeypatch, tmp_path):
    monkeypatch.setattr("sparsecore.study.strategy_comparison.composition.images_of", pytest.fail)
    (tmp_path / "notes.txt").touch()
    assert "exists; give another --out" in said(sparsecore("study", "strategies", "--out", tmp_path))


@pytest.mark.usefixtures("few_images")
def test_without_torch_the_gpt_is_left_out_and_named(monkeypatch):
    def load(kind: str, name: str):
        if (kind, name) == ("backend", "torch"):
            raise PluginError("the backend 'torch' needs torch, which is not installed")
        return discovery.load(kind, name)

    monkeypatch.setattr("sparsecore.study.strategy_comparison.composition.load", load)
    composed = compose(ComparisonRequest(arms=["static"], held_out=500, tuning_runs=1))
    assert [network.name for network in composed.comparison.networks] == ["lenet-300-100"]
    assert composed.left_out == {"character-gpt": "the backend 'torch' needs torch, which is not installed"}


@pytest.mark.usefixtures("few_images")
def test_by_default_all_complete_strategies_are_compared_on_lenet_at_three_sparsities():
    pytest.importorskip("torch")
    composed = compose(ComparisonRequest(tuning_runs=1))
    names = {arm.name for arm in composed.comparison.arms}
    pieces = {"gradient-growth", "momentum-growth", "magnitude-drop", "wanda-drop", "density-schedule", "erk-start"}
    assert {"dense", "static", "dpr", "set", "rigl", "srigl", "snfs", "gmp", "granet", "deepr", "soft-deepr"} <= names
    assert not names & pieces
    assert names <= {"dense", *(entry.name for entry in installed("strategy"))}
    assert (default_comparison().trials, default_comparison().tuning_runs) == (5, 6)
    lenet, gpt = composed.comparison.networks
    assert (lenet.name, lenet.sparsities, lenet.tuned_at) == ("lenet-300-100", (0.95, 0.98, 0.99), 0.98)
    assert lenet.held_out == gpt.held_out == 5  # a tenth of 50
    assert (gpt.name, gpt.sparsities, gpt.options["data.name"]) == ("character-gpt", (0.9,), "help-topics")


@pytest.mark.usefixtures("few_images")
def test_settings_of_a_backend_and_the_folder_are_not_those_of_a_network_that_takes_neither(tmp_path):
    pytest.importorskip("torch")
    options = {
        "data.dir": str(tmp_path),
        "backend.name": "numpy",
        "backend.dtype": "float64",
        "training.batch_size": 50,
    }
    lenet, gpt = compose(ComparisonRequest(options, arms=["static"], held_out=500, tuning_runs=1)).comparison.networks
    assert lenet.options["backend.dtype"] == "float64"
    assert lenet.options["data.dir"] == str(tmp_path)
    assert "data.dir" not in gpt.options
    assert {name: value for name, value in gpt.options.items() if name.startswith("backend.")} == {
        "backend.name": "torch"
    }
    assert lenet.options["training.batch_size"] == gpt.options["training.batch_size"] == 50


def test_a_tuning_run_that_is_killed_ends_the_comparison_until_it_is_repeated(tmp_path):
    class Killing(StoppingPool):
        def submit(self, job: Job) -> "Future[int]":
            if job.name != "static-setting-1-at-0.8-trial-0":
                return super().submit(job)
            killed: Future[int] = Future()
            killed.set_result(-9)
            return killed

    small = (*options(tmp_path), "--arm", "static", "--tuning-runs", 2, "--trials", 1)
    done = compare(tmp_path, Killing(), *small)
    assert done.returncode == 1
    assert "1 of the tuning runs did not end by themselves" in done.stderr
    assert not (tmp_path / "out/lenet-12-8/trials").exists()
    pool = StoppingPool()
    assert compare(tmp_path, pool, "--resume").returncode == 0
    assert pool.done == ["static-setting-1-at-0.8-trial-0", "static-at-0.8-trial-0"]


def arm_result(name: str, *accuracies: float) -> ArmResult:
    nothing = Measurement()
    accuracy = Measurement(accuracies)
    return ArmResult(Contender(name, (name,)), tuple(range(len(accuracies))), accuracy, *[nothing] * 6)


def test_arms_differ_where_welchs_p_times_the_rank_of_holm_is_below_a_twentieth():
    samples = {
        "low": (0.90, 0.91, 0.92, 0.905, 0.915),
        "middle": (0.95, 0.951, 0.949, 0.952, 0.948),
        "high": (0.953, 0.955, 0.954, 0.952, 0.956),
    }
    result = compared(0.9, [arm_result(name, *sample) for name, sample in samples.items()])
    assert [one.arm.name for one in result.arms] == ["high", "middle", "low"]
    p = {
        frozenset(pair): stats.ttest_ind(samples[pair[0]], samples[pair[1]], equal_var=False).pvalue
        for pair in (("low", "middle"), ("low", "high"), ("middle", "high"))
    }
    for rank, pair in enumerate(result.pairs):
        own = p[frozenset((pair.better, pair.worse))]
        assert pair.difference.p == pytest.approx(own)
        assert pair.corrected_p == pytest.approx(
            max((3 - rank) * own, *(one.corrected_p for one in result.pairs[:rank]), 0)
        )
    assert [pair.differ for pair in result.pairs] == [True, True, True]
    assert [one.letters for one in result.arms] == ["a", "b", "c"]
    assert [one.better_than for one in result.arms] == [("low", "middle"), ("low",), ()]
    again = compared(0.9, [*(attrs.evolve(one, letters="") for one in result.arms), arm_result("single", 0.5)])
    assert again.arms[-1].letters == ""
    assert again.anova is None
    assert result.anova.p < 1e-3


@pytest.mark.slow
def test_the_documented_strategy_joins_by_the_documented_command(tmp_path):
    page = (Path(__file__).parent.parent / "docs/strategies.md").read_text("utf-8")
    [strategy] = re.findall(r"Save this as `mine.py`:\n\n```python\n(.*?)```", page, re.DOTALL)
    [command] = re.findall(
        r"^    sparsecore study strategies (--strategy mine.py:Mine.*?)\n\n", page, re.DOTALL | re.MULTILINE
    )
    (tmp_path / "mine.py").write_text(strategy)
    words = shlex.split(command.replace("\\\n", " "))
    assert words[-2:] == ["--out", "first"]
    done = compare(tmp_path, StoppingPool(), *words[:-2])
    assert done.returncode == 0, done.stderr
    [network] = json.loads(done.stdout)["networks"]
    assert {arm["arm"] for arm in network["sparsities"][0]["arms"]} == {"mine", "set", "static"}
    assert {len(tuned["runs"]) for tuned in network["tuning"].values()} == {3}
    assert {"strategy.Mine.drop_fraction", "strategy.Mine.schedule", "training.learning_rate"} == set(
        network["tuning"]["mine"]["runs"][1]["settings"]
    )
