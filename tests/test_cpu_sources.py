"""The C++ sources are formatted, and the stub of the kernels says what they take."""

import subprocess
import sys
from pathlib import Path

import pytest
from kernel_stub import ROOT, STUB, generated_stub

KERNELS = ROOT / "backends/sparsecore_cpu/kernels"
CLANG_FORMAT = Path(sys.executable).with_name("clang-format")
SOURCES = sorted(path for path in KERNELS.rglob("*") if path.suffix in {".hpp", ".cpp"})
SOURCES += (ROOT / "benchmarks").glob("*.cpp")


def test_the_stub_is_generated_from_the_kernels() -> None:
    pytest.importorskip("nanobind", reason="nanobind generates the stub, and is not installed")
    pytest.importorskip("ruff", reason="ruff formats the stub, and is not installed")
    pytest.importorskip("sparsecore_cpu._kernels", reason="the CPU backend is not built")
    assert STUB.read_text("utf-8") == generated_stub(), "the stub is out of date: `make stubs` generates it anew"


@pytest.mark.skipif(not CLANG_FORMAT.exists(), reason="clang-format checks the format, and is not installed")
def test_the_sources_are_formatted() -> None:
    assert len(SOURCES) > 20
    command = [CLANG_FORMAT, "--dry-run", "--Werror", *SOURCES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
