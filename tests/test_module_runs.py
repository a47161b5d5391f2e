"""Experiments with anybody's ``nn.Module``: trained, stopped and resumed, studied and reported as built-in models."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from command_line import sparsecore, sparsecore_process
from module_examples import MOVING, train, write_networks
from processes import start
from safetensors.numpy import load_file
from safetensors.torch import save_file
from start_oracles import STILL, carry_out, end, metrics, result
from stopped_runs import stopped
from study_examples import InProcessPool
from torch import nn

from sparsecore.data.batches import Augmentation, batches
from sparsecore.engine.randomness import Randomness
from sparsecore.errors import InputError
from sparsecore.run.folder import RunFolder
from sparsecore_torch import sparsify

pytestmark = pytest.mark.usefixtures("quick_runs")

SAME = ("checkpoint.safetensors", "metrics.jsonl", "reallocations.jsonl", "tensors.json", "experiment.toml")
RIGL = ("--strategy", "rigl", "--set", "strategy.schedule={steps=2}", "--sparsity", "0.7")
IN_GRADIENT = (
    *("--strategy", "gradient-deepr", "--strategy", "momentum-growth"),
    *("--set", "strategy.gradient-deepr.schedule={steps=2}", "--set", "strategy.gradient-deepr.temperature=1e-2"),
    *("--set", "training.weight_decay=5e-4", "--sparsity", "0.7"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_networks(tmp_path_factory.mktemp("networks")).parent


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(folder, tmp_path_factory.mktemp("runs") / "whole", "small", *MOVING)


def of_sparsify(folder: Path, weights: dict[str, Any], strategy: Any) -> tuple[str, nn.Module]:
    """The same training by a loop of one's own and ``sparsify``."""
    namespace: dict[str, Any] = {}
    exec((folder / "nets.py").read_text(), namespace)
    model = namespace["Plain"]().double()
    model.load_state_dict(weights)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    training = sparsify(model, sgd, strategy=strategy, sparsity=0.7, seed=4, total_steps=14, steps_per_epoch=7)
    data = np.load(folder / "small.npz")
    images = torch.from_numpy((data["x_train"] - data["x_train"].mean()) / data["x_train"].std())[:, None]
    labels = torch.from_numpy(data["y_train"])
    for epoch in range(2):
        for batch in batches(Randomness(4), epoch, 100, 16, Augmentation()):
            rows = torch.from_numpy(batch.rows)
            sgd.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            sgd.step()
    assert training.updates > 2
    return training.topology.sha256(), model


