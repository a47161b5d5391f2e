"""The machine that a run is trained on, in words."""

import os
import platform
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np


@cache
def machine() -> str:
    """Processor, cores, system, and the versions of what computes."""
    torch = sys.modules.get("torch")
    told = [
        f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        f"Python {platform.python_version()}",
        f"sparsecore {version('sparsecore-engine')}",
        f"NumPy {np.__version__}",
        *([f"PyTorch {torch.__version__}"] if torch else []),
    ]
    return "; ".join(told)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
