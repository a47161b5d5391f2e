"""The examples of docs/testing.md run as printed, and its lists are complete."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sparsecore.testing.backend_promises import BACKEND_PROMISES
from sparsecore.testing.search import DEFAULT_EXAMPLES, Status, check_promise
from sparsecore.testing.strategy_promises import STRATEGY_PROMISES
from sparsecore.testing.subjects import StrategySubject

PAGE = (Path(__file__).parent.parent / "docs/testing.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_every_promise_is_listed_with_its_sentence() -> None:
    for promises in (STRATEGY_PROMISES, BACKEND_PROMISES):
        names = [promise.name for promise in promises]
        assert len(set(names)) == len(names)
        rows = [f"| `{promise.name}` | {promise.sentence} |" for promise in promises]
        assert "\n".join(rows) in PAGE, f"docs/testing.md must hold:\n{chr(10).join(rows)}"


def test_the_number_of_examples_is_the_default() -> None:
    assert f"{DEFAULT_EXAMPLES} by default" in PAGE


@pytest.mark.slow
@pytest.mark.integration
def test_the_documented_test_files_pass(tmp_path: Path) -> None:
    files = [block for block in BLOCKS if "Tests" in block or "@given" in block]
    (declaring,) = (block for block in BLOCKS if "Declares(" in block)
    assert len(files) == 3
    (tmp_path / "mine.py").write_text(declaring.replace("DropAThird", "MyStrategy"))
    for number, block in enumerate(files):
        (tmp_path / f"test_{number}.py").write_text(block)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    chosen = ["-k", "growth or smallest or order or runTest or argsort or learns or empties"]
    done = subprocess.run([*command, *chosen], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
    assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE), done.stdout


def test_the_documented_declarations_are_checked_and_hold() -> None:
    (declaring,) = (block for block in BLOCKS if "Declares(" in block)
    names: dict[str, type] = {}
    exec(declaring, names)
    subject = StrategySubject.of(names["DropAThird"]())
    (smallest,) = (promise for promise in STRATEGY_PROMISES if promise.name == "smallest")
    assert check_promise(smallest, subject).status is Status.KEPT


@pytest.mark.integration
def test_the_first_documented_strategy_is_found_broken_as_documented(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BLOCKS[0])
    command = [sys.executable, "-m", "sparsecore", "check", "mine.py:MyStrategy", "--promise", "growth"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert re.search(r"^broken +growth", done.stdout, re.MULTILINE)
    assert "plugin 'MyStrategy' broke a promise in 'grow': it grew at position" in done.stdout
