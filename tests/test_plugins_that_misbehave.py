"""Plugins that print or that ask to exit: the result stays alone on standard output, and an error names the plugin."""

import json
from pathlib import Path

import pytest
from command_line import SMALL, small_images, sparsecore, sparsecore_process
from in_process import run_in_process

pytestmark = pytest.mark.usefixtures("quick_runs")

PLAIN = """
import attrs, os, subprocess, sys
from sparsecore_models.lenet import LeNet
from sparsecore_strategies.static import Static
from sparsecore.data.npz import Npz
from sparsecore_numpy import NumpyBackend
"""

EXITS = {
    "a module": "import sys\nsys.exit(0)\nclass Mine: pass\n",
    "a class that is made": PLAIN
    + "class Mine:\n    def __init__(self): sys.exit(0)\n    parameters = forward = load = 0\n",
    "an attribute": PLAIN + "def __getattr__(name):\n    sys.exit(0)\n",
    "a check of options": PLAIN
    + "@attrs.frozen(eq=False)\nclass Mine(Static):\n    def __attrs_post_init__(self): sys.exit(0)\n"
    + "    parameters = forward = load = 0\n",
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_images(tmp_path_factory.mktemp("data") / "small.npz")


@pytest.mark.parametrize("option", ["--strategy", "--model", "--data"])
@pytest.mark.parametrize("kind", EXITS)
def test_a_plugin_that_exits_on_import_is_an_error_that_names_it(
    images: Path, tmp_path: Path, kind: str, option: str
) -> None:
    (tmp_path / "mine.py").write_text(EXITS[kind])
    ended = run_in_process("train", *SMALL, "--data-dir", images, option, f"{tmp_path / 'mine.py'}:Mine", "--json")
    assert ended.status == 2
    assert "mine.py:Mine" in ended.sentence
    assert "SystemExit" in ended.sentence


def test_a_module_that_raises_baseexception_is_an_error_that_names_it(images: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise BaseException('not today')")
    ended = run_in_process(
        "train", *SMALL, "--data-dir", images, "--strategy", f"{tmp_path / 'mine.py'}:Mine", "--json"
    )
    assert ended.status == 2
    assert "mine.py:Mine" in ended.sentence
    assert "not today" in ended.sentence


LATER = {
    "--data": "@attrs.frozen(eq=False)\nclass Mine(Npz):\n    def load(self, folder): sys.exit(0)\n",
    "--model": "@attrs.frozen(eq=False)\nclass Mine(LeNet):\n    def parameters(self, shape, classes): sys.exit(0)\n",
    "--backend": "@attrs.frozen(eq=False)\nclass Mine(NumpyBackend):\n    def learner(self, task): sys.exit(0)\n",
}


@pytest.mark.parametrize("option", LATER)
def test_a_plugin_that_exits_when_called_is_an_error_that_names_it(images: Path, tmp_path: Path, option: str) -> None:
    (tmp_path / "mine.py").write_text(PLAIN + LATER[option])
    out = tmp_path / "run"
    ended = run_in_process(
        "train", *SMALL, "--data-dir", images, option, f"{tmp_path / 'mine.py'}:Mine", "--json", "--out", out
    )
    assert ended.status == 2
    assert "mine.py:Mine" in ended.sentence


def test_a_model_that_exits_during_a_run_is_an_error_that_names_its_line(images: Path, tmp_path: Path) -> None:
    model = "@attrs.frozen(eq=False)\nclass Mine(LeNet):\n    def forward(self, *_): sys.exit(0)\n"
    (tmp_path / "mine.py").write_text(PLAIN + model)
    ended = run_in_process(
        "train", *SMALL[2:], "--model", f"{tmp_path / 'mine.py'}:Mine", "--data-dir", images, "--out", tmp_path / "run"
    )
    assert ended.status == 1
    assert "mine.py, line 9" in ended.stderr.splitlines()[-1]


LOUD = """
import atexit, os, subprocess, sys
import attrs
from sparsecore import hookimpl
from sparsecore_strategies.dpr import DynamicReallocation as Dpr

print("loaded")
sys.stdout.write("written\\n")
os.write(1, b"to the descriptor\\n")
subprocess.run(["echo", "by a process"])
atexit.register(print, "at the end")
atexit.register(os.write, 1, b"at the end, to the descriptor\\n")

@attrs.frozen(eq=False)
class Loud(Dpr):
    @hookimpl
    def reallocated(self, reallocation):
        print("moved")
        os.write(1, b"moved\\n")
"""


@pytest.mark.integration
def test_output_that_a_plugin_prints_is_not_part_of_the_result(images: Path, tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(LOUD)
    loud = f"{tmp_path / 'loud.py'}:Loud"
    schedule = ["--set", "strategy.schedule.steps=3", "--set", "strategy.target=6"]
    done = sparsecore_process(
        "train", *SMALL, "--data-dir", images, "--strategy", loud, *schedule, "--json", "--out", tmp_path / "r"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout)["epochs"] == 3
    for words in ("loaded", "written", "to the descriptor", "by a process", "moved", "at the end", "at the end, to"):
        assert words in done.stderr


HOOKS = PLAIN + "from sparsecore import hookimpl\nfrom sparsecore_strategies.dpr import DynamicReallocation as Dpr\n"
SCHEDULE = ["--set", "strategy.schedule.steps=3", "--set", "strategy.target=6"]


def hooked(folder: Path, statement: str) -> list[str]:
    """Options that take a strategy with this statement in its hook ``prune``."""
    hook = f"@attrs.frozen(eq=False)\nclass Mine(Dpr):\n    @hookimpl\n    def prune(self): {statement}\n"
    (folder / "mine.py").write_text(HOOKS + hook)
    return [*SMALL, "--strategy", f"{folder / 'mine.py'}:Mine", *SCHEDULE]


@pytest.mark.parametrize(
    ("statement", "status", "words"),
    [
        ("raise MemoryError", 1, "memory"),
        ("raise BaseException('not today')", 2, "not today"),
        ("raise GeneratorExit", 2, "GeneratorExit"),
        ("sys.exit()", 2, "exit"),
        ("raise OSError(28, 'No space left on device')", 2, "No space"),
    ],
)
def test_an_exception_in_a_hook_during_a_run_names_hook_and_plugin(
    images: Path, tmp_path: Path, statement: str, status: int, words: str
) -> None:
    ended = run_in_process("train", *hooked(tmp_path, statement), "--data-dir", images, "--out", tmp_path / "run")
    assert ended.status == status
    last = ended.stderr.splitlines()[-1]
    assert "'prune'" in last
    assert "mine.py:Mine" in last
    assert words in last


def test_control_sequences_are_removed_from_printed_errors(images: Path, tmp_path: Path) -> None:
    options = hooked(tmp_path, r"raise EOFError('\x1b]0;owned\x07\x1b[31m\u202etxt')")
    ended = sparsecore("train", *options, "--data-dir", images, "--out", tmp_path / "run")
    assert ended.returncode == 1
    assert "EOFError: \\x1b]0;owned" in ended.stderr
    assert "'prune'" in ended.stderr
    assert not {"\x1b", "\x07", "\u202e"} & set(ended.stderr)


def test_a_plugin_that_changes_the_working_directory_does_not_redirect_files_of_the_run(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    options = hooked(tmp_path, f"os.chdir({str(elsewhere)!r})")
    monkeypatch.chdir(tmp_path)
    ended = run_in_process("train", *options, "--data-dir", images, "--out", "run")
    assert ended.status == 0
    assert (tmp_path / "run/report.html").exists()
    assert not any(elsewhere.iterdir())


def test_a_plugin_that_changes_the_working_directory_on_import_hides_no_other(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first.py").write_text(f"import os\nos.chdir('/')\n{PLAIN}\nclass Mine(LeNet): pass\n")
    (tmp_path / "second.py").write_text(PLAIN + "class Mine(Static): pass\n")
    monkeypatch.chdir(tmp_path)
    ended = run_in_process(
        "train",
        *SMALL[2:],
        "--model",
        "first.py:Mine",
        "--strategy",
        "second.py:Mine",
        "--data-dir",
        images,
        "--out",
        "run",
    )
    assert ended.status == 0, ended.stderr
    assert (tmp_path / "run/result.json").exists()


CLICK = "__import__('click')"


@pytest.mark.parametrize(
    "statement",
    [
        f"raise {CLICK}.exceptions.Exit(0)",
        f"raise {CLICK}.exceptions.Exit(3)",
        f"{CLICK}.get_current_context().exit(0)",
        f"raise {CLICK}.exceptions.Abort",
        f"raise {CLICK}.UsageError('not today')",
    ],
)
def test_an_exception_of_click_in_a_hook_is_neither_a_success_nor_an_interrupt(
    images: Path, tmp_path: Path, statement: str
) -> None:
    ended = run_in_process(
        "train", *hooked(tmp_path, statement), "--data-dir", images, "--out", tmp_path / "run", "--json"
    )
    assert ended.status == 1
    assert ended.stdout == ""
    last = ended.stderr.splitlines()[-1]
    assert "'prune'" in last
    assert "mine.py:Mine" in last
    assert not (tmp_path / "run/result.json").exists()


@pytest.mark.parametrize("method", ["forward", "parameters"])
def test_an_exception_of_click_in_a_model_is_an_error_that_names_its_line(
    images: Path, tmp_path: Path, method: str
) -> None:
    model = (
        f"@attrs.frozen(eq=False)\nclass Mine(LeNet):\n    def {method}(self, *_): raise {CLICK}.exceptions.Exit(0)\n"
    )
    (tmp_path / "mine.py").write_text(PLAIN + model)
    ended = run_in_process(
        "train", *SMALL[2:], "--model", f"{tmp_path / 'mine.py'}:Mine", "--data-dir", images, "--out", tmp_path / "run"
    )
    assert ended.status == 1
    assert "mine.py, line 9" in ended.stderr.splitlines()[-1]


def test_an_ordinary_exception_in_a_hook_is_a_traceback_that_names_hook_and_plugin(
    images: Path, tmp_path: Path
) -> None:
    command = hooked(tmp_path, "raise KeyError('not today')")
    done = sparsecore_process("train", *command, "--data-dir", images, "--out", tmp_path / "run", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" in done.stderr
    assert "not today" in done.stderr
    assert "'prune'" in done.stderr
    assert "mine.py:Mine" in done.stderr
