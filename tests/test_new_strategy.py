"""``sparsecore new-strategy``: the project that it writes is complete and runs as printed."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from command_line import SMALL, said, small_images, sparsecore, train
from plugin_projects import install, python

pytestmark = pytest.mark.usefixtures("quick_runs")

FILES = {"pyproject.toml", "README.md", "sparsecore_drop_few.py", "test_sparsecore_drop_few.py"}
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins") / "new" / "drop-few"
    done = sparsecore("new-strategy", "drop-few", folder)
    assert done.returncode == 0, done.stderr
    assert str(folder / "sparsecore_drop_few.py") in done.stdout
    return folder


def test_the_project_is_four_files(project: Path) -> None:
    assert {file.name for file in project.iterdir()} == FILES
    for file in project.iterdir():
        assert "$" not in file.read_text("utf-8")


@pytest.mark.integration
@pytest.mark.slow
def test_the_generated_tests_pass(project: Path) -> None:
    done = python(project, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]


@pytest.mark.integration
def test_the_generated_test_can_fail(project: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(project, tmp_path / "copy"))
    strategy = copy / "sparsecore_drop_few.py"
    strategy.write_text(
        strategy.read_text().replace("smallest_indices(abs(values[slots])", "smallest_indices((values[slots])")
    )
    done = python(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "test_the_smallest or test_smallest")
    assert done.returncode == 1
    assert "2 failed" in done.stdout


@pytest.mark.integration
def test_an_installed_project_is_found_by_its_name(project: Path, tmp_path: Path) -> None:
    install(project, tmp_path / "site")
    path = str(tmp_path / "site")
    listed = json.loads(sparsecore("plugins", "--json", PYTHONPATH=path).stdout)
    (found,) = (plugin for plugin in listed if plugin["name"] == "drop-few")
    assert (found["kind"], found["error"]) == ("strategy", None)
    assert found["source"] == "sparsecore-drop-few 0.1.0: sparsecore_drop_few:DropFew"
    assert found["summary"].startswith("Drop a fraction of each tensor's weights")
    checked = sparsecore("check", "drop-few", "--promise", "prune", "--examples", "5", PYTHONPATH=path)
    assert checked.returncode == 0, checked.stderr
    assert "installed already" in said(sparsecore("new-strategy", "drop-few", tmp_path / "again", PYTHONPATH=path))


def test_the_strategy_trains_from_its_file_without_installation(project: Path, tmp_path: Path) -> None:
    images = small_images(tmp_path / "small.npz")
    settings = ("--set", "strategy.DropFew.drop_fraction=0.5", "--set", "strategy.DropFew.schedule.steps=5")
    strategy = ("--strategy", f"{project / 'sparsecore_drop_few.py'}:DropFew")
    result = train(*SMALL, "--data-dir", images, *strategy, *settings, "--out", "run", cwd=tmp_path)
    assert result["reallocations"] > 0


@pytest.mark.integration
@pytest.mark.parametrize("tool", [("check",), ("format", "--check")])
def test_the_generated_code_passes_ruff(project: Path, tool: tuple[str, ...]) -> None:
    pytest.importorskip("ruff")  # a tool of this checkout, which no user of the kit needs
    options = ("--no-cache", "--line-length", "120", "--isolated", "--config", "lint.select=['E', 'F', 'W', 'I', 'UP']")
    done = python(project, "-m", "ruff", *tool, *options, ".")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_empty_folder_is_accepted(tmp_path: Path) -> None:
    assert sparsecore("new-strategy", "drop-few", ".", cwd=tmp_path).returncode == 0
    assert {file.name for file in tmp_path.iterdir()} == FILES


def test_a_folder_that_is_not_empty_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert "is not empty" in said(sparsecore("new-strategy", "drop-few", tmp_path))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("notes.txt", "mine")]


def test_a_file_in_the_place_of_the_folder_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    for folder in ("notes", "notes/below"):
        assert "cannot be made" in said(sparsecore("new-strategy", "drop-few", tmp_path / folder))
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Drop", "lower-case"),
        ("drop_few", "lower-case"),
        ("drop few", "lower-case"),
        ("3d", "lower-case"),
        ("drop-", "lower-case"),
        ("", "lower-case"),
        ("drop\n", "lower-case"),
        ("größe", "lower-case"),
        ("x" * 51, "at most 50"),
        ("dpr", "installed already: sparsecore_strategies.dpr:DynamicReallocation"),
        ("numpy", "would be sparsecore_numpy, and there is one already"),
        ("every", "would be Every"),
        ("none", "would be None"),
        ("strategy-tests", "would be StrategyTests"),
        ("test-me", "would be TestMe"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_in_a_sentence(tmp_path: Path, name: str, sentence: str) -> None:
    assert sentence in said(sparsecore("new-strategy", name, tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not find_spec("hatchling"), reason="needs hatchling")
def test_the_templates_are_in_the_wheel() -> None:
    from hatchling.builders.wheel import WheelBuilder

    shipped = {Path(file.distribution_path).as_posix() for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sparsecore/templates").rglob("*.txt")}
    assert len(here) == len(FILES)
    assert here <= shipped
