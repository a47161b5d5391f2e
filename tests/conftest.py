"""Hypothesis has no deadlines, since machines differ in speed, and prints failures so that they can be reproduced.

Torch runs on one thread, in the tests and in the processes they start: the networks are tiny, threads that wait for one
another would take most of the time, and its results depend on their number. JAX compiles with few optimizations, since
it would take longer over those than the tiny networks take to run.
"""

import gc
import logging
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# by the defaults of Python, garbage collections take a tenth of the time, most of it those of the oldest generation
gc.set_threshold(2_000, 10, 100)

_COMMON = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
# a fifth of the usual number of examples, which are others in each run, keep the whole suite short
settings.register_profile("sparsecore", _COMMON, max_examples=20)
settings.register_profile("thorough", _COMMON, max_examples=200)  # of make test-slow
settings.load_profile("sparsecore")


def pytest_configure() -> None:
    """Let processes that tests start be interrupted, also if pytest itself is a shell's background job."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # which they would inherit
        signal.signal(signal.SIGINT, signal.default_int_handler)


@given(st.none())
def _any_example(_: None) -> None:
    """Make hypothesis set itself up."""


def pytest_collection_finish() -> None:
    """What is imported by now stays: no garbage collection of a test needs to walk through all of PyTorch.

    Nor does PyTorch write out the graphs of each compilation, as it does for handlers of its logger for traces: pytest
    adds some to every logger that does not propagate.
    """
    logging.getLogger("torch.__trace").propagate = True
    # older releases make a random generator at the first example, and warn if the collector cannot see who holds it
    _any_example()
    gc.collect()
    gc.freeze()


Page = Callable[[Any], str]


@pytest.fixture(scope="module")
def quick_runs() -> Iterator[Page]:
    """Reports of runs in this process are empty pages, and files are not flushed to the disk.

    Both take longer than runs that are this small. Request it by ``usefixtures`` where no test reads a report.

    Yields:
        What draws a page otherwise.
    """
    from sparsecore.report import page

    with pytest.MonkeyPatch.context() as patch:
        drawn = page.page
        patch.setattr(page, "page", lambda _: "")
        patch.setattr(os, "fsync", lambda _: None)
        yield drawn


@pytest.fixture
def drawn_reports(quick_runs: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are drawn in this test, although other tests of its module request :func:`quick_runs`."""
    monkeypatch.setattr("sparsecore.report.page.page", quick_runs)
