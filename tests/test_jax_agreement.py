"""From one seed, runs on JAX in double precision have the topologies of NumPy, whatever the strategies ask for."""

from pathlib import Path

import pytest

pytest.importorskip("jax")

from command_line import small_images, train

pytestmark = [pytest.mark.usefixtures("quick_runs"), pytest.mark.slow]

STACKS = {
    "dense gradients": ("--strategy", "rigl", "--set", "strategy.schedule={steps=3}"),
    "momentum": ("--strategy", "snfs", "--set", "strategy.schedule={steps=3}"),
    "gradients at candidates": ("--strategy", "smet", "--set", "strategy.schedule={steps=3}"),
    "silent weights": ("--strategy", "topkast", "--set", "strategy.schedule.steps=2", "--sparsity", "0.8"),
    "perturbed values": ("--strategy", "deepr", "--set", "strategy.schedule={steps=2}"),
    "perturbed gradients": ("--strategy", "gradient-deepr", "--set", "strategy.schedule={steps=2}"),
    "norms of inputs": ("--strategy", "set", "--strategy", "wanda-drop", "--set", "strategy.set.schedule={steps=3}"),
    "young weights": ("--strategy", "set", "--set", "training.optimizer=adam", "--set", "reallocation.young=damped"),
    "another number of weights": ("--strategy", "gmp"),
    "decoupled decay": (
        "--strategy",
        "dpr",
        "--set",
        "training.optimizer=adamw",
        "--set",
        "strategy.schedule={steps=3}",
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_images(tmp_path_factory.mktemp("data") / "small.npz")


@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
def test_strategies_have_the_topologies_of_numpy(stack: tuple[str, ...], data: Path, tmp_path: Path) -> None:
    # no unit is without weights: its batch norm gives zeros, which a rounding of NumPy's may turn into tiny numbers,
    # and relu passes gradients on for these but not for zeros
    common = ("--model", "lenet-12-8", "--data", "npz", "--data-dir", data, "--sparsity", "0.5", "--epochs", "3")
    settings = ("--batch-size", "16", "--set", "backend.dtype=float64", *stack)
    results = [train(*common, *settings, "--backend", name, "--out", tmp_path / name) for name in ("numpy", "jax")]
    assert results[0]["reallocations"] > 0
    assert results[0]["topology_sha256"] == results[1]["topology_sha256"]
    assert results[0]["test_loss"] == pytest.approx(results[1]["test_loss"], rel=1e-9)
    logs = [(tmp_path / name / "reallocations.jsonl").read_bytes() for name in ("numpy", "jax")]
    assert logs[0].count(b"\n") == logs[1].count(b"\n") > 0


@pytest.mark.parametrize(
    "model",
    [
        ("--model", "thin-wrn-10-1", "--set", "model.sparsity=0.7"),
        ("--model", "hashed-wrn-10-1", "--set", "model.sparsity=0.7"),
        ("--model", "hashed-lenet-12-8", "--set", "model.sparsity=0.5"),
    ],
    ids=lambda model: model[1],
)
def test_static_baselines_learn_what_they_learn_on_numpy(model: tuple[str, ...], data: Path, tmp_path: Path) -> None:
    common = ("--data", "npz", "--data-dir", data, "--epochs", "1", "--batch-size", "16", "--strategy", "static")
    settings = ("--set", "backend.dtype=float64", *model)
    results = [train(*common, *settings, "--backend", name, "--out", tmp_path / name) for name in ("numpy", "jax")]
    assert results[0]["test_loss"] == pytest.approx(results[1]["test_loss"], rel=1e-9)


@pytest.mark.usefixtures("quick_runs")
def test_the_whole_run_of_the_demo_has_the_topologies_of_numpy(tmp_path: Path) -> None:
    settings = ("--epochs", "3", "--set", "backend.dtype=float64")
    results = [train(*settings, "--backend", name, "--out", tmp_path / name) for name in ("numpy", "jax")]
    assert results[0]["reallocations"] > 1
    assert results[0]["topology_sha256"] == results[1]["topology_sha256"]
    logs = [(tmp_path / name / "reallocations.jsonl").read_bytes() for name in ("numpy", "jax")]
    assert logs[0] == logs[1]
