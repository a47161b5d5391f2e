"""Where the time of a training step on the CPU backend goes, and how far each kernel is from what the processor can do.

    python benchmarks/cpu_roofline.py [--sparsity 0.9] [--rounds 15]

WRN-28-2 on one thread, whose kernels' times add up. Floors are of this machine, measured just before (`peaks.cpp`).
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import quiet_machine
from charts import bars_chart
from cpu_networks import learner_on, threads_of_all, wide_resnet_layout
from kernel_calls import Call, Calls
from machine import machine, sentence
from networks import step_of, topology_of
from peaks import SIZES, Peaks
from writing import table, write

from sparsecore_numpy import NumpyArrays

SHAPE = (32, 32, 3)
WARM_UP = 2


@attrs.frozen
class Work:
    """What some calls took and did; see :class:`kernel_calls.Call`."""

    seconds: float
    multiply_adds: float
    bytes: float

    @classmethod
    def of(cls, calls: Sequence[Call]) -> "Work":
        """The sums."""
        return cls(*(sum(getattr(call, field.name) for call in calls) for field in attrs.fields(cls)))

    def floors(self, peaks: Peaks) -> dict[str, float]:
        """Seconds that it takes at least by each limit, by name."""
        return {
            "arithmetic": self.multiply_adds / peaks.multiply_adds,
            **{level: self.multiply_adds / peaks.reading[level] for level in ("L1", "L2")},
            "memory": self.bytes / peaks.bandwidth("memory"),
        }


def main() -> None:
    options = _options()
    with threads_of_all(1):
        report = _measured(options)
    write("cpu_roofline", report, page(report), chart=chart(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    quiet_machine.add_options(parser, rounds=15)
    parser.add_argument("--batch", type=int, default=100, help="images a step (default: 100)")
    parser.add_argument("--sparsity", type=float, default=0.9, help="of the 3x3 convolutions in blocks (default: 0.9)")
    return parser.parse_args()


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    calls = Calls(threads=1)
    watched = calls.machine()
    peaks = Peaks.measured(watched.kernels.lanes)
    topology = topology_of(wide_resnet_layout(SHAPE), options.sparsity, NumpyArrays())
    step = step_of(learner_on(topology, watched, SHAPE), options.batch)
    with calls.watching():
        steps = _steps(step, calls, options)
    whole = 1e3 * statistics.mean(seconds for seconds, _ in steps)
    by_kernel = _rows(steps, peaks, ("kernel",))
    return {
        "settings": vars(options),
        "kernels": watched.kernels.name,
        "peaks": {"multiply_adds": peaks.multiply_adds, "reading": dict(peaks.reading), "sizes": dict(SIZES)},
        "step_ms": round(whole, 3),
        "rest_ms": round(whole - sum(row["ms"] for row in by_kernel), 3),
        "by_kernel": by_kernel,
        "by_layer": _rows(steps, peaks, ("kernel", "layer")),
        "machine": machine(),
    }


def _steps(step: Callable[[], None], calls: Calls, options: argparse.Namespace) -> list[tuple[float, list[Call]]]:
    """Seconds and calls of each step that no other program disturbed."""
    take, end = quiet_machine.clock(options), time.monotonic() + options.patience
    steps: list[tuple[float, list[Call]]] = []
    for _ in range(WARM_UP):
        step()
    while len(steps) < options.rounds:
        calls.noted.clear()
        seconds = take(step)
        if seconds is not None:
            steps.append((seconds, list(calls.noted)))
        elif time.monotonic() > end:
            raise SystemExit(f"other programs were busy for {options.patience} seconds; {len(steps)} steps were timed")
    return steps


def _rows(steps: Sequence[tuple[float, list[Call]]], peaks: Peaks, names: Sequence[str]) -> list[dict[str, Any]]:
    """Means over steps of the calls that are alike in these attributes, the longest first."""
    grouped: dict[tuple[str, ...], list[Call]] = defaultdict(list)
    for _, calls in steps:
        for call in calls:
            grouped[tuple(getattr(call, name) for name in names)].append(call)
    rows = [dict(zip(names, alike, strict=True)) | _row(calls, len(steps), peaks) for alike, calls in grouped.items()]
    return sorted(rows, key=lambda row: -row["ms"])


def _row(calls: Sequence[Call], steps: int, peaks: Peaks) -> dict[str, Any]:
    work = Work.of(calls)
    floors = work.floors(peaks)
    lowest = max(seconds for limit, seconds in floors.items() if limit != "L2")
    return {
        "calls": len(calls) // steps,
        "ms": round(1e3 * work.seconds / steps, 4),
        "multiply_adds_a_second": round(work.multiply_adds / work.seconds),
        "floor_ms": {limit: round(1e3 * seconds / steps, 4) for limit, seconds in floors.items()},
        "times_floor": round(work.seconds / lowest, 3),
    }


def chart(report: dict[str, Any]) -> str:
    """Time of each kernel and its floors as an SVG document."""
    rows = [row for row in report["by_kernel"] if row["ms"] >= _SHOWN * report["step_ms"]]
    floors = {limit: [row["floor_ms"][limit] for row in rows] for limit in _LIMITS}
    return bars_chart("cpu-roofline", "ms of a step", {row["kernel"]: row["ms"] for row in rows}, floors)


def page(report: dict[str, Any]) -> str:
    settings, peaks = report["settings"], report["peaks"]
    reading = [
        [
            f"one operand from {name} ({peaks['sizes'][name] // 1024:,} KiB)",
            f"{rate / 1e9:.1f}",
            f"{4 * rate / 1e9:.0f}",
        ]
        for name, rate in peaks["reading"].items()
    ]
    registers = ["operands in registers", f"{peaks['multiply_adds'] / 1e9:.1f}", ""]
    return f"""# Where the time of a step on the CPU backend goes