@pytest.mark.parametrize("arguments", [MOVING, RIGL, IN_GRADIENT], ids=["dpr", "rigl", "gradient-deepr"])
def test_a_run_is_the_training_that_sparsify_gives(folder: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    from sparsecore.strategy import Every, as_amount
    from sparsecore_strategies.dpr import DynamicReallocation
    from sparsecore_strategies.gradient_deepr import GradientDeepRewiring
    from sparsecore_strategies.momentum_growth import MomentumGrowth
    from sparsecore_strategies.rigl import RigL

    torch.manual_seed(1)
    weights = {
        "first.weight": torch.randn(16, 16) / 4, "first.bias": torch.zeros(16),
        "second.weight": torch.randn(16, 16) / 4, "second.bias": torch.zeros(16),
        "head.weight": torch.randn(2, 16) / 4, "head.bias": torch.zeros(2),
    }  # fmt: skip
    save_file(weights, tmp_path / "begin.safetensors")
    settings = ("--set", "backend.dtype=float64", "--set", f"start.weights={tmp_path / 'begin.safetensors'}")
    run = train(folder, tmp_path / "run", "Plain", *arguments, *settings, "--seed", "4")
    schedule = Every(steps=2)
    strategies = {
        "dpr": DynamicReallocation(target=as_amount("20%"), schedule=schedule),
        "rigl": RigL(schedule=schedule),
        # the momentum is that of the loss's gradients alone
        "gradient-deepr": [GradientDeepRewiring(temperature=1e-2, schedule=schedule), MomentumGrowth()],
    }
    topology, model = of_sparsify(folder, weights, strategies[arguments[1]])
    assert result(run)["topology_sha256"] == topology
    dense = model.second.weight.detach().numpy().ravel()
    ended = end(run)
    own = ended["positions"] >= 256
    np.testing.assert_allclose(ended["learner/values"][own], dense[ended["positions"][own] - 256], rtol=1e-9)
    np.testing.assert_allclose(ended["dense/head.weight"], model.head.weight.detach().numpy(), rtol=1e-9)


@pytest.mark.integration
@pytest.mark.parametrize("step", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_resumes_bit_for_bit_in_another_process(whole: Path, tmp_path: Path, step: int) -> None:
    folder = stopped(whole, tmp_path / "run", step)
    assert load_file(folder.checkpoint)["positions"].size
    done = sparsecore_process("train", "--resume", "--out", folder.path)
    assert done.returncode == 0, done.stderr
    for name in SAME:
        assert (folder.path / name).read_bytes() == (whole / name).read_bytes(), name
    assert (folder.path / "report.html").exists()


def test_runs_of_one_seed_are_the_same_and_of_another_seed_begin_and_drop_otherwise(
    folder: Path, whole: Path, tmp_path: Path
) -> None:
    torch.manual_seed(17)  # the state of torch's own generator does not matter
    again = train(folder, tmp_path / "again", "small", *MOVING)
    assert (again / "checkpoint.safetensors").read_bytes() == (whole / "checkpoint.safetensors").read_bytes()
    still = ("--strategy", "static", "--sparsity", "0", *STILL)
    one, other = (end(train(folder, tmp_path / seed, "small", *still, "--seed", seed)) for seed in "12")
    assert not np.isin(one["learner/values"], other["learner/values"]).any()


@pytest.mark.slow
@pytest.mark.integration
def test_two_ranks_train_the_network_of_one_process(folder: Path, whole: Path, tmp_path: Path) -> None:
    common = ("--set", "backend.dtype=float64")
    alone = train(folder, tmp_path / "alone", "Plain", *MOVING, *common)
    for model, out in (("Plain", "plain"), ("small", "normed")):
        arguments = ["--backend", "torch", "--model", f"{folder / 'nets.py'}:{model}", "--data", "npz"]
        data = ["--data-dir", str(folder / "small.npz"), "--batch-size", "16", "--epochs", "2"]
        command = ["-m", "sparsecore", "train", *arguments, *data, *MOVING, *common, "--out", str(tmp_path / out)]
        for ended in start(command):
            assert ended.status == 0, ended.stderr
    assert result(tmp_path / "plain")["topology_sha256"] == result(alone)["topology_sha256"]
    assert result(tmp_path / "plain")["test_loss"] == pytest.approx(result(alone)["test_loss"], rel=1e-9)
    assert result(tmp_path / "normed")["reallocations"] == result(whole)["reallocations"] > 2


def test_a_study_compares_trials_of_a_module(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tmp_path / "widths.toml"
    study.write_text(
        f"""
        title = "Does the structure of DPR train by itself?"
        figure = "bars"
        sparsities = [0.7]
        trials = 2
        [options]
        "backend.name" = "torch"
        "model.name" = '{folder / "nets.py"}:Plain'
        "data.name" = "npz"
        "data.dir" = '{folder / "small.npz"}'
        "training.epochs" = 1
        [[arm]]
        name = "dpr"
        strategy = ["dpr"]
        settings = {{ "strategy.dpr.schedule" = {{ steps = 2 }} }}
        [[arm]]
        name = "fresh"
        strategy = ["static"]
        after = "dpr"
        settings = {{ "start.values" = "fresh" }}
        """
    )
    monkeypatch.setattr("sparsecore.cli.study_options.create_pool", lambda *_: InProcessPool())
    done = sparsecore("study", str(study), "--out", str(tmp_path / "study"))
    assert done.returncode == 0, done.stderr
    runs = sorted((tmp_path / "study").rglob("result.json"))
    assert len(runs) == 4
    of_dpr, fresh = (
        {json.loads(path.read_text())["topology_sha256"] for path in runs if name in str(path)}
        for name in ("dpr", "fresh")
    )
    assert of_dpr == fresh
    assert "Plain" in (tmp_path / "study/report.html").read_text()


def test_globs_say_which_tensors_are_sparse_and_the_run_folder_has_the_options(folder: Path, tmp_path: Path) -> None:
    settings = ("--set", 'model.include=["*.weight"]', "--set", "model.exclude=0.weight", "--set", "model.width=4")
    run = train(folder, tmp_path / "run", "small", *MOVING, *settings)
    tensors = [one["name"] for one in json.loads((run / "tensors.json").read_text())["tensors"]]
    assert tensors == ["4.weight", "7.weight", "9.weight"]
    model = RunFolder(run).read_tables()["model"]
    assert model == {"name": f"{folder / 'nets.py'}:small", "include": ["*.weight"], "exclude": "0.weight", "width": 4}
    assert len(metrics(run)) == 2
    assert result(run)["memory"]["values"]["measured"] > 0


def test_a_pretrained_module_is_pruned_at_once(folder: Path, tmp_path: Path) -> None:
    namespace: dict[str, Any] = {}
    exec((folder / "nets.py").read_text(), namespace)
    model = namespace["small"](2)
    save_file(model.state_dict(), tmp_path / "pretrained.safetensors")
    start_at = (f"start.weights={tmp_path / 'pretrained.safetensors'}", "start.active=magnitude")
    arguments = [part for setting in start_at for part in ("--set", setting)]
    run = end(
        train(folder, tmp_path / "run", "small", "--strategy", "static", "--sparsity", "0.75", *STILL, *arguments)
    )
    flat = torch.cat([model[4].weight.flatten(), model[7].weight.flatten()]).detach().numpy()
    np.testing.assert_array_equal(run["learner/values"], flat[run["positions"]])
    kept = np.zeros(flat.size, bool)
    kept[run["positions"]] = True
    for own in (slice(0, 432), slice(432, None)):
        assert np.abs(flat[own][kept[own]]).min() >= np.abs(flat[own][~kept[own]]).max()
        assert kept[own].sum() == kept[own].size // 4
    np.testing.assert_array_equal(run["dense/9.weight"], model[9].weight.detach().numpy())
    assert run["dense/1.num_batches_tracked"] == [7.0]


def test_activations_in_bfloat16_and_gradual_pruning(folder: Path, tmp_path: Path) -> None:
    gmp = ("--strategy", "gmp", "--set", "strategy.schedule={steps=2}", "--set", "strategy.until=0.7")
    run = train(folder, tmp_path / "run", "small", *gmp, "--sparsity", "0.8", "--set", "backend.dtype=bfloat16")
    tensors = json.loads((run / "tensors.json").read_text())["tensors"]
    assert result(run)["sparsity"] == pytest.approx(0.8, abs=0.01)
    assert sum(np.prod(one["shape"]) for one in tensors) == 432 + 512
    assert end(run)["learner/values"].dtype == np.float32


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # of what PyTorch's compiler imports
def test_a_compiled_module_trains(folder: Path, tmp_path: Path) -> None:
    compiled = train(folder, tmp_path / "compiled", "Plain", *MOVING, "--set", "backend.compile=true")
    plain = train(folder, tmp_path / "plain", "Plain", *MOVING)
    assert result(compiled)["test_loss"] == pytest.approx(result(plain)["test_loss"], rel=1e-2)


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        ("made", (), "a module that exists already; give the class or a function"),
        ("nothing", (), r"is to make a torch\.nn\.Module; it made dict"),
        ("five", (), r"returns \(1, 1\) for a batch of 1; expected logits of \(1, 2\)"),
        ("wide", (), r"does not compute images of 1×4×4 .*RuntimeError"),
        ("small", ("model.depth=3",), r"small refuses .*depth=3.*unexpected keyword"),
        ("small", ("model.include=layer*",), r"include='layer\*' matches no parameter; the model has 0\.weight"),
        ("small", ("model.include=3",), r"model\.include is a glob on names of parameters.*given 3"),
        ("absent", (), "no object named 'absent'"),
    ],
)
def test_what_is_no_such_module_is_refused(
    folder: Path, tmp_path: Path, model: str, settings: tuple[str, ...], words: str
) -> None:
    asked = [part for setting in settings for part in ("--set", setting)]
    with pytest.raises(InputError, match=words):
        train(folder, tmp_path / "run", model, *MOVING, *asked)
    assert not (tmp_path / "run").exists()


def test_a_batch_of_one_image_that_batch_norm_refuses_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"normed' cannot be trained on a batch of 1 images .*training\.batch_size"):
        train(folder, tmp_path / "run", "normed", *MOVING, "--set", "data.limit=33")


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
@pytest.mark.parametrize("model", ["nets.py:small", "nets.py:Plain", "torchvision:resnet18", "timm:resnet18"])
def test_other_backends_refuse_modules_with_a_sentence(folder: Path, tmp_path: Path, backend: str, model: str) -> None:
    pytest.importorskip(f"sparsecore_{backend}")
    name = f"{folder}/{model}" if ".py" in model else model
    with pytest.raises(InputError, match=re.escape(model) + r".*needs --backend torch"):
        carry_out("train", "--backend", backend, "--model", name, "--out", tmp_path / "run")


def test_weights_that_would_be_downloaded_are_refused_with_the_way_to_give_them() -> None:
    from sparsecore_torch.experiment.foreign import _refuse_pretrained

    with pytest.raises(InputError, match=r"model\.weights: .*downloads no weights.*start\.weights"):
        _refuse_pretrained("torchvision:resnet18", {"weights": "DEFAULT"})
    _refuse_pretrained("timm:resnet18", {"pretrained": False})
