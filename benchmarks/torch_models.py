"""Training steps of well-known networks in torch with ``kernels="sparse"``, relative to the fastest dense ones.

    python benchmarks/torch_models.py [--models wrn-28-2 gpt] [--threads 1 2] [--sparsity 0.9 0.95]
        [--dtype float32 bfloat16] [--rivals contiguous channels-last inductor] [--processor]
    python benchmarks/torch_models.py --quick   # three networks on few examples, in about a minute; writes nothing

A step is forward pass, loss, backward pass and the optimizer's step. Each network is measured in a process of its own
for each number of threads, where all ways to compute it take turns. Before that, two steps with sparse kernels must
give the losses of two steps with ``kernels="dense"``. Results of other networks and threads are kept in the files.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import quiet_machine
import torch
from machine import machine, sentence
from model_cases import CASES, Case, Variant, check_losses
from worker_processes import alone
from writing import RESULTS, table, write

DTYPES = {"float32": None, "bfloat16": torch.bfloat16}
"""What autocast lowers activations to, by name."""

RIVALS = ("contiguous", "channels-last", "inductor")
QUICK = ("wrn-28-2", "gpt", "mlp")
NAME = "torch_models"


def main() -> None:
    options = _options()
    report = _known()
    for name in options.models:
        for threads in options.threads:
            print(f"{name}, {threads} threads", flush=True)
            entry = alone(measured, name, threads, options)
            report["measured"][f"{name}, {threads} threads"] = entry
            print("\n".join(f"  {line}" for line in _lines(entry)), flush=True)
            if not options.quick:
                write(NAME, report, "")
    page = _page(report)
    if options.quick:
        print(page, end="")
    else:
        write(NAME, report, page)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    quiet_machine.add_options(parser, rounds=7)
    default = [name for name, case in CASES.items() if not case.is_slow]
    parser.add_argument("--models", nargs="+", choices=CASES, default=default, help="networks (default: all fast ones)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of torch (default: 1 2)")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.9, 0.95], help="(default: 0.9 0.95)")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES), help="(default: both)")
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS), help="dense ways (default: all)")
    parser.add_argument("--processor", action="store_true", help="on one thread: processor time, for busy machines")
    parser.add_argument("--quick", action="store_true", help="three networks on few examples; writes nothing")
    options = parser.parse_args()
    if options.quick:
        options.models, options.threads, options.rivals = list(QUICK), [1], ["contiguous", "channels-last"]
        options.sparsity, options.dtype, options.rounds, options.busy = [0.9], ["float32"], 3, True
    return options


def measured(name: str, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one network, measured in this process.

    Args:
        name: of :data:`CASES`.
        threads: of torch.
        options: of the command line.
    """
    torch.set_num_threads(threads)
    case = CASES[name].smaller() if options.quick else CASES[name]
    losses = check_losses(case, options.sparsity[0])
    dense, left_out = _dense(case, options)
    sparse = _sparse(case, options)
    steps = {made: variant.step for made, variant in (dense | sparse).items()}
    load = os.getloadavg()[0]
    seconds = _sampled(steps, threads, options)
    dtypes = {dtype: [one for one in dense if one.endswith(dtype)] for dtype in options.dtype}
    rivals = {dtype: min(those, key=lambda one: statistics.median(seconds[one])) for dtype, those in dtypes.items()}
    return {
        "title": case.title,
        "ms": {one: round(1e3 * statistics.median(taken), 2) for one, taken in seconds.items()},
        "fastest_dense": rivals,
        "times_dense": {
            one: round(quiet_machine.ratio(seconds[one], seconds[rivals[one.split()[-1]]]), 4) for one in sparse
        },
        "losses": losses,
        "left_out": left_out,
        "decisions": {one: variant.decisions() for one, variant in sparse.items()},
        "clock": "processor" if _is_of_processor(threads, options) else "wall",
        "rounds": options.rounds,
        "busy": options.busy,
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
    }