WRN-28-2, batch {settings["batch"]}, images of {"×".join(map(str, SHAPE))}, sparsity {settings["sparsity"]}, one thread,
kernels for {report["kernels"]}; means over {settings["rounds"]} steps. A step takes {report["step_ms"]:.1f} ms,
{report["rest_ms"]:.1f} ms of it outside of the kernels: lists, batches, the update, Python.

## What one core can do at most

{table(("", "10⁹ multiply-adds/s", "GB/s"), [registers, *reading])}

## Kernels

Floors in ms: the multiply-adds with the weights that exist, at the rates above, and each activation read and written
once at the bandwidth of memory. "of floor" is the time in the largest of arithmetic, L1 and memory; the floor by L2 is
that of a kernel whose inputs do not stay in L1. What is in a cache from the call before beats the floor by memory.

![Kernels and their floors](cpu_roofline.svg)

{table(("kernel", *_HEAD), _cells(report, "by_kernel"))}

## Kernels by layer

Without those that take less than {100 * _SHOWN:g} % of the step.

{table(("kernel; layer", *_HEAD), _cells(report, "by_layer"))}

{quiet_machine.caveat(report["settings"])}{sentence(report["machine"])}
"""


_SHOWN = 0.001
_LIMITS = ("arithmetic", "L1", "L2", "memory")
_HEAD = ("calls", "ms", "% of step", "10⁹/s", *_LIMITS, "of floor")


def _cells(report: dict[str, Any], which: str) -> list[list[str]]:
    return [
        [
            "; ".join(row[name] for name in ("kernel", "layer") if name in row),
            str(row["calls"]),
            f"{row['ms']:.2f}",
            f"{100 * row['ms'] / report['step_ms']:.1f}",
            f"{row['multiply_adds_a_second'] / 1e9:.1f}",
            *(f"{row['floor_ms'][limit]:.2f}" for limit in _LIMITS),
            f"{row['times_floor']:.1f}",
        ]
        for row in report[which]
        if row["ms"] >= _SHOWN * report["step_ms"]
    ]


if __name__ == "__main__":
    main()
