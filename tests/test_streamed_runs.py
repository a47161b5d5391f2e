"""Experiments with anybody's map-style data set: reproducible, resumed bit for bit, whatever the number of workers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from command_line import sparsecore_process
from module_examples import MOVING, write_networks
from processes import start
from safetensors.torch import save_file
from start_oracles import STILL, carry_out, end, metrics, result
from streamed_examples import write_sets
from test_module_runs import SAME, stopped

from sparsecore.data.batches import Augmentation, batches
from sparsecore.engine.randomness import Randomness
from sparsecore.errors import InputError, InputWarning
from sparsecore.experiment.assembly import with_absolute_paths
from sparsecore_torch.experiment.transforms import warn_of_unequal_normalization

pytestmark = pytest.mark.usefixtures("quick_runs")

PLAIN = ("--strategy", "static", "--sparsity", "0.5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    write_networks(folder)
    write_sets(folder)
    return folder


def command(folder: Path, out: Path, data: str, *arguments: str, model: str = "Plain") -> list[str]:
    """A run on one of the data sets, of two epochs."""
    names = ("--model", f"{folder / 'nets.py'}:{model}", "--data", f"{folder / 'sets.py'}:{data}")
    options = ("--backend", "torch", "--batch-size", "16", "--epochs", "2")
    return ["train", *names, *options, *arguments, "--out", str(out)]


def train(folder: Path, out: Path, data: str, *arguments: str, model: str = "Plain") -> Path:
    carry_out(*command(folder, out, data, *arguments, model=model))
    return out


HELD = ("--set", "data.held_out=20")


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose images and whose network draw random numbers."""
    transforms = ("--set", f"data.train_transforms={folder / 'sets.py'}:noise")
    out = tmp_path_factory.mktemp("runs") / "whole"
    return train(
        folder,
        out,
        "Bars",
        *MOVING,
        *transforms,
        "--set",
        "data.test_transforms=" + f"{folder / 'sets.py'}:noise",
        model="small",
    )


def test_a_class_with_two_parts_is_trained_and_tested_on(folder: Path, tmp_path: Path) -> None:
    run = train(folder, tmp_path / "run", "Bars", *PLAIN, "--epochs", "12")
    assert result(run)["test_accuracy"] > 0.9
    assert len(metrics(run)) == 12
    assert result(run)["steps"] == 12 * 4


def test_images_labels_and_their_order_are_those_of_the_data_set_and_the_engine(folder: Path, tmp_path: Path) -> None:
    weights = {
        "first.weight": torch.eye(16), "first.bias": torch.zeros(16),
        "second.weight": torch.eye(16), "second.bias": torch.zeros(16),
        "head.weight": torch.ones(2, 16) / 4, "head.bias": torch.zeros(2),
    }  # fmt: skip
    save_file(weights, tmp_path / "begin.safetensors")
    settings = ("--set", "backend.dtype=float64", "--set", f"start.weights={tmp_path / 'begin.safetensors'}")
    run = end(train(folder, tmp_path / "run", "tensors", "--strategy", "static", "--sparsity", "0", *settings))
    namespace: dict[str, Any] = {}
    exec((folder / "nets.py").read_text(), namespace)
    model = namespace["Plain"]().double()
    model.load_state_dict(weights)
    images, labels = (torch.arange(640).reshape(40, 1, 4, 4) / 640).double(), torch.arange(40) % 2
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for epoch in range(2):
        for batch in batches(Randomness(0), epoch, 40, 16, Augmentation()):
            rows = torch.from_numpy(batch.rows)
            sgd.zero_grad()
            torch.nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            sgd.step()
    np.testing.assert_allclose(run["dense/head.weight"], model.head.weight.detach().numpy(), rtol=1e-9)


