"""Calls of the kernels with hostile arguments; `make fuzz` makes more of them, under sanitizers."""

import sys
from typing import Any

import pytest

pytest.importorskip("sparsecore_cpu._kernels")

import fuzz_kernels

WORKER = [sys.executable, fuzz_kernels.__file__, "--seed", "1", "--calls", "1500", "--status"]


def test_no_call_crashes_hangs_or_writes_outside_its_outputs(capfd: pytest.CaptureFixture[str]) -> None:
    assert fuzz_kernels.watch(WORKER, patience=60) == 0
    said = capfd.readouterr().out
    assert "returned" in said
    assert "ValueError" in said


@pytest.mark.parametrize(("end", "status", "word"), [("os.abort()", 1, "ended"), ("time.sleep(60)", 2, "hangs")])
def test_a_call_that_crashes_or_hangs_is_named(end: str, status: int, word: str, capfd: Any) -> None:
    code = f"import os, sys, time; open(sys.argv[1], 'w').write('number 7: convolve(...)'); {end}"
    assert fuzz_kernels.watch([sys.executable, "-c", code], patience=1.0) == status
    said = capfd.readouterr().out
    assert word in said
    assert "number 7: convolve(...)" in said
