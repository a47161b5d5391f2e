"""The kit catches each defect by the promise that it breaks, with the default number of examples."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from mutants_of_backends import MUTANTS as BACKENDS
from mutants_of_strategies import MUTANTS as STRATEGIES
from mutants_of_strategies import Guided, SeedlessStart, Sound, Traceable

from sparsecore.engine.declarations import Declares
from sparsecore.testing.backend_promises import BACKEND_PROMISES
from sparsecore.testing.search import Status, check_promise
from sparsecore.testing.strategy_promises import STRATEGY_PROMISES
from sparsecore.testing.subjects import BackendSubject, StrategySubject

PAGE = Path(__file__).parent.parent / "docs/testing.md"


def named(promises, name):
    return next(promise for promise in promises if promise.name == name)


DECLARING = {"candidates": Guided, "fixed-counts": Traceable, "gradient-first": Traceable}


@pytest.mark.parametrize("promise", STRATEGY_PROMISES, ids=lambda promise: promise.name)
def test_the_correct_strategies_behind_the_mutants_keep_every_promise(promise):
    strategy = DECLARING.get(promise.name, Sound)()
    # that nothing is broken needs fewer examples here: the tests of the built-in strategies search for it, too
    assert check_promise(promise, StrategySubject.of(strategy), examples=3).status is Status.KEPT


@pytest.mark.parametrize("what", STRATEGIES)
def test_each_defect_of_a_strategy_is_caught(what):
    mutant, breaks = STRATEGIES[what]
    if breaks == "backends" and find_spec("torch") is None:
        pytest.skip("there is no other backend than the oracle")
    result = check_promise(named(STRATEGY_PROMISES, breaks), StrategySubject.of(mutant()), shrink=False)
    assert result.status is Status.BROKEN, result
    assert result.reason


@pytest.mark.parametrize("seed", [101, 108, 201])
@pytest.mark.parametrize(
    "what", [what for what, (_, breaks) in STRATEGIES.items() if breaks in ("proportional", "shares")]
)
def test_defects_of_shares_are_caught_with_few_examples_whatever_the_seed(what, seed):
    mutant, breaks = STRATEGIES[what]
    promise, subject = named(STRATEGY_PROMISES, breaks), StrategySubject.of(mutant())
    result = check_promise(promise, subject, examples=50, first_seed=seed, shrink=False)
    assert result.status is Status.BROKEN, result


RARE = {
    "computes positions in 32 bits, and returns them in the right dtype": STRATEGY_PROMISES,
    "reads the momentum of the previous tensor": STRATEGY_PROMISES,
    "ranks exact zeros among the positive weights, and prunes negative ones before them": STRATEGY_PROMISES,
    "searchsorted ignores the side": BACKEND_PROMISES,
    "denormal numbers are flushed to zero": BACKEND_PROMISES,
}


@pytest.mark.parametrize("seeds", [range(3), pytest.param(range(3, 8), marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("what", RARE)
def test_defects_that_few_examples_show_are_caught_with_less_than_half_of_the_examples_whatever_the_seed(what, seeds):
    mutant, breaks = (STRATEGIES | BACKENDS)[what]
    subject = StrategySubject.of(mutant()) if what in STRATEGIES else BackendSubject.of(mutant())
    promise = named(RARE[what], breaks)
    found = [check_promise(promise, subject, examples=40, first_seed=seed, shrink=False).status for seed in seeds]
    assert set(found) == {Status.BROKEN}


@pytest.mark.parametrize("what", BACKENDS)
def test_each_defect_of_a_backend_is_caught(what):
    mutant, breaks = BACKENDS[what]
    result = check_promise(named(BACKEND_PROMISES, breaks), BackendSubject.of(mutant()), shrink=False)
    assert result.status is Status.BROKEN, result
    assert result.reason


def test_a_start_that_is_declared_to_be_fixed_is_not_blamed_for_it():
    subject = StrategySubject.of(SeedlessStart(), declares=Declares(start="fixed"))
    assert check_promise(named(STRATEGY_PROMISES, "seeded-start"), subject).status is Status.NOT_APPLICABLE


def test_the_documentation_lists_and_counts_every_defect():
    assert len(STRATEGIES) + len(BACKENDS) >= 25
    assert table() in PAGE.read_text("utf-8"), f"docs/testing.md must hold:\n{table()}"


def table():
    rows = [
        (kind, what, breaks)
        for kind, mutants in (("strategy", STRATEGIES), ("backend", BACKENDS))
        for what, (_, breaks) in mutants.items()
    ]
    lines = [f"| {kind} | {what} | `{breaks}` |" for kind, what, breaks in rows]
    caught = f"{len(rows)} of {len(rows)} are caught."
    return "\n".join(["| | The defect | The promise that it breaks |", "|---|---|---|", *lines, "", caught])
