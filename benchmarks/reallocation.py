"""One DPR update on every backend that is there: its time and its memory, which follow the weights, not the positions.

    python benchmarks/reallocation.py [--rounds 9]

Beside each time stands its ratio to reading the N values and positions once (a sum over each), taken in turn in the
same process. Memory is measured in a process of its own.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np
import process_memory
import quiet_machine
from machine import machine, sentence
from networks import layout_of
from worker_processes import alone
from writing import table, write

from sparsecore import Engine, Layout
from sparsecore.engine.arrays import Array, Arrays
from sparsecore.engine.schedules import Amount
from sparsecore.engine.state import State
from sparsecore_models.wrn import WideResNet
from sparsecore_numpy import NumpyArrays
from sparsecore_strategies.dpr import DynamicReallocation


def _even(tensors: int, size: int) -> Layout:
    return Layout.of({f"tensor{i}": (size // tensors,) for i in range(tensors)})


CASES: Mapping[str, tuple[Layout, float]] = {
    "WRN-28-2 at sparsity 0.9": (layout_of(WideResNet().parameters((32, 32, 3), 10)), 0.9),
    "10⁶ of 10⁹": (_even(10, 10**9), 1 - 1e-3),
    "10⁷ of 10⁹": (_even(10, 10**9), 1 - 1e-2),
    "10⁷ of 10¹⁰": (_even(10, 10**10), 1 - 1e-3),
    "10⁷ of 10¹¹": (_even(10, 10**11), 1 - 1e-4),
}


@attrs.frozen(eq=False)
class Update:
    """An update of a network of noise, the same on every backend.

    Attributes:
        engine: with DPR.
        state: before the update.
        values: the weights.
        wait: blocks until the device has finished its work.
    """

    engine: Engine
    state: State
    values: Array
    wait: Callable[[], None]

    @classmethod
    def of(cls, case: str, arrays: Arrays, wait: Callable[[], None]) -> "Update":
        """About 14 % of the weights move."""
        layout, sparsity = CASES[case]
        strategy = DynamicReallocation(target=Amount("14%"), initial_threshold=0.176)  # |N(0, 1)| < 0.176: 14 %
        engine = Engine(layout, [strategy], arrays=arrays)
        state = engine.start(sparsity)
        values = np.random.default_rng(0).standard_normal(state.topology.size, np.float32)
        return cls(engine, state, arrays.from_numpy(values), wait)

    def once(self) -> Any:
        """Carry it out, as if it were the first."""
        result = self.engine.update(self.state, self.values)
        self.wait()
        return result

    def read(self) -> None:
        """Read values and positions once."""
        self.values.sum(), self.state.topology.positions.sum()
        self.wait()


def _on_numpy(case: str) -> Update:
    return Update.of(case, NumpyArrays(), lambda: None)


def _on_cpu(case: str) -> Update:
    from sparsecore_torch import TorchArrays

    return Update.of(case, TorchArrays("cpu"), lambda: None)


def _on_cuda(case: str) -> Update:
    import torch

    from sparsecore_torch import TorchArrays

    return Update.of(case, TorchArrays("cuda"), torch.cuda.synchronize)


def main() -> None:
    options = _options()
    process_memory.prepare()
    rows = [row for case in options.cases for row in _rows(case, options)]
    report = {"machine": machine(), "settings": vars(options), "updates": rows}
    write("reallocation", report, page(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    quiet_machine.add_options(parser, rounds=9)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="layouts (default: all)")
    return parser.parse_args()


def _backends() -> dict[str, Callable[[str], Update]]:
    try:
        import torch
    except ModuleNotFoundError:
        return {"NumPy": _on_numpy}
    cuda = {"torch, CUDA": _on_cuda} if torch.cuda.is_available() else {}
    return {"NumPy": _on_numpy, "torch, CPU": _on_cpu, **cuda}


def _rows(case: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    updates = {backend: make(case) for backend, make in _backends().items()}
    actions = {(name, what): getattr(update, what) for name, update in updates.items() for what in ("once", "read")}
    seconds = quiet_machine.in_turn(actions, options)
    rows = []
    for name, update in updates.items():
        topology, moved = update.state.topology, update.once()[1].pruned_count
        once, read = seconds[name, "once"], seconds[name, "read"]
        rows.append(
            {
                "case": case,
                "backend": name,
                "positions": topology.layout.size,
                "weights": topology.size,
                "moved": moved,
                "ms": round(1e3 * statistics.median(once), 2),
                "times_one_read": round(quiet_machine.ratio(once, read), 1),
            }
        )
    del updates, actions
    return [row | {"peak_mb": _peak(case, row["backend"])} for row in rows]


def _peak(case: str, backend: str) -> float:
    """Megabytes by which memory rises during an update, its result included."""
    return round(alone(_measure_peak, case, backend) / 1e6, 1)


def _measure_peak(case: str, backend: str) -> int:
    small = _backends()[backend]("WRN-28-2 at sparsity 0.9")
    small.once()  # what is imported and kept once and for all
    update = _backends()[backend](case)
    measure = _rise_of_device if backend == "torch, CUDA" else process_memory.rise
    return measure(update.once)


def _rise_of_device(action: Callable[[], object]) -> int:
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    action()
    return int(torch.cuda.max_memory_allocated() - before)


def page(report: dict[str, Any]) -> str:
    head = ("layout", "backend", "positions D", "weights N", "moved K", "ms", "times one read", "peak MB")
    rows = [
        [
            row["case"],
            row["backend"],
            *(f"{row[count]:,}" for count in ("positions", "weights", "moved")),
            f"{row['ms']:.1f}",
            f"{row['times_one_read']:.0f}",
            f"{row['peak_mb']:.1f}",
        ]
        for row in report["updates"]
    ]
    return f"""# One DPR update

{table(head, rows)}

Medians over {report["settings"]["rounds"]} updates with all checks. Peak is by how much the process's memory (on CUDA
the device's) rises in an update, its result included, in a process of its own. Positions have 4 bytes up to 2³¹ and 8
above.

{sentence(report["machine"])}
"""


if __name__ == "__main__":
    main()
