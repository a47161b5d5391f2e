"""How long a training step of WRN-28-2 takes on the NumPy backend, whole and by kind of operation.

The whole step runs on all threads. The kinds are timed on one thread, where their times add up, by wrapping the
functions that do the work; "rest" is what no wrapper saw. See README.md in this folder.
"""

import argparse
import json
import math
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import calm
import numpy as np
from kinds import replaced, timed

from sparsecore.data.images import Batch, Images, Split
from sparsecore.layout import Layout
from sparsecore.learning import Learner, Sgd, Task
from sparsecore.parameters import Parameter
from sparsecore.randomness import Randomness
from sparsecore.topology import Topology
from sparsecore_numpy import NumpyBackend, learner
from sparsecore_numpy.workers import Workers, workers
from sparsecore_wrn import WideResNet

RESULTS = Path(__file__).parent / "results"
SIDES = {8: 1, 32: 3}
"""Image sides, and how many channels such images have."""

EXAMPLES = 1000
WARM_UP = 3


def main() -> None:
    options = _options()
    results = [_measured(side, options) for side in SIDES]
    report = {"machine": _machine(), "settings": vars(options), "results": results}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "numpy_step.json").write_text(json.dumps(report, indent=2) + "\n")
    (RESULTS / "numpy_step.md").write_text(_markdown(report))
    print(_markdown(report), end="")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="steps that are timed (default: 15)")
    parser.add_argument("--batch", type=int, default=100, help="images a step (default: 100)")
    parser.add_argument("--sparsity", type=float, default=0.9, help="of the 3x3 convolutions in blocks (default: 0.9)")
    parser.add_argument("--patience", type=float, default=300, help="seconds to wait for other programs (default: 300)")
    return parser.parse_args()


def _measured(side: int, options: argparse.Namespace) -> dict[str, Any]:
    whole = [seconds for seconds, _ in _steps(side, options, workers())]
    with timed() as kinds:
        by_kind = _steps(side, options, Workers(1), kinds)
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
    side: int, options: argparse.Namespace, threads: Workers, kinds: dict[str, float] | None = None
) -> list[tuple[float, dict[str, float]]]:
    """Seconds of each step, and of each kind within it; only steps that no other program disturbed."""
    kinds = {} if kinds is None else kinds
    network = _learner(side, options.sparsity, threads)
    rng = np.random.default_rng(0)

    def step() -> None:
        rows = rng.choice(EXAMPLES, options.batch, replace=False)
        kinds.clear()
        network.train(Batch(rows, np.zeros((len(rows), 2), np.int64), np.zeros(len(rows), np.bool_), 0), 0.1)

    for _ in range(WARM_UP):
        step()
    steps: list[tuple[float, dict[str, float]]] = []
    end = time.monotonic() + options.patience
    while len(steps) < options.rounds:
        seconds = calm.seconds(step)
        if seconds is not None:
            steps.append((seconds, dict(kinds)))
        elif time.monotonic() > end:
            raise SystemExit(f"other programs were busy for {options.patience} seconds; {len(steps)} steps were timed")
    return steps


def _learner(side: int, sparsity: float, threads: Workers) -> Learner:
    parameters = WideResNet().parameters((side, side, SIDES[side]), 10)
    sparse = [parameter for parameter in parameters if parameter.sparse]
    topology = _topology(Layout([p.name for p in sparse], [p.shape for p in sparse]), sparsity)
    task = Task(
        model=WideResNet(),
        parameters=parameters,
        dense={p.name: _start(p, np.arange(math.prod(p.shape))).reshape(p.shape) for p in parameters if not p.sparse},
        topology=topology,
        values=np.concatenate([_start(p, topology.local(p.name)) for p in sparse]).astype(np.float32),
        images=_images(side),
        optimizer=Sgd(weight_decay=5e-4),
    )
    with replaced(learner, "workers", lambda: threads):
        return NumpyBackend().learner(task)


def _topology(layout: Layout, sparsity: float) -> Topology:
    count = round((1 - sparsity) * layout.size)
    positions = np.sort(np.random.default_rng(0).choice(layout.size, count, replace=False))
    return Topology.of(layout, positions.astype(layout.position_dtype), NumpyBackend().arrays)


def _images(side: int) -> Images:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (EXAMPLES, side, side, SIDES[side]), np.uint8)
    split = Split(pictures, rng.integers(0, 10, EXAMPLES))
    return Images(split, split, 10)


def _start(parameter: Parameter, positions: Any) -> Any:
    return parameter.initial(parameter.shape, positions, Randomness(0).within(parameter.name))


def _milliseconds(seconds: list[float]) -> float:
    return round(1e3 * statistics.median(seconds), 2)


def _machine() -> dict[str, Any]:
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": workers().count,
        "system": platform.system(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": f"{blas['name']} {blas['version']}",
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    facts = {name.strip(): fact.strip() for name, _, fact in (line.partition(":") for line in lines)}
    named = [f"{word} {facts[word]}" for word in ("model name", "cpu family", "model") if word in facts]
    widest = next((name for name in ("avx512f", "avx2") if name in facts.get("flags", "").split()), "no avx2")
    return ", ".join([*named, widest]) if named else platform.processor() or platform.machine()


def _rows(result: dict[str, Any]) -> list[tuple[str, float]]:
    kinds = sorted(result["one_thread_ms"].items(), key=lambda entry: -entry[1])
    return [
        ("whole step, all threads, median", result["step_ms"]),
        ("whole step, all threads, fastest", result["step_ms_fastest"]),
        ("whole step, one thread, median", result["one_thread_step_ms"]),
        *kinds,
    ]


def _markdown(report: dict[str, Any]) -> str:
    machine, settings = report["machine"], report["settings"]
    text = [
        "# A training step of WRN-28-2 on the NumPy backend",
        "",
        f"Batch {settings['batch']}, sparsity {settings['sparsity']}, float32; medians over {settings['rounds']} "
        "steps, in milliseconds. The kinds of operation are timed on one thread.",
        "",
        "; ".join(f"{name} {value}" for name, value in machine.items()) + ".",
    ]
    for result in report["results"]:
        text += ["", f"## Images of {'×'.join(map(str, result['image']))}", "", "| | ms |", "|---|---:|"]
        text += [f"| {name} | {milliseconds:.1f} |" for name, milliseconds in _rows(result)]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    main()
