"""The kit inside pytest: StrategyTests as an author writes them, and the plugin."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from forks import can_fork, fork
from test_testing_check import BROKEN

OWN = """
from mine import GrowsWithReplacement

from sparsecore.testing import Declares, StrategyTests


class TestMine(StrategyTests):
    strategy = GrowsWithReplacement()
    backends = ()
    max_examples = 20

    def test_order(self):
        '''Replaces the test of the kit.'''


class TestOfTheSameStrategyOnceMore(TestMine):
    declares = Declares(smallest_first="network")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(BROKEN)
    (tmp_path / "test_mine.py").write_text(OWN)
    return tmp_path


PYTEST = ["-m", "pytest", "-p", "no:cacheprovider", "-W", "error"]


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    if not can_fork(PYTEST):
        return run_anew(folder, *arguments)
    ((status, out, err),) = fork([*PYTEST, *arguments], [os.environ], folder)
    return subprocess.CompletedProcess(arguments, status, out, err)


def run_anew(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """As :func:`run` does, in a process that has imported nothing before."""
    command = [sys.executable, *PYTEST, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.integration
def test_a_test_file_of_three_lines_has_one_test_per_promise(folder: Path) -> None:
    done = run(folder, "-v", "test_mine.py", "-k", "growth or order or smallest")
    assert done.returncode == 1
    assert "test_mine.py::TestMine::test_growth FAILED" in done.stdout
    assert "test_mine.py::TestMine::test_order PASSED" in done.stdout
    assert "test_mine.py::TestMine::test_smallest SKIPPED" in done.stdout
    assert "test_mine.py::TestOfTheSameStrategyOnceMore::test_smallest PASSED" in done.stdout
    assert "broke a promise in 'grow'" in done.stdout
    assert "\ntensor " in done.stdout
    assert "StrategyTests::" not in done.stdout


@pytest.mark.slow
@pytest.mark.integration
def test_the_option_adds_the_promises_of_a_strategy_to_any_run(folder: Path) -> None:
    (folder / "test_mine.py").write_text("def test_own(): pass")
    option = ("--sparsecore-strategy", "mine.py:GrowsWithReplacement")
    done = run(folder, "-v", *option, "-k", "test_own or growth or survivors")
    assert done.returncode == 1, done.stderr
    assert "test_mine.py::test_own PASSED" in done.stdout
    assert "sparsecore::mine.py:GrowsWithReplacement::growth FAILED" in done.stdout
    assert "sparsecore::mine.py:GrowsWithReplacement::survivors PASSED" in done.stdout
    assert "1 failed, 2 passed" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.integration
def test_a_strategy_that_does_not_exist_is_a_usage_error(folder: Path) -> None:
    done = run(folder, "--sparsecore-strategy", "rigel")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no strategy named 'rigel'" in done.stderr


@pytest.mark.integration
def test_pytest_without_the_option_imports_nothing_of_sparsecore(folder: Path) -> None:
    (folder / "test_mine.py").write_text(
        "import sys\n"
        "def test_nothing_is_imported():\n"
        "    heavy = {'sparsecore', 'numpy', 'attrs', 'torch', 'hypothesis'} & set(sys.modules)\n"
        "    assert not heavy and 'sparsecore_pytest' in sys.modules\n"
    )
    # other plugins that are installed here may import what they like
    done = run_anew(
        folder, "-p", "no:hypothesispytest", "-p", "no:anyio", "-p", "no:nbmake", "-p", "no:jaxtyping", "test_mine.py"
    )
    assert done.returncode == 0, done.stdout
