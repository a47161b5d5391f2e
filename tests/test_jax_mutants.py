"""The kit catches each defect of the JAX backend by the promise that it breaks, with the default number of examples."""

from typing import Any

import pytest
from pages import read

pytest.importorskip("jax")

from mutants_of_jax import MUTANTS

from sparsecore.testing.backend_promises import BACKEND_PROMISES
from sparsecore.testing.search import Status, check_promise
from sparsecore.testing.subjects import BackendSubject


def _param(what: str) -> Any:
    # JAX compiles each network, and its own operators for each length, again
    is_slow = MUTANTS[what][1] in ("gradient-batch-norm", "evaluation", "operators", "searchsorted")
    return pytest.param(what, marks=[pytest.mark.slow] if is_slow else [])


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")  # of JAX about 64 bits, in some of the defects
@pytest.mark.parametrize("what", [_param(what) for what in MUTANTS])
def test_each_defect_of_the_jax_backend_is_caught(what: str) -> None:
    mutant, breaks = MUTANTS[what]
    promise = next(promise for promise in BACKEND_PROMISES if promise.name == breaks)
    result = check_promise(promise, BackendSubject.of(mutant()), shrink=False)
    assert result.status is Status.BROKEN, result
    assert result.reason


def test_the_documentation_lists_every_defect() -> None:
    lines = [f"| {what} | `{breaks}` |" for what, (_, breaks) in MUTANTS.items()]
    assert "\n".join(lines) in read("docs/testing.md")
