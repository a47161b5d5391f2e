"""What the command line shows to a first-time user."""

import io
from pathlib import Path

import numpy as np
import pytest
from command_line import SMALL, small_images
from in_process import run_in_process
from rich.console import Console

from sparsecore import Engine, Layout
from sparsecore.cli.progress import _two_line_progress
from sparsecore.errors import InputError
from sparsecore_numpy import NumpyArrays
from sparsecore_strategies.rigl import RigL

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run of 21 steps."""
    images = small_images(tmp_path_factory.mktemp("data") / "small.npz")
    return ["train", *SMALL, "--data-dir", str(images), "--set", "backend.name=numpy", "--strategy", "set"]


@pytest.mark.parametrize(
    ("more", "is_told"),
    [
        (["--set", "strategy.schedule={ steps = 21 }"], True),
        (["--set", "strategy.schedule={ steps = 20 }"], False),
        (["--set", "strategy.schedule={ epochs = 1 }", "--epochs", "1"], True),
        (["--set", "strategy.schedule={ epochs = 1 }", "--epochs", "2"], False),
        (["--set", "strategy.schedule={ steps = 3 }", "--batch-size", "100"], True),
        (["--strategy", "static"], False),
    ],
    ids=str,
)
def test_a_run_that_will_have_no_update_warns_before_it_starts(
    arguments: list[str], tmp_path: Path, more: list[str], is_told: bool
) -> None:
    given = [part for part in arguments if "static" not in more or part not in ("--strategy", "set")]
    ended = run_in_process(*given, *more, "--out", tmp_path / "run")
    assert ended.status == 0, ended.stderr
    assert ("no update" in ended.stderr) == is_told
    assert (" 0 updates" in ended.stdout) == (is_told or "static" in more)


def test_the_console_names_the_backend_and_says_that_numbers_vary(arguments: list[str], tmp_path: Path) -> None:
    said = run_in_process(*arguments, "--out", tmp_path / "run").stdout
    assert "numpy backend in float32" in said
    assert "vary with processor" in said
    assert "reallocation" not in said


@pytest.mark.parametrize("command", ["train", "lottery"])
def test_resuming_a_missing_run_does_not_start_the_demo(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--epochs", "1"], ["--seed", "3"]):
        assert "TYPO" in run_in_process(command, "--resume", "--out", "TYPO", *more).sentence
    assert list(tmp_path.iterdir()) == []


def test_an_update_without_a_required_gradient_names_the_argument() -> None:
    engine = Engine(Layout.of({"a": (8, 8)}), [RigL()], arrays=NumpyArrays())
    state = engine.start(0.5)
    with pytest.raises(InputError, match="gradient="):
        engine.update(state, np.ones(state.topology.size))


@pytest.mark.parametrize("columns", [80, 100])
def test_the_plugin_table_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    said = run_in_process("plugins").stdout
    assert all(len(line) <= columns for line in said.splitlines())
    # a name and the words of a summary are not broken
    assert "hashed-lenet-300-100" in said
    assert "survivors" in said
    assert "``" not in said, "reStructuredText is not for a terminal"


@pytest.mark.parametrize(("columns", "most"), [(None, 100), ("60", 60), ("120", 120), ("wide", 100), ("", 100)])
def test_the_plugin_table_has_a_fixed_width_without_a_terminal(
    columns: str | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COLUMNS", "TTY_COMPATIBLE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    lines = run_in_process("plugins").stdout.splitlines()
    assert most - 30 < max(map(len, lines)) <= most


def test_the_progress_bar_is_whole_at_80_columns() -> None:
    out = io.StringIO()
    bar = _two_line_progress(Console(file=out, width=80, force_terminal=True, color_system=None))
    details = "loss 0.123  accuracy 0.981  12345 images/s  H 0.00123  K 1,000,000  test 0.983"
    task = bar.add_task("epoch 100/250", total=125_000, details=details)
    bar.update(task, completed=50_100)
    bar.refresh()
    lines = [line for line in bar.console.render_lines(bar.get_renderable(), pad=False) if line]
    texts = ["".join(segment.text for segment in line) for line in lines]
    assert "epoch 100/250" in texts[0]
    assert "50100/125000" in texts[0].replace(" ", "")
    assert "…" not in "".join(texts)
    assert texts[1].strip() == details
    assert all(len(text) <= 80 for text in texts)
