"""Experiments with the models, data sets and transforms of torchvision and timm, in processes of their own."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import code
from safetensors.numpy import load_file
from start_oracles import metrics, result

if find_spec("torchvision") is None or find_spec("timm") is None:
    pytest.skip("needs torchvision and timm", allow_module_level=True)

pytestmark = pytest.mark.integration

HERE = Path(__file__).parent


def drive(folder: Path, *arguments: str) -> Any:
    """Run the driver in a folder; what it returned."""
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(HERE / "vision_driver.py"), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("ANSWER")[2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs of two classes, of several sizes."""
    from PIL import Image

    folder, draws = tmp_path_factory.mktemp("vision"), np.random.default_rng(2)
    for part, count in (("train", 4), ("val", 3)):
        for name, shade in (("bright", 180), ("dark", 20)):
            (folder / "photos" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(shade, shade + 60, (20 + number, 24, 3), np.uint8)
                Image.fromarray(pixels).save(folder / "photos" / part / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def sentences(folder: Path) -> dict[str, str]:
    answer: dict[str, str] = drive(folder, "refusals")
    return answer


@pytest.mark.slow
def test_a_run_on_a_folder_of_images_resumes_with_workers_in_a_new_process(folder: Path) -> None:
    drive(folder, "folders")
    assert load_file(folder / "stopped/checkpoint.safetensors").keys()
    resume = "train", "--resume", "--out", "stopped", "--set", "data.workers=2"
    code = (
        "import sys, types; sys.modules['torchvision._meta_registrations'] = types.ModuleType('empty');"
        "from sparsecore.cli.command_line import commands; commands(sys.argv[1:], standalone_mode=False)"
    )
    subprocess.run([sys.executable, "-c", code, *resume], cwd=folder, check=True, capture_output=True, timeout=600)
    for name in ("checkpoint.safetensors", "metrics.jsonl", "reallocations.jsonl", "tensors.json"):
        assert (folder / "stopped" / name).read_bytes() == (folder / "whole" / name).read_bytes(), name
    assert result(folder / "whole")["steps"] == 4
    assert result(folder / "whole")["reallocations"] == 3
    assert len(metrics(folder / "whole")) == 2
    assert (folder / "whole/report.html").exists()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("model", "torchvision has no model named 'resnet19'; it has resnet18"),
        ("of timm", "timm has no model named 'resnet19x'; it has resnet1"),
        ("weights", "model.weights: an experiment downloads no weights"),
        ("data set", "no data set named 'Image'"),
        ("folder", "needs --data-dir"),
        ("download", "data.download = true downloads it"),
        ("transform", "train_transforms"),
        ("batches", "CutMix mixes images of a batch"),
        ("option", "Resize refuses sizes=3"),
        ("sizes", "have different shapes"),
        ("one part", "has no test images; data.held_out"),
    ],
)
def test_what_torchvision_does_not_have_is_refused_by_a_sentence(
    sentences: dict[str, str], what: str, words: str
) -> None:
    assert words in sentences[what]
    assert "\n" not in sentences[what]


@pytest.mark.slow
def test_other_models_data_sets_and_transforms_train(folder: Path) -> None:
    drive(folder, "others")
    for name in ("fake", "grey"):
        assert result(folder / name)["sparsity"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.slow
def test_figure_1_of_the_page_is_made_of_ones_own_images(folder: Path) -> None:
    (study,) = (text for text in code("docs/your-own-network.md", "toml") if "resnet50" in text)
    drive(folder, "study", study)
    results = json.loads((folder / "figure1/results.json").read_text())
    assert results["missing"] == []
    assert len(results["cells"]) == 4
    assert (folder / "figure1/report.html").exists()
