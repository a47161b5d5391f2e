"""The peak of memory of a process that trains WRN-28-2: dense on torch, and sparse on the backends.

    python benchmarks/cpu_memory.py [--batch 100] [--sparsity 0.9] [--threads 1]

Each is trained for some steps in a process of its own.
"""

import argparse
import os
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import process_memory
from machine import machine, sentence
from networks import learner, step_of
from worker_processes import alone
from writing import table, write

SHAPE = (32, 32, 3)
STEPS = 5
DENSE = "torch, dense"

Step = Callable[[], object]


def main() -> None:
    options = _options()
    process_memory.prepare()
    os.environ |= {name: str(options.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    facts = machine() | {"torch": version("torch")}  # this process has no need of it
    measured = {name: alone(_measure, name, options) for name in WAYS}
    report = {"settings": vars(options), "steps": STEPS, "bytes": measured, "machine": facts}
    write("cpu_memory", report, page(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=100, help="images a step (default: 100)")
    parser.add_argument("--sparsity", type=float, default=0.9, help="of the 3x3 convolutions in blocks (default: 0.9)")
    parser.add_argument("--threads", type=int, default=1, help="of each process (default: 1)")
    return parser.parse_args()


def _measure(name: str, options: argparse.Namespace) -> dict[str, int]:
    process_memory.forget()
    empty = process_memory.resident()
    WAYS[name](options.threads, options.sparsity, (8, 8, 3), 8)()  # what libraries load and keep once and for all
    process_memory.forget()
    before = process_memory.resident()
    step = WAYS[name](options.threads, options.sparsity, SHAPE, options.batch)
    for _ in range(STEPS):
        step()
    return {"rise": process_memory.highest() - before, "libraries": before - empty, "whole": process_memory.highest()}


def _dense(_threads: int, _sparsity: float, shape: tuple[int, int, int], batch: int) -> Step:
    from plain_torch import Loop, optimizer_of, wide_resnet

    model = wide_resnet()
    return Loop(model, optimizer_of(model), batch, shape).step


def _torch(_threads: int, sparsity: float, shape: tuple[int, int, int], batch: int) -> Step:
    from sparsecore_torch import TorchBackend

    return step_of(learner(TorchBackend(device="cpu"), shape, sparsity), batch)


def _numpy(_threads: int, sparsity: float, shape: tuple[int, int, int], batch: int) -> Step:
    from sparsecore_numpy import NumpyBackend

    return step_of(learner(NumpyBackend(), shape, sparsity), batch)


def _cpu(threads: int, sparsity: float, shape: tuple[int, int, int], batch: int) -> Step:
    from sparsecore_cpu import CpuBackend

    return step_of(learner(CpuBackend(threads=threads), shape, sparsity), batch)


def _cpu_halves(threads: int, sparsity: float, shape: tuple[int, int, int], batch: int) -> Step:
    from sparsecore_cpu import CpuBackend

    return step_of(learner(CpuBackend(threads=threads, activations="bfloat16"), shape, sparsity), batch)


WAYS: Mapping[str, Callable[[int, float, tuple[int, int, int], int], Step]] = {
    DENSE: _dense,
    "torch backend": _torch,
    "NumPy backend": _numpy,
    "CPU backend": _cpu,
    "CPU backend, bfloat16 activations": _cpu_halves,
}


def page(report: dict[str, Any]) -> str:
    settings, measured = report["settings"], report["bytes"]
    head = ("", "training, MB", "of dense", "libraries, MB", "whole process, MB", "of dense")
    rows = [
        [
            name,
            f"{one['rise'] / 1e6:.0f}",
            f"{one['rise'] / measured[DENSE]['rise']:.3f}",
            f"{one['libraries'] / 1e6:.0f}",
            f"{one['whole'] / 1e6:.0f}",
            f"{one['whole'] / measured[DENSE]['whole']:.3f}",
        ]
        for name, one in measured.items()
    ]
    return f"""# The peak of memory in training WRN-28-2

Batch {settings["batch"]}, images of {"×".join(map(str, SHAPE))}, sparsity {settings["sparsity"]} (but for the dense
one), float32, {settings["threads"]} thread(s); at most within {STEPS} steps, the making of the network included.
Training is by how much the process rose above what it held before, libraries what importing and a step of a tiny
network had added to a bare one, and the whole process has all of it.

{table(head, rows)}

{sentence(report["machine"])}
"""


if __name__ == "__main__":
    main()
