"""``sparsecore train --backend torch``: trains, resumes bit for bit when killed, and refuses with a sentence."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest
from command_line import SMALL, said, small_images, sparsecore, train

from sparsecore.errors import InputError, PluginError
from sparsecore.experiment.assembly import assemble
from sparsecore.experiment.experiment import Experiment
from sparsecore.plugins.discovery import load
from sparsecore.run.setup import set_up

pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("quick_runs")

SAME = ("checkpoint.safetensors", "metrics.jsonl", "reallocations.jsonl", "tensors.json", "experiment.toml")
TORCH = (*SMALL, "--backend", "torch", "--set", "backend.device=cpu", "--set", "strategy.schedule={steps=3}")


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    # layers so small wait longer for the threads of a busy machine than they compute
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_images(tmp_path_factory.mktemp("data") / "small.npz")


@pytest.mark.parametrize(
    "settings",
    [(), ("backend.dtype=bfloat16", "training.optimizer=adam", "training.learning_rate=0.03")],
    ids=["as it comes", "bfloat16 and Adam"],
)
def test_a_run_learns_and_records_its_result(images: Path, tmp_path: Path, settings: tuple[str, ...]) -> None:
    chosen = [argument for setting in settings for argument in ("--set", setting)]
    result = train(*TORCH, *chosen, "--epochs", "20", "--data-dir", images, "--out", tmp_path / "run")
    assert result["test_accuracy"] > 0.9
    assert result["reallocations"] > 30
    on_record = (tmp_path / "run/experiment.toml").read_text()
    assert f'dtype = "{"bfloat16" if settings and "bfloat16" in settings[0] else "float32"}"' in on_record


@pytest.mark.slow
@pytest.mark.integration
def test_a_killed_run_ends_as_if_it_had_never_stopped(images: Path, tmp_path: Path) -> None:
    arguments = [*TORCH, "--set", "training.optimizer=adamw", "--epochs", "40", "--data-dir", str(images)]
    train(*arguments, "--out", tmp_path / "whole")
    command = [sys.executable, "-m", "sparsecore", "train", *arguments, "--out", str(tmp_path / "run"), "--resume"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "run/metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 5:
        time.sleep(0.02)
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run/result.json").exists()
    result = train(*arguments, "--out", tmp_path / "run", "--resume")
    for name in SAME:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert result["topology_sha256"] == json.loads((tmp_path / "whole/result.json").read_text())["topology_sha256"]


def test_an_impossible_option_exits_with_status_2_and_creates_no_folder(images: Path, tmp_path: Path) -> None:
    done = sparsecore(*("train", *TORCH, "--data-dir", images, "--out", tmp_path / "run"), "--set", "backend.dtype=f8")
    assert "backend.torch: the torch backend computes in float32, float64, bfloat16; given 'f8'" in said(done)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("backend.device=tpu", ["a device is auto, cpu, cuda", "'tpu'"]),
        ("backend.device=cuda:77", ["no CUDA device 'cuda:77'"]),
        ("backend.device=7", ["a text was expected", "7"]),
        ("backend.dtype=16", ["dtype", "a text was expected", "16"]),
        ("backend.compile=yes", ["compile", "true or false", "'yes'"]),
        ("backend.channels_last=1", ["channels_last", "true or false"]),
        ("backend.precision=16", ["'precision'", "device, dtype, compile, channels_last"]),
    ],
)
def test_wrong_options_raise_one_error_sentence(setting: str, words: list[str]) -> None:
    with pytest.raises(InputError) as refusal:
        Experiment.of(assemble(None, {"backend.name": "torch"}, (), (setting,)))
    for word in words:
        assert word in str(refusal.value)


def test_options_are_read_back_as_they_were_given() -> None:
    options = {"device": "cpu", "dtype": "bfloat16", "compile": True, "channels_last": False}
    settings = [f"backend.{name}={json.dumps(value)}" for name, value in options.items()]
    tables = Experiment.of(assemble(None, {"backend.name": "torch"}, (), settings)).tables()
    assert tables["backend"] == {"name": "torch", **options}
    assert Experiment.of(tables).tables() == tables


def test_every_option_is_documented() -> None:
    page = (Path(__file__).parent.parent / "docs/experiments.md").read_text("utf-8")
    for field in attrs.fields(load("backend", "torch")):
        assert f"| `backend.{field.alias}` |" in page


def test_values_of_a_run_in_bfloat16_are_in_single_precision() -> None:
    settings = ("backend.dtype=bfloat16", "backend.device=cpu", "model.name=lenet-8-8")
    assert str(set_up(Experiment.of(assemble(None, {"backend.name": "torch"}, (), settings))).values.dtype) == (
        "torch.float32"
    )


def test_without_pytorch_the_backend_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in {"torch", "sparsecore_torch"}]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(PluginError, match=r"^the backend 'torch' needs torch, .*'sparsecore-engine\[torch\]'"):
        load("backend", "torch")
