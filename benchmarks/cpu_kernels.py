"""Every kernel of the CPU backend by itself: GFLOP/s and GB/s by shape, of one build or of two that take turns.

    python benchmarks/cpu_kernels.py [--against FILE] [--only NAME ...] [--threads 1]

FILE is the compiled module of another build (`_kernels*.so`); each build runs in a process of its own. On one thread
times are those of the processor, which other programs take no part of.
"""

import argparse
import importlib.machinery
import importlib.util
import multiprocessing
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import quiet_machine
from kernel_cases import Case, Cases
from machine import machine, sentence
from writing import table, write

WARM_UP = 2
TYPES = {"float32": np.float32, "bfloat16": np.uint16}


def main() -> None:
    options = _options()
    present = Path(_installed())
    builds = {"present": present} | ({"other": options.against} if options.against else {})
    workers = {name: Build(path, options) for name, path in builds.items()}
    rows = [_row(case, workers, options) for case in workers["present"].cases if _is_chosen(case, options)]
    if not rows:
        raise SystemExit(f"no kernel is named {' or '.join(options.only)}")
    report = {
        "settings": vars(options) | {"against": options.against and str(options.against)},
        "instruction_set": workers["present"].instruction_set,
        "kernels": rows,
        "machine": machine(),
    }
    for worker in workers.values():
        worker.end()
    if options.only or options.against:  # not the whole of one build, which is what the page of results shows
        print(page(report), end="")
    else:
        write("cpu_kernels", report, page(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    quiet_machine.add_options(parser, rounds=15)
    parser.add_argument("--against", type=Path, metavar="FILE", help="the compiled module of another build")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="kernels whose names begin so")
    parser.add_argument("--threads", type=int, default=1, help="that compute (default: 1)")
    parser.add_argument("--batch", type=int, default=96, help="images (default: 96)")
    parser.add_argument("--stored", choices=TYPES, default="float32", help="what images are stored as")
    parser.add_argument("--milliseconds", type=float, default=20, help="that a sample takes, about (default: 20)")
    options = parser.parse_args()
    if options.against and not options.against.is_file():
        raise SystemExit(f"there is no file {options.against}")
    return options


def _installed() -> str:
    found = importlib.util.find_spec("sparsecore_cpu._kernels")
    if found is None or found.origin is None:
        raise SystemExit("the CPU backend is not built")
    return found.origin


def _is_chosen(case: dict[str, Any], options: argparse.Namespace) -> bool:
    return not options.only or case["kernel"].startswith(tuple(options.only))


def _row(case: dict[str, Any], workers: dict[str, "Build"], options: argparse.Namespace) -> dict[str, Any]:
    """The medians over rounds in which the builds take turns."""
    number = case["number"]
    repeats = workers["present"].repeats(number, options.milliseconds / 1e3)

    def sampler(worker: "Build") -> Callable[[], float | None]:
        return lambda: worker.sample(number, repeats)

    seconds = quiet_machine.rounds({name: sampler(worker) for name, worker in workers.items()}, options)
    call = statistics.median(seconds["present"]) / repeats
    row = {name: case[name] for name in ("kernel", "shape")} | {
        "microseconds": round(1e6 * call, 2),
        "gflop_s": round(case["flops"] / call / 1e9, 2),
        "gb_s": round(case["bytes"] / call / 1e9, 2),
    }
    if "other" in seconds:
        row["of_other"] = round(quiet_machine.ratio(seconds["present"], seconds["other"]), 4)
    return row


def page(report: dict[str, Any]) -> str:
    """The results as Markdown."""
    settings, compared = report["settings"], "of_other" in report["kernels"][0]
    head = ("kernel", "shape", "µs a call", "GFLOP/s", "GB/s", *(["of the other build's time"] if compared else []))
    rows = [
        [
            row["kernel"],
            row["shape"],
            f"{row['microseconds']:,.1f}",
            f"{row['gflop_s']:.1f}" if row["gflop_s"] else "",
            f"{row['gb_s']:.1f}",
            *([f"{row['of_other']:.3f}"] if compared else []),
        ]
        for row in report["kernels"]
    ]
    ratios = [row["of_other"] for row in report["kernels"] if compared]
    summary = f"\nThe median of the ratios is {statistics.median(ratios):.3f}.\n" if compared else ""
    return f"""# The kernels of the CPU backend

Kernels for {report["instruction_set"]}, {settings["threads"]} thread(s), batches of {settings["batch"]} images.
Images are stored as {settings["stored"]}. Operations are those with nonzero weights; a multiply-add is two. Bytes are
those of all operands, each once.

{table(head, rows)}
{summary}
{quiet_machine.caveat(settings)}{sentence(report["machine"])}
"""


class Build:
    """A process with the kernels of one build, which makes calls when asked to."""

    def __init__(self, path: Path, options: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, path, options), daemon=True)
        self._process.start()
        there.close()
        self.instruction_set, self.cases = self._received()

    def repeats(self, number: int, seconds: float) -> int:
        """How many calls of a case take about so long."""
        self._connection.send((number, 1))
        self._received()
        taken = self.sample(number, 3)
        return max(1, round(3 * seconds / taken)) if taken else 1

    def sample(self, number: int, repeats: int) -> float | None:
        """Seconds of so many calls of a case; None if other programs disturbed them."""
        self._connection.send((number, repeats))
        seconds: float | None = self._received()
        return seconds

    def end(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()

    def _received(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            raise SystemExit("a process that measures did not come to its end; its error is above") from None


def loaded(path: Path) -> Any:
    """The compiled module in this file."""
    loader = importlib.machinery.ExtensionFileLoader("_kernels", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("_kernels", loader))  # type: ignore[arg-type]
    loader.exec_module(module)
    return module


def _processor_seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def _serve(connection: Connection, path: Path, options: argparse.Namespace) -> None:
    made = Cases(loaded(path), options.batch, options.threads, TYPES[options.stored])
    cases: list[Case] = list(made.all())
    described = [
        {"number": number, "kernel": case.kernel, "shape": case.shape, "flops": case.flops, "bytes": case.bytes}
        for number, case in enumerate(cases)
    ]
    connection.send((made.instruction_set, described))
    take, last = _processor_seconds if options.threads == 1 else quiet_machine.clock(options), None
    with suppress(EOFError):  # the process that asks has ended
        while True:
            number, repeats = connection.recv()
            call = cases[number].call
            if number != last:
                for _ in range(WARM_UP):
                    call()
                last = number
            connection.send(take(lambda call=call, repeats=repeats: [call() for _ in range(repeats)]))  # type: ignore[misc]


if __name__ == "__main__":
    main()
