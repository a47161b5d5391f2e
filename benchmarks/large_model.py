"""What sparse training of a model of 86 million sparse positions costs: its updates in dense steps, and its memory.

    python benchmarks/large_model.py [--rounds 5] [--threads 2] [--only NAME ...]

The model is a Llama of 12 blocks, trained by AdamW on 512 tokens a step at sparsity 0.9. In each round a dense model, a
sparse one without an update and the same with one take a step each; seconds are processor time where one thread
computes, which other programs disturb less, and those of the clock otherwise. Memory is measured in processes of their
own.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import process_memory
import torch
from machine import machine, sentence
from sparsify_overhead import VOCABULARY, Llama
from torch.nn import functional
from worker_processes import alone
from writing import table, write

from sparsecore.engine.schedules import Amount, Every, Piecewise
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.set import SparseEvolution
from sparsecore_strategies.static import Static
from sparsecore_torch import sparsify

SCHEDULE = Every(steps=2)
"""Every other step has an update."""

STRATEGIES: Mapping[str, Callable[[], object]] = {
    "DPR, a tenth moves": lambda: DynamicReallocation(
        # a tenth of the uniform start values is smaller, and nearly any number leaves the threshold as it is
        target=Amount("10%"),
        initial_threshold=0.0036,
        tolerance=0.9,
        schedule=SCHEDULE,
    ),
    "SET, three tenths of each tensor": lambda: SparseEvolution(schedule=SCHEDULE),
    "RigL, three tenths of each tensor": lambda: RigL(drop_fraction=Piecewise({0: 0.3}), schedule=SCHEDULE),
}
GOALS: Mapping[str, float] = {
    "DPR, a tenth moves": 0.15,
    "SET, three tenths of each tensor": 0.15,
    "RigL, three tenths of each tensor": 0.4,
}
"""What an update may add, in dense steps."""

WAYS: Mapping[str, tuple[Callable[[], object], str] | None] = {
    "dense": None,
    "masks, no update": (Static, "masked"),
    "compact, no update": (Static, "compact"),
    **{f"masks, {name}": (make, "masked") for name, make in STRATEGIES.items()},
}
"""The strategy and the storage of each training whose memory is measured."""


def main() -> None:
    options = _options()
    if not options.only_memory:
        updates = {name: alone(_time, name, options) for name in options.only or STRATEGIES}
    else:
        updates = {}
    process_memory.prepare()
    memory = {name: alone(_peak, name, options) for name in WAYS}
    report = {"machine": machine(), "load": os.getloadavg()[0], "settings": vars(options)}
    report |= {"updates": updates, "peak_mb": memory}
    write("large_model", report, _page(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="steps of each kind (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--blocks", type=int, default=12, help="of the Llama (default: 12)")
    parser.add_argument("--tokens", type=int, default=512, help="of a step (default: 512)")
    parser.add_argument("--only", nargs="*", choices=STRATEGIES, help="some of the strategies")
    parser.add_argument("--only-memory", action="store_true", help="measure no times")
    return parser.parse_args()


def _loop(strategy: tuple[Callable[[], object], str] | None, options: argparse.Namespace) -> Callable[[], None]:
    torch.manual_seed(0)
    model = Llama(768, 12, 2048, options.blocks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    if strategy is not None:
        make, storage = strategy
        sparsify(model, optimizer, strategy=make(), sparsity=0.9, storage=storage)
    given = torch.randint(0, VOCABULARY, (4, options.tokens // 4))
    labels = torch.randint(0, VOCABULARY, (given.numel(),))

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(given), labels).backward()
        optimizer.step()

    return step


def _time(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a dense step, of a sparse one, and of what an update adds to it; medians."""
    torch.set_num_threads(options.threads)
    dense, sparse = _loop(None, options), _loop((STRATEGIES[name], "masked"), options)
    clock = time.thread_time if options.threads == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {"dense": [], "sparse": [], "with_update": []}
    for number in range(options.rounds + 1):
        for kind, step in (("dense", dense), ("sparse", sparse), ("with_update", sparse)):
            start = clock()
            step()
            if number:  # the first steps make the state of the optimizers
                seconds[kind].append(clock() - start)
    added = [one - other for one, other in zip(seconds["with_update"], seconds["sparse"], strict=True)]
    step_seconds = statistics.median(seconds["dense"])
    return {
        "dense_s": round(step_seconds, 3),
        "sparse_s": round(statistics.median(seconds["sparse"]), 3),
        "update_s": round(statistics.median(added), 3),
        "update_in_dense_steps": round(statistics.median(added) / step_seconds, 3),
        "goal": GOALS[name],
    }


def _peak(name: str, options: argparse.Namespace) -> float:
    """Megabytes by which the process rises while it trains, at most; the optimizer's state is there already."""
    torch.set_num_threads(options.threads)
    process_memory.forget()
    before = process_memory.resident()
    step = _loop(WAYS[name], options)
    step()
    process_memory.forget()
    for _ in range(3):
        step()
    return round((process_memory.highest() - before) / 1e6, 1)


def _page(report: dict[str, Any]) -> str:
    rows = [
        [
            name,
            *(f"{one[key]:.2f}" for key in ("dense_s", "sparse_s", "update_s", "update_in_dense_steps")),
            f"{one['goal']:.2f}",
        ]
        for name, one in report["updates"].items()
    ]
    dense = report["peak_mb"]["dense"]
    memory = [[name, f"{peak:,.0f}", f"{peak / dense:.2f}"] for name, peak in report["peak_mb"].items()]
    settings = report["settings"]
    kind = "processor time" if settings["threads"] == 1 else "of the clock"
    head = ("strategy", "dense step, s", "sparse step, s", "update adds, s", "in dense steps", "goal")
    return f"""# A model of 86 million sparse positions

A Llama of {settings["blocks"]} blocks (width 768), AdamW, float32, {settings["tokens"]} tokens a step, sparsity 0.9, on
the CPU with {settings["threads"]} thread(s). Seconds are {kind}, medians over {settings["rounds"]} rounds in which the
kinds of step take turns; the load of the machine was {report["load"]:.1f}.

{table(head, rows)}

The peak of memory while it trains, as the system counts it for a process of its own, activations included:

{table(("training", "peak, MB", "of dense"), memory)}

{sentence(report["machine"])}
"""


if __name__ == "__main__":
    main()