def _dense(case: Case, options: argparse.Namespace) -> tuple[dict[str, Variant], dict[str, str]]:
    """Return the dense ways by name, and why others are left out."""
    made, left_out = {}, {}
    for rival in options.rivals:
        if rival == "channels-last" and not case.has_images:
            continue
        for dtype in options.dtype:
            variant = case.dense(case.has_images and rival != "contiguous", DTYPES[dtype])
            try:
                if rival == "inductor":
                    variant.compile()
                variant.step()
            except Exception as error:  # a compiler that is missing, or cannot compile this
                reason, *_ = str(error).strip().splitlines() or [""]
                left_out[f"{rival} {dtype}"] = f"{type(error).__name__}: {reason}"
                continue
            made[f"{rival} {dtype}"] = variant
    return made, left_out


def _sparse(case: Case, options: argparse.Namespace) -> dict[str, Variant]:
    return {
        f"sparsity {sparsity} {dtype}": case.sparse(sparsity, DTYPES[dtype])
        for sparsity in options.sparsity
        for dtype in options.dtype
    }


def _is_of_processor(threads: int, options: argparse.Namespace) -> bool:
    return bool(options.processor) and threads == 1


def _sampled(
    steps: dict[str, Callable[[], object]], threads: int, options: argparse.Namespace
) -> dict[str, list[float]]:
    if not _is_of_processor(threads, options):
        return quiet_machine.in_turn(steps, options)
    for step in steps.values():
        step()
    return quiet_machine.rounds({name: partial(_processor_seconds, step) for name, step in steps.items()}, options)


def _processor_seconds(step: Callable[[], object]) -> float:
    before = time.process_time()
    step()
    return time.process_time() - before


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def _known() -> dict[str, Any]:
    path = RESULTS / f"{NAME}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {"measured": {}}


def _lines(entry: dict[str, Any]) -> list[str]:
    dense = [f"{dtype}: fastest dense {name}, {entry['ms'][name]} ms" for dtype, name in entry["fastest_dense"].items()]
    return dense + [f"{name}: {ratio:.3f}, {entry['ms'][name]} ms" for name, ratio in entry["times_dense"].items()]


def _page(report: dict[str, Any]) -> str:
    entries = report["measured"]
    columns = sorted({name for entry in entries.values() for name in entry["times_dense"]}, key=_order)
    rows = []
    for name, entry in entries.items():
        ratios = [entry["times_dense"].get(column) for column in columns]
        dense = [f"{entry['ms'][rival]:.0f} ({rival.partition(' ')[0]})" for rival in entry["fastest_dense"].values()]
        shown = ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        threads = name.rpartition(", ")[2].partition(" ")[0]
        rows.append([entry["title"], threads, " / ".join(dense), *shown, _conditions(entry)])
    machines = "\n\n".join(dict.fromkeys(sentence(entry["machine"]) for entry in entries.values()))
    return f"""# Training steps of well-known networks in torch

A step is forward pass, loss, backward pass and the optimizer's step, with `sparsify(..., strategy="static",
kernels="sparse")`, relative to the fastest dense step of PyTorch for the same dtype, whose milliseconds and name are
given. Figures are medians over the rounds of the ratios within a round.

{table(("network", "threads", "fastest dense, ms (float32 / bfloat16)", *columns, "measured"), rows)}

Processor time is that of the one thread; it counts no waiting for other programs, which still disturb the caches.

{machines}
"""


def _order(column: str) -> tuple[str, float]:
    _, sparsity, dtype = column.split()
    return (str(list(DTYPES).index(dtype)), float(sparsity))


def _conditions(entry: dict[str, Any]) -> str:
    load = " to ".join(str(one) for one in sorted(entry["load"]))
    return f"{entry['clock']} time, {entry['rounds']} rounds, load {load}, {entry['commit']}"


if __name__ == "__main__":
    main()
