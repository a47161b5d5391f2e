"""Training steps of well-known networks in torch with ``kernels="sparse"``, relative to the fastest dense ones.

    python benchmarks/torch_models.py [--models wrn-28-2 gpt] [--threads 1 2] [--sparsity 0.9 0.95]
        [--dtype float32 bfloat16] [--rivals contiguous channels-last inductor] [--processor]
    python benchmarks/torch_models.py --quick   # three networks on few examples, in about a minute; writes nothing

A step is forward pass, loss, backward pass and the optimizer's step. Each network is measured in a process of its own
for each number of threads and dtype, where all ways to compute it take turns. Before that, two steps with the kernels
must give the losses of two with ``kernels="dense"``. Results of other networks are kept in the files.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
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
    report: dict[str, Any] = {"measured": {}}
    for name, threads, dtype in product(options.models, options.threads, options.dtype):
        entry = alone(measured, name, threads, dtype, options)
        print(_line(entry), flush=True)
        if not options.quick:
            report = _known()  # again, because another process may measure other networks meanwhile
        report["measured"][f"{name}, {threads} threads, {dtype}"] = entry
        if not options.quick:
            write(NAME, report, page(report), is_shown=False)
    print(page(report), end="")


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


def measured(name: str, threads: int, dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one network, measured in this process.

    Args:
        name: of :data:`CASES`.
        threads: of torch.
        dtype: of :data:`DTYPES`.
        options: of the command line.
    """
    torch.set_num_threads(threads)
    case = CASES[name].smaller() if options.quick else CASES[name]
    losses = check_losses(case, options.sparsity[0])
    dense, left_out = _dense(case, DTYPES[dtype], options.rivals)
    sparse = {str(sparsity): case.sparse(sparsity, DTYPES[dtype]) for sparsity in options.sparsity}
    load = os.getloadavg()[0]
    seconds = _sampled({made: variant.step for made, variant in (dense | sparse).items()}, threads, options)
    fastest = min(dense, key=lambda one: statistics.median(seconds[one]))
    return {
        "model": name,
        "threads": threads,
        "dtype": dtype,
        "title": case.title,
        "ms": {one: round(1e3 * statistics.median(taken), 2) for one, taken in seconds.items()},
        "fastest_dense": fastest,
        "times_dense": {one: round(quiet_machine.ratio(seconds[one], seconds[fastest]), 4) for one in sparse},
        "losses": losses,
        "left_out": left_out,
        "decisions": {one: variant.decisions() for one, variant in sparse.items()},
        "clock": "processor" if _is_of_processor(threads, options) else "wall",
        "rounds": options.rounds,
        "busy": options.busy,
        "load": sorted(round(one, 1) for one in (load, os.getloadavg()[0])),
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
    }


def _dense(case: Case, lowered: torch.dtype | None, rivals: Sequence[str]) -> tuple[dict[str, Variant], dict[str, str]]:
    """Return the dense ways by name, and why others are left out."""
    made, left_out = {}, {}
    for rival in rivals:
        if rival == "channels-last" and not case.has_images:
            continue
        variant = case.dense(case.has_images and rival != "contiguous", lowered)
        try:
            if rival == "inductor":
                variant.compile()
            variant.step()
        except Exception as error:  # a compiler that is missing, or cannot compile this
            reason, *_ = str(error).strip().splitlines() or [""]
            left_out[rival] = f"{type(error).__name__}: {reason}"
            continue
        made[rival] = variant
    return made, left_out


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


def _line(entry: dict[str, Any]) -> str:
    ratios = ", ".join(f"{ratio:.3f} at {sparsity}" for sparsity, ratio in entry["times_dense"].items())
    dense = f"{entry['ms'][entry['fastest_dense']]} ms ({entry['fastest_dense']})"
    return f"{entry['model']}, {entry['threads']} threads, {entry['dtype']}: dense {dense}, sparse {ratios}"


def page(report: dict[str, Any]) -> str:
    entries = sorted(report["measured"].values(), key=_order)
    sparsities = sorted({sparsity for entry in entries for sparsity in entry["times_dense"]}, key=float)
    rows = [_row(entry, sparsities) for entry in entries]
    head = ("network", "threads", "dtype", "fastest dense, ms", *sparsities, "clock", "load", "commit")
    facts = [{name: fact for name, fact in entry["machine"].items() if name != "threads of torch"} for entry in entries]
    machines = "\n\n".join(dict.fromkeys(map(sentence, facts)))
    return f"""# Training steps of well-known networks in torch

A step is forward pass, loss, backward pass and the optimizer's step, with `sparsify(..., strategy="static",
kernels="sparse")` at the sparsities in the head of the table, relative to the fastest dense step of PyTorch for the
same dtype, whose milliseconds and name are given; in bfloat16 both are under autocast. Figures are medians over the
rounds of the ratios within a round.

{table(head, rows)}

Processor time counts no waiting for other programs, which still disturb the caches; the load is that of the
machine, which has {os.cpu_count()} cores. Ratios at a load far above the number of threads are less certain, above all
by the wall clock.

{machines}
"""


def _row(entry: dict[str, Any], sparsities: Sequence[str]) -> list[str]:
    ratios = [entry["times_dense"].get(sparsity) for sparsity in sparsities]
    return [
        entry["title"],
        str(entry["threads"]),
        entry["dtype"],
        f"{entry['ms'][entry['fastest_dense']]:.0f} ({entry['fastest_dense']})",
        *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        entry["clock"],
        f"{entry['load'][0]} to {entry['load'][1]}",
        entry["commit"],
    ]


def _order(entry: dict[str, Any]) -> tuple[int, int, int]:
    return list(CASES).index(entry["model"]), entry["threads"], list(DTYPES).index(entry["dtype"])


if __name__ == "__main__":
    main()
