"""Generates the stub of the CPU backend's compiled kernels: ``python tests/kernel_stub.py``, or ``make stubs``.

nanobind reads signatures and docstrings from the compiled module; ruff formats them as the rest of the code.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
STUB = ROOT / "backends/sparsecore_cpu/src/sparsecore_cpu/_kernels.pyi"
MODULE = "sparsecore_cpu._kernels"


def generated_stub() -> str:
    """The stub of the kernels as they are compiled and installed."""
    import importlib

    from nanobind.stubgen import StubGen

    stub = StubGen(module=importlib.import_module(MODULE), include_private=True)
    stub.put(stub.module)
    return _ruff(["format"], _ruff(["check", "--fix-only"], stub.get()))


def _ruff(command: list[str], source: str) -> str:
    """The source after ruff has gone over it, by the project's settings for the stub."""
    arguments = ["--quiet", "--stdin-filename", str(STUB), "-"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, *arguments],
        input=source,
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        encoding="utf-8",
    )
    return done.stdout


if __name__ == "__main__":
    STUB.write_text(generated_stub(), "utf-8")
