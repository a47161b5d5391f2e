"""One DPR update on the NumPy backend: its time and its memory, which follow the weights and not the positions.

    python benchmarks/reallocation.py [--out benchmarks/results/reallocation.md]

Beside each time stands its ratio to reading the N values and positions once (a sum over each), taken in turn in the
same process.
"""

import argparse
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sparsecore import Engine, Layout
from sparsecore.settings import Amount
from sparsecore_dpr import DynamicReallocation
from sparsecore_numpy import NumpyArrays
from sparsecore_wrn import WideResNet

ROUNDS = 9


def wrn() -> Layout:
    """The sparse tensors of WRN-28-2."""
    parameters = WideResNet().parameters((32, 32, 3), 10)
    return Layout.of({parameter.name: parameter.shape for parameter in parameters if parameter.sparse})


CASES = (
    ("WRN-28-2 at sparsity 0.9", wrn(), 0.9),
    ("24 tensors, 10⁸ positions", Layout.of({f"tensor{i}": (10**8 // 24,) for i in range(24)}), 0.99),
    ("3 tensors, 3·10⁹ positions", Layout.of({f"tensor{i}": (10**9,) for i in range(3)}), 1 - 1 / 3000),
    ("3 tensors, 3·10¹⁰ positions", Layout.of({f"tensor{i}": (10**10,) for i in range(3)}), 1 - 1 / 30000),
)


def measured(name: str, layout: Layout, sparsity: float) -> str:
    """A line of the table."""
    strategy = DynamicReallocation(target=Amount("14%"), initial_threshold=0.176)  # |N(0, 1)| < 0.176 holds for 14 %
    engine = Engine(layout, [strategy], arrays=NumpyArrays())
    state = engine.start(sparsity)
    values = np.random.default_rng(0).normal(size=state.topology.size).astype(np.float32)
    positions = state.topology.positions
    updates, reads = [], []
    for _ in range(ROUNDS):
        updates.append(seconds(lambda: engine.update(state, values)))
        reads.append(seconds(lambda: (values.sum(), positions.sum())))
    tracemalloc.start()
    _, reallocation = engine.update(state, values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    update = statistics.median(updates)
    ratio = statistics.median(u / r for u, r in zip(updates, reads, strict=True))
    numbers = (f"{layout.size:,}", f"{state.topology.size:,}", f"{reallocation.moved:,}")
    return f"| {name} | {' | '.join(numbers)} | {1e3 * update:.1f} | {ratio:.0f} | {peak / 1e6:.1f} |"


def seconds(action: Callable[[], object]) -> float:
    """How long it takes, once."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/reallocation.md"))
    out = parser.parse_args().out
    head = "| layout | positions D | weights N | moved K | ms, median | times one read | peak MB |"
    rows = [head, "|---|---:|---:|---:|---:|---:|---:|", *(measured(*case) for case in CASES)]
    versions = f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}"
    out.write_text(
        f"# One DPR update on the NumPy backend\n\n{chr(10).join(rows)}\n\n"
        f"Medians of {ROUNDS} updates with all checks; peak is what the update allocates, its result included. "
        f"{versions}.\n",
        "utf-8",
    )
    print("\n".join(rows))


if __name__ == "__main__":
    main()
