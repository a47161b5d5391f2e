"""How long a training step of WRN-28-2 takes on the NumPy backend, whole and by kind of operation.

The whole step runs on all threads. The kinds are timed on one thread, where their times add up, by wrapping the
functions that do the work; "rest" is what no wrapper saw. See README.md in this folder.
"""

import argparse
import statistics
import time
from typing import Any

import numpy as np
import quiet_machine
from machine import machine, sentence
from networks import EXAMPLES, batch_of, learner
from operation_times import replaced, timed
from writing import write

from sparsecore.learning.protocols import Learner
from sparsecore_numpy import NumpyBackend, workspace
from sparsecore_numpy.workspace import WorkerPool, worker_pool

SIDES = {8: 1, 32: 3}
"""Image sides, and how many channels such images have."""

WARM_UP = 3


def main() -> None:
    options = _options()
    results = [_measured(side, options) for side in SIDES]
    facts = machine() | {"threads": worker_pool().count}
    report = {"machine": facts, "settings": vars(options), "results": results}
    write("numpy_step", report, page(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="steps that are timed (default: 15)")
    parser.add_argument("--batch", type=int, default=100, help="images a step (default: 100)")
    parser.add_argument("--sparsity", type=float, default=0.9, help="of the 3x3 convolutions in blocks (default: 0.9)")
    parser.add_argument("--patience", type=float, default=300, help="seconds to wait for other programs (default: 300)")
    return parser.parse_args()


def _measured(side: int, options: argparse.Namespace) -> dict[str, Any]:
    whole = [seconds for seconds, _ in _steps(side, options, worker_pool())]
    with timed() as kinds:
        by_kind = _steps(side, options, WorkerPool(1), kinds)
    names = sorted({name for _, parts in by_kind for name in parts})
    return {
        "image": [side, side, SIDES[side]],
        "step_ms": _milliseconds(whole),
        "step_ms_fastest": round(1e3 * min(whole), 2),
        "one_thread_step_ms": _milliseconds([seconds for seconds, _ in by_kind]),
        "one_thread_ms": {name: _milliseconds([parts.get(name, 0.0) for _, parts in by_kind]) for name in names}
        | {"rest": _milliseconds([seconds - sum(parts.values()) for seconds, parts in by_kind])},
    }


def _steps(
    side: int, options: argparse.Namespace, threads: WorkerPool, kinds: dict[str, float] | None = None
) -> list[tuple[float, dict[str, float]]]:
    """Seconds of each step, and of each kind within it; only steps that no other program disturbed."""
    kinds = {} if kinds is None else kinds
    network = _learner(side, options.sparsity, threads)
    rng = np.random.default_rng(0)

    def step() -> None:
        kinds.clear()
        network.train(batch_of(rng.choice(EXAMPLES, options.batch, replace=False)), 0.1)

    for _ in range(WARM_UP):
        step()
    steps: list[tuple[float, dict[str, float]]] = []
    end = time.monotonic() + options.patience
    while len(steps) < options.rounds:
        seconds = quiet_machine.seconds(step)
        if seconds is not None:
            steps.append((seconds, dict(kinds)))
        elif time.monotonic() > end:
            raise SystemExit(f"other programs were busy for {options.patience} seconds; {len(steps)} steps were timed")
    return steps


def _learner(side: int, sparsity: float, threads: WorkerPool) -> Learner:
    with replaced(workspace, "worker_pool", lambda: threads):
        return learner(NumpyBackend(), (side, side, SIDES[side]), sparsity)


def _milliseconds(seconds: list[float]) -> float:
    return round(1e3 * statistics.median(seconds), 2)


def _rows(result: dict[str, Any]) -> list[tuple[str, float]]:
    kinds = sorted(result["one_thread_ms"].items(), key=lambda entry: -entry[1])
    return [
        ("whole step, all threads, median", result["step_ms"]),
        ("whole step, all threads, fastest", result["step_ms_fastest"]),
        ("whole step, one thread, median", result["one_thread_step_ms"]),
        *kinds,
    ]


def page(report: dict[str, Any]) -> str:
    settings = report["settings"]
    text = [
        "# A training step of WRN-28-2 on the NumPy backend",
        "",
        f"Batch {settings['batch']}, sparsity {settings['sparsity']}, float32; medians over {settings['rounds']} "
        "steps, in milliseconds. The kinds of operation are timed on one thread.",
        "",
        sentence(report["machine"]),
    ]
    for result in report["results"]:
        text += ["", f"## Images of {'×'.join(map(str, result['image']))}", "", "| | ms |", "|---|---:|"]
        text += [f"| {name} | {milliseconds:.1f} |" for name, milliseconds in _rows(result)]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    main()
