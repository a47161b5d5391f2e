"""The command ``sparsecore check``: its output, its exit status and its errors."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import said, sparsecore

BROKEN = '''
import attrs
import numpy as np

from sparsecore import InputError, hookimpl


@attrs.frozen(eq=False)
class GrowsWithReplacement:
    """Prunes by a threshold, and grows with replacement."""

    threshold: float = attrs.field(default=0.5, validator=attrs.validators.gt(0))

    @hookimpl
    def prune(self, values):
        return abs(values) >= self.threshold

    @hookimpl
    def grow(self, occupied, counts, random):
        layout, draw = occupied.layout, random.generator("growth")
        drawn = [first + draw.integers(0, size, n) for first, size, n in zip(layout.offsets, layout.sizes, counts)]
        return occupied.arrays.from_numpy(np.sort(np.concatenate(drawn)).astype(layout.position_dtype))


@attrs.frozen(eq=False)
class Refuses:
    """Refuses every start."""

    @hookimpl
    def initial_topology(self):
        raise InputError("not today")

    @hookimpl
    def initial_strategy_state(self):
        raise InputError("not today")


@attrs.frozen(eq=False)
class Somewhere:
    """Has a field without a default that cannot be drawn."""

    where: str

    @hookimpl
    def prune(self, topology):
        return topology.all()


class NoPlugin:
    """Implements no hook."""


class NoBackend:
    """Loses the last entry."""

    dtype = "float32"

    class arrays:
        @staticmethod
        def from_numpy(array):
            return array[:-1]

        @staticmethod
        def to_numpy(array):
            return array

    def learner(self, task):
        raise NotImplementedError
'''


UNSAVED = """
import attrs

from sparsecore import hookimpl


@attrs.frozen(eq=False)
class Steps:
    history: list


@attrs.frozen(eq=False)
class Unsaved:
    @hookimpl
    def initial_strategy_state(self):
        return Steps([])

    @hookimpl
    def prune(self, topology):
        return topology.all()
"""


FEW = ("--examples", "10")
"""Enough for what is wrong with :data:`BROKEN`."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text(BROKEN)
    return folder


@pytest.fixture(scope="module")
def broken(folder: Path) -> "subprocess.CompletedProcess[str]":
    """A check that finds a counterexample and shrinks it, which takes seconds."""
    done = sparsecore(
        "check", "mine.py:GrowsWithReplacement", "--promise", "growth", "--promise", "count", *FEW, cwd=folder
    )
    assert done.returncode == 1, done.stderr
    return done


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    """What ``--json`` prints of the same search."""
    done = sparsecore("check", "mine.py:GrowsWithReplacement", "--promise", "growth", "--json", *FEW, cwd=folder)
    assert done.returncode == 1, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def again(done: "subprocess.CompletedProcess[str]") -> str:
    """The command that repeats the one counterexample."""
    (command,) = re.findall(r"^  again: (sparsecore .*)$", done.stdout, re.M)
    return str(command)


def lines(done: "subprocess.CompletedProcess[str]") -> dict[str, str]:
    """The status of each promise."""
    return {
        name: status.strip() for status, name in re.findall(r"^(kept|broken|not \w+) +([\w-]+) ", done.stdout, re.M)
    }