@pytest.mark.integration
def test_workers_change_nothing_and_a_stopped_run_resumes_with_another_number_of_them(
    folder: Path, whole: Path, tmp_path: Path
) -> None:
    run = stopped(whole, tmp_path / "run", 5)
    done = sparsecore_process("train", "--resume", "--out", run.path, "--set", "data.workers=2")
    assert done.returncode == 0, done.stderr
    for name in (name for name in SAME if name != "experiment.toml"):
        assert (run.path / name).read_bytes() == (whole / name).read_bytes(), name
    data = command(folder, tmp_path / "two", "Dropping", *HELD, *PLAIN, "--set", "data.workers=2")
    assert sparsecore_process(*data).returncode == 0
    alone = train(folder, tmp_path / "alone", "Dropping", *HELD, *PLAIN)
    np.testing.assert_array_equal(end(tmp_path / "two")["learner/values"], end(alone)["learner/values"])
    assert metrics(tmp_path / "two") == metrics(alone)


@pytest.mark.slow
@pytest.mark.integration
def test_two_ranks_read_the_images_of_one_process(folder: Path, tmp_path: Path) -> None:
    settings = (*HELD, *MOVING, "--set", "backend.dtype=float64")
    alone = train(folder, tmp_path / "alone", "Dropping", *settings)
    shared = command(folder, tmp_path / "shared", "Dropping", *settings, "--set", "data.workers=1")
    for ended in start(["-m", "sparsecore", *shared]):
        assert ended.status == 0, ended.stderr
    for key in ("test_loss", "train_loss"):
        assert result(tmp_path / "shared")[key] == pytest.approx(result(alone)[key], rel=1e-9)
    assert result(tmp_path / "shared")["topology_sha256"] == result(alone)["topology_sha256"]


