"""Counterexamples are small, and their output fits on a screen."""

import itertools
import json
import re
from pathlib import Path

import attrs
import numpy as np
import pytest
from command_line import said, sparsecore
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from mutants_of_strategies import MUTANTS, Sound

from sparsecore import hookimpl
from sparsecore.testing.counterexamples import describe_failure, rows
from sparsecore.testing.promises import Promise
from sparsecore.testing.search import Status, check_promise
from sparsecore.testing.strategy_promises import STRATEGY_PROMISES
from sparsecore.testing.subjects import StrategySubject

PROMISES = {promise.name: promise for promise in STRATEGY_PROMISES}


@pytest.mark.parametrize(
    "what",
    [
        "starts at the same positions whatever the seed",
        # its long histories take several times as long to shrink as the others together
        pytest.param("forgets the tensor's offset in the momentum of the gradients", marks=pytest.mark.slow),
        "prunes the largest from its fourth update on",
        "counts updates in a global variable",
    ],
)
def test_a_counterexample_is_small_and_fits_on_a_screen(what):
    mutant, breaks = MUTANTS[what]
    result = check_promise(PROMISES[breaks], StrategySubject.of(mutant()), first_seed=1)
    assert result.status is Status.BROKEN
    assert len(result.example.positions) <= 60
    lines = describe_failure(result).splitlines()
    assert sum(1 + len(line) // 100 for line in lines) <= 30
    assert all(sum(map(len, row)) <= 130 for row in rows(result.example))


@attrs.frozen(eq=False)
class SometimesBroken(Sound):
    """Breaks its promise for larger tensors only, and not each time."""

    calls: list = attrs.field(factory=list, init=False)

    def __deepcopy__(self, _):
        return self

    @hookimpl
    def prune(self, topology):
        self.calls.append(1)
        return np.zeros(3) if topology.size > 10 and len(self.calls) % 3 == 0 else topology.all()


@pytest.mark.slow
def test_a_flaky_promise_shows_the_smallest_failing_example_seen():
    result = check_promise(PROMISES["prune"], StrategySubject.of(SometimesBroken()))
    assert result.status is Status.BROKEN
    assert 10 < len(result.example.positions) < 60


def test_an_error_that_comes_and_goes_and_is_not_about_the_promise_is_raised():
    calls = itertools.count()

    def fails_once(_subject, _example):
        if next(calls) == 0:
            raise OSError("the disk was busy")

    with pytest.raises(Flaky):
        check_promise(Promise("writes", "it writes", lambda _: st.none(), fails_once), None, examples=1)


def test_a_reason_stays_short_however_long_the_error():
    @attrs.frozen(eq=False)
    class Verbose:
        @hookimpl
        def prune(self, values):
            raise ValueError(f"cannot prune {'these ' * 9000}{values}")

    result = check_promise(PROMISES["no-errors"], StrategySubject.of(Verbose()), shrink=False)
    assert result.status is Status.BROKEN
    assert len(result.reason) < 700


LONG = '''
import attrs
from sparsecore import hookimpl


@attrs.frozen(eq=False)
class Many:
    """Breaks a promise with many weights only."""

    @hookimpl
    def prune(self, topology):
        return topology.all() if topology.size < 40 else topology.all()[:3]


@attrs.frozen(eq=False)
class Undeclared:
    """Implements prune and initial_values and declares nothing."""

    @hookimpl
    def prune(self, values):
        return abs(values) >= 0.5

    @hookimpl
    def initial_values(self, grown, values):
        return grown.arrays.zeros_like(values, grown.size) + 0.25
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    (folder / "mine.py").write_text(LONG)
    return folder


@pytest.mark.slow
def test_a_long_counterexample_is_reproduced_by_a_short_command_or_from_a_file(folder: Path) -> None:
    done = sparsecore("check", "mine.py:Many", "--promise", "prune", "--json", cwd=folder)
    assert done.returncode == 1
    (found,) = json.loads(done.stdout)["promises"]
    assert found["again"] == "sparsecore check mine.py:Many --promise prune --seed 0"
    (folder / "example.json").write_text(json.dumps(found["example"]))
    repeated = sparsecore("check", "mine.py:Many", "--promise", "prune", "--example", "example.json", cwd=folder)
    assert repeated.returncode == 1
    assert repeated.stdout.splitlines()[1].strip() == found["reason"]
    assert max(map(len, repeated.stdout.splitlines())) < 300
    sentence = said(sparsecore("check", "mine.py:Many", "--example", "nowhere.json", cwd=folder))
    assert "nowhere.json" in sentence


def test_undeclared_decisions_are_listed_as_not_checked(folder: Path) -> None:
    done = sparsecore("check", "mine.py:Undeclared", "--promise", "prune", "--examples", "3", cwd=folder)
    (line,) = re.findall(r"^Not checked.*$", done.stdout, re.M)
    assert all(name in line for name in ("'prune'", "smallest_first", "'initial_values'", "grown_value"))
    assert "'allocate'" not in line
    as_json = json.loads(
        sparsecore("check", "rigl", "--promise", "due", "--examples", "3", "--json", cwd=folder).stdout
    )
    assert any("'grow'" in sentence for sentence in as_json["not_checked"])
    assert not any("'prune'" in sentence for sentence in as_json["not_checked"])


def test_a_slow_hook_is_announced_before_the_check_begins(folder: Path) -> None:
    (folder / "slow.py").write_text(
        "import attrs, time\nfrom sparsecore import hookimpl\n\n\n@attrs.frozen(eq=False)\nclass Slow:\n"
        "    @hookimpl\n    def prune(self, values):\n        time.sleep(0.2)\n        return abs(values) > 0.1\n"
    )
    done = sparsecore("check", "slow.py:Slow", "--promise", "shares", "--examples", "1", cwd=folder)
    assert done.returncode == 0, done.stdout
    assert re.search(r"'prune' takes 0\.2\d* s", done.stderr)
    assert done.stderr.startswith("sparsecore: ")
