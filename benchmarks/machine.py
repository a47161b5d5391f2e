"""The machine that a measurement was made on, in words."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np


def machine() -> dict[str, Any]:
    """Processor, cores and versions; of torch, where it has been imported, threads and the CUDA device too."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    facts = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": f"{blas['name']} {blas['version']}",
    }
    return facts | (_torch() if "torch" in sys.modules else {})


def sentence(facts: dict[str, Any]) -> str:
    """The machine in a line."""
    return "; ".join(f"{name} {value}" for name, value in facts.items()) + "."


def _torch() -> dict[str, Any]:
    import torch

    device = {"cuda device": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {"torch": torch.__version__, "threads of torch": torch.get_num_threads(), **device}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    facts = {name.strip(): fact.strip() for name, _, fact in (line.partition(":") for line in lines)}
    named = [f"{word} {facts[word]}" for word in ("model name", "cpu family", "model") if word in facts]
    widest = next((name for name in ("avx512f", "avx2") if name in facts.get("flags", "").split()), "no avx2")
    return ", ".join([*named, widest]) if named else platform.processor() or platform.machine()