def test_random_transforms_follow_the_seed_and_differ_between_epochs(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    one = train(folder, tmp_path / "one", "Dropping", *HELD, *PLAIN, *STILL, "--epochs", "2")
    again = train(folder, tmp_path / "again", "Dropping", *HELD, *PLAIN, *STILL, "--epochs", "2")
    assert metrics(one) == metrics(again)
    losses = [line["train_loss"] for line in metrics(one)]
    assert losses[0] != losses[1]
    assert metrics(one)[0]["test_loss"] == metrics(one)[1]["test_loss"]


def test_held_out_images_are_of_the_only_part_and_limits_hold(folder: Path, tmp_path: Path) -> None:
    limited = (*HELD, "--set", "data.limit=25", "--set", "data.count=50")
    run = train(folder, tmp_path / "run", "Dropping", *limited, *PLAIN)
    assert result(run)["steps"] == 2 * 2
    table = json.loads(json.dumps(_tables(run)["data"]))
    assert table["count"] == 50
    assert table["held_out"] == 20


def _tables(run: Path) -> dict[str, Any]:
    from sparsecore.run.folder import RunFolder

    return RunFolder(run).read_tables()


def test_transforms_in_files_are_found_from_another_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    run = train(folder, tmp_path / "run", "Bars", *PLAIN, "--set", "data.train_transforms=sets.py:noise")
    assert _tables(run)["data"]["train_transforms"] == f"{folder / 'sets.py'}:noise"
    given = {"data": {"train_transforms": [{"name": "sets.py:noise"}, "Resize"]}}
    tables = with_absolute_paths({"model": {}, "backend": {}, "strategy": {}, **given})
    assert tables["data"]["train_transforms"] == [{"name": f"{folder / 'sets.py'}:noise"}, "Resize"]


def test_built_in_models_train_on_such_data_too(folder: Path, tmp_path: Path) -> None:
    arguments = command(folder, tmp_path / "run", "Bars", *PLAIN)
    arguments[2] = "lenet-12-8"
    carry_out(*arguments)
    assert result(tmp_path / "run")["test_accuracy"] > 0.5


def test_other_data_of_the_same_name_are_not_resumed_on(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    own = write_sets(tmp_path / "files")
    arguments = command(folder, tmp_path / "run", "tensors", *PLAIN)
    arguments[4] = f"{own}:tensors"
    carry_out(*arguments)
    own.write_text(own.read_text().replace("/ 640", "/ 641"))
    with pytest.raises(InputError, match=r"other (data|plugin code)"):
        carry_out("train", "--resume", "--out", tmp_path / "run")


@pytest.mark.parametrize(
    ("data", "settings", "words"),
    [
        ("Dropping", (), r"has no test images; data\.held_out"),
        ("Dropping", ("data.held_out=20", "data.broken=true"), "example 3 of .*Dropping.*OSError: cannot identify"),
        ("tensors", ("data.strange=true", "data.classes=2"), "has the label [34]; there are 2 classes"),
        ("no_sizes", ("data.classes=2",), r"different shapes, \(1, [45], 4\) and \(1, [45], 4\) .*Resize"),
        ("strange", ("data.classes=2",), "the mode 'P' of PIL; expected one of L, RGB, RGBA"),
        ("strange", ("data.classes=2", "data.label=true"), r"example 0 of .* a whole number as label, given 0\.5"),
        (
            "samples",
            ("data.classes=2",),
            r"example 0 of .* \(image, label\), given a dict .* 'image', 'label'",
        ),
        ("samples", ("data.classes=2", "data.kind=triple"), r"example 0 of .* \(image, label\), given a tuple of 3"),
        ("Bars", ("data.classes=0",), r"data\.classes is a whole number of at least 1; given 0"),
        ("Bars", ("data.test_split=3",), r"data\.test_split is a text; given 3"),
        ("Unlike", (), "the same labels; classes of one part only: above, middle"),
        ("Bars", ("data.dir=photos",), "takes no folder: it has no argument 'root', and --data-dir is .*photos"),
        (
            "Bars",
            ("data.dir=photos", "data.root=scans"),
            r"data\.root and .* two folders, .*scans and .*photos; give one",
        ),
        ("Bars", ("data.test_split=val",), "have no names"),
        ("no_sizes", (), r"does not say how many classes it has; give data\.classes"),
        ("Bars", ("data.crop=1",), r"data\.crop and data\.flip are for images in memory"),
        ("Bars", ("data.workers=-1",), r"data\.workers is a whole number of at least 0; given -1"),
        ("Bars", ("data.count=3",), "Bars refuses .*count=3"),
        ("Bars", ("data.train_transforms=3",), r"data\.train_transforms is a list of transforms.*given 3"),
        ("SETS", (), "no object named 'SETS'"),
    ],
)
def test_what_is_no_such_data_set_is_refused(
    folder: Path, tmp_path: Path, data: str, settings: tuple[str, ...], words: str
) -> None:
    asked = [part for setting in settings for part in ("--set", setting)]
    with pytest.raises(InputError, match=words):
        train(folder, tmp_path / "run", data, *PLAIN, *asked)


@pytest.mark.parametrize("data", ["sets.py:Bars", "torchvision:CIFAR10"])
def test_other_backends_refuse_such_data_with_a_sentence(folder: Path, tmp_path: Path, data: str) -> None:
    name = f"{folder}/{data}" if ".py" in data else data
    with pytest.raises(InputError, match=f"{data}.*needs --backend torch"):
        carry_out("train", "--backend", "numpy", "--model", "lenet-12-8", "--data", name, "--out", tmp_path / "run")


def test_training_images_that_are_normalized_otherwise_than_test_images_are_warned_of() -> None:
    half, other = ({"name": "Normalize", "mean": [mean], "std": [0.5]} for mean in (0.5, 0.4))
    for tests in ((), ["Resize"], [other]):
        with pytest.warns(InputWarning, match=r"data\.train_transforms has .*Normalize.*data\.test_transforms has"):
            warn_of_unequal_normalization(["RandomHorizontalFlip", half], tests)
    for training, tests in (([half], [half]), ([], []), ("mine.py:crop", [half]), ([{"name": "mine.py:crop"}], [half])):
        warn_of_unequal_normalization(training, tests)
