"""What the README and docs/ show works as it stands there."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import attrs
import pytest
from command_line import SMALL, small_images, train

from sparsecore.experiment.assembly import assemble
from sparsecore.experiment.experiment import (
    DataSettings,
    Experiment,
    KeepSettings,
    ReallocationSettings,
    StartSettings,
    Training,
)
from sparsecore.plugins.discovery import load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
EXPERIMENTS = (ROOT / "docs/experiments.md").read_text("utf-8")


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def test_the_strategy_in_one_file_trains(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(blocks("python")[0])
    images = small_images(tmp_path / "small.npz")
    command = re.search(r"sparsecore train (--strategy mine.*)", README)
    assert command is not None
    result = train(*SMALL, "--data-dir", images, *command[1].split(), "--out", "run", cwd=tmp_path)
    assert result["reallocations"] == 2


def test_the_experiment_is_one(tmp_path: Path) -> None:
    toml = blocks("toml")[1]
    assert "sparsity" in toml
    (tmp_path / "experiment.toml").write_text(toml)
    tables = Experiment.of(assemble(tmp_path / "experiment.toml", {}, (), ())).tables()
    assert tables["training"]["momentum"] == 0.9  # from the preset
    assert tables["data"] == {"name": "cifar10", "limit": 2_000, "crop": 4, "flip": True}
    assert tables["training"]["learning_rate"] == {"0": 0.1, "4": 0.02, "8": 0.004}


def test_the_entry_point_is_toml() -> None:
    entry_points = tomllib.loads(blocks("toml")[0])["project"]["entry-points"]
    assert entry_points == {"sparsecore.strategies": {"random-rewiring": "mine:RandomRewiring"}}


def test_the_one_line_for_ones_own_model_trains_it() -> None:
    pytest.importorskip("torch")
    code = blocks("python")[1]
    assert "sparsify(" in code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "step 300, 3 updates, sparsity 0.9000" in done.stdout


def test_the_property_test_runs_and_passes(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(blocks("python")[0])
    (tmp_path / "test_mine.py").write_text(blocks("python")[2])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_links_of_the_readme_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        ("data", DataSettings),
        ("training", Training),
        ("reallocation", ReallocationSettings),
        ("start", StartSettings),
        ("keep", KeepSettings),
    ],
)
def test_every_setting_is_documented(section: str, settings: type) -> None:
    for field in attrs.fields(settings):
        assert f"`{section}.{field.name}`" in EXPERIMENTS


@pytest.mark.parametrize(
    "strategy",
    [
        "dpr",
        "set",
        "deepr",
        "soft-deepr",
        "rigl",
        "srigl",
        "snfs",
        "gmp",
        "granet",
        "momentum-growth",
        "magnitude-drop",
    ],
)
def test_every_hyperparameter_is_documented(strategy: str) -> None:
    table = EXPERIMENTS.partition(f"| `{strategy}` | default |")[2].partition("\n\n")[0]
    documented = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert documented == [field.name for field in attrs.fields(load("strategy", strategy))]