def test_a_correct_strategy_prints_one_line_per_promise_and_exits_with_status_0() -> None:
    done = sparsecore("check", "static", "--examples", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    statuses = lines(done)
    assert {"growth", "resume", "order", "size"} <= statuses.keys()
    assert set(statuses.values()) == {"kept", "not applicable"}
    assert done.stderr == ""


def test_a_broken_strategy_prints_its_smallest_example_and_the_command_that_reproduces_it(
    folder: Path, broken: "subprocess.CompletedProcess[str]"
) -> None:
    assert lines(broken) == {"growth": "broken", "count": "kept"}
    assert "plugin 'GrowsWithReplacement' broke a promise in 'grow': it " in broken.stdout
    (head,) = re.findall(r"^ *tensor +before +kept +grown *$", broken.stdout, re.M)
    assert head
    repeated = sparsecore(*shlex.split(again(broken))[1:], cwd=folder)
    assert repeated.returncode == 1
    assert lines(repeated) == {"growth": "broken"}
    table = re.compile(r"^ *tensor\d .*$", re.M)
    assert table.findall(repeated.stdout) == table.findall(broken.stdout) != []


def test_json_output_is_one_object_with_the_counterexample(report: dict[str, Any]) -> None:
    assert (report["plugin"], report["kept"]) == ("mine.py:GrowsWithReplacement", False)
    (promise,) = report["promises"]
    assert (promise["name"], promise["status"]) == ("growth", "broken")
    assert promise["counterexample"][0].keys() == {"tensor", "before", "kept", "grown"}
    assert promise["again"].startswith("sparsecore check mine.py:GrowsWithReplacement --promise growth --example ")


def test_several_names_are_checked_as_a_stack_with_reproducible_examples(folder: Path) -> None:
    stack = ("static", "mine.py:GrowsWithReplacement", "erk-start")
    done = sparsecore("check", *stack, "--promise", "growth", "--promise", "due", "--json", *FEW, cwd=folder)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["plugin"] == " + ".join(stack)
    assert {promise["name"]: promise["status"] for promise in found["promises"]} == {"growth": "broken", "due": "kept"}
    (command,) = (promise["again"] for promise in found["promises"] if "again" in promise)
    repeated = sparsecore(*shlex.split(command)[1:], cwd=folder)
    assert lines(repeated) == {"growth": "broken"}
    assert "plugin 'GrowsWithReplacement' broke a promise in 'grow'" in repeated.stdout


def test_an_error_that_stops_several_promises_is_printed_once(folder: Path) -> None:
    (folder / "unsaved.py").write_text(UNSAVED)
    promises = [part for name in ("due", "growth") for part in ("--promise", name)]
    done = sparsecore("check", "unsaved.py:Unsaved", "--examples", "1", *promises, cwd=folder)
    assert done.returncode == 1, done.stderr
    assert lines(done) == dict.fromkeys(("due", "growth"), "not checked")
    assert done.stdout.count("'history'") == 1
    assert done.stdout.count("(as for due)") == 1


def test_a_check_is_deterministic(broken: "subprocess.CompletedProcess[str]", report: dict[str, Any]) -> None:
    (promise,) = report["promises"]
    assert again(broken) == promise["again"]


def test_a_backend_is_checked_by_name_and_a_broken_one_exits_with_status_1(folder: Path) -> None:
    done = sparsecore("check", "numpy", "--promise", "argsort", "--promise", "learns", "--examples", "10")
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines(done) == {"argsort": "kept", "learns": "kept"}
    done = sparsecore("check", "mine.py:NoBackend", "--promise", "to-and-from-numpy", cwd=folder)
    assert done.returncode == 1, done.stderr
    assert "again: sparsecore check mine.py:NoBackend --promise to-and-from-numpy --seed 0" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rigel"], ["no strategy named 'rigel'", "deepr"]),
        (["mine.py:Nothing"], ["no object named 'Nothing'", "GrowsWithReplacement"]),
        (["mine.py:NoPlugin"], ["implements no hook"]),
        (["mine.py:Somewhere"], ["mine.py:Somewhere cannot be tried", "the field 'where' has no default"]),
        (["mine.py:Refuses", "--examples", "5"], ["refused every example", "not today"]),
        (["static", "--promise", "growht"], ["no promise named 'growht'", "growth"]),
        (["static", "--backend", "numpi"], ["no backend named 'numpi'", "numpy"]),
        (["numpy", "--backend", "numpy"], ["numpy is a backend itself"]),
        (["static", "numpy"], ["strategies that are stacked", "numpy is a backend"]),
        (["static", "dpr", "static"], ["stacked twice", "static, dpr, static"]),
        (
            ["static", "--promise", "count", "--example", "{}"],
            ["cannot be read: it has no key 'layout'", "sparsecore check"],
        ),
        (["numpy", "--promise", "sort", "--example", "{}"], ["cannot be read back", "--seed"]),
    ],
)
def test_wrong_input_prints_one_error_sentence_and_exits_with_status_2(
    arguments: list[str], words: list[str], folder: Path
) -> None:
    sentence = said(sparsecore("check", *arguments, cwd=folder))
    assert sentence.startswith("sparsecore: ")
    assert all(word in sentence for word in words), sentence


@pytest.mark.integration
def test_the_command_line_does_not_import_hypothesis_until_it_checks() -> None:
    script = "import sys, sparsecore.cli.command_line; print('hypothesis' in sys.modules, 'pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
