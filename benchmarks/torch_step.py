"""A training step of WRN-28-2 on torch: dense, with ``sparsify``, and on the torch backend, in turn in one process.

    python benchmarks/torch_step.py [--rounds 15] [--threads 2]

What masks add to the optimizer's step and to the gradients on their way there is timed by itself as well.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import quiet_machine
import torch
from machine import machine, sentence
from networks import EXAMPLES, batch_of, learner
from plain_torch import Loop, optimizer_of, wide_resnet
from writing import table, write

from sparsecore.engine.schedules import Every
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_torch import TorchBackend, sparsify
from sparsecore_torch.sparse_training.storages import STORAGES

SHAPE = (32, 32, 3)
REPEATED = 20
"""Times that a short action is carried out in one sample."""

GOALS = {"masks": 0.002, "compact": 0.03}
"""What each may add, as a share of the dense step."""


def main() -> None:
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    dense = Loop(*_dense(), options.batch, SHAPE)
    sparse = {storage: Loop(*_sparse(storage, options), options.batch, SHAPE) for storage in STORAGES}
    masked = sparse["masked"]
    steps = {
        "dense": dense.step,
        **{f"sparsify, {storage}": loop.step for storage, loop in sparse.items()},
        "backend torch, compact": _backend_step(options),
    }
    seconds = quiet_machine.in_turn(steps, options)
    parts = quiet_machine.in_turn(_parts(dense, masked), options)
    report = {
        "machine": machine(),
        "settings": vars(options),
        "step_ms": {name: _milliseconds(samples) for name, samples in seconds.items()},
        "times_dense": {
            name: round(quiet_machine.ratio(samples, seconds["dense"]), 4) for name, samples in seconds.items()
        },
        "masks_ms": _masks(dense, masked, parts),
        "goals": GOALS,
    }
    write("torch_step", report, page(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    quiet_machine.add_options(parser, rounds=15)
    parser.add_argument("--batch", type=int, default=100, help="images a step (default: 100)")
    parser.add_argument("--sparsity", type=float, default=0.9, help="of the 3x3 convolutions in blocks (default: 0.9)")
    parser.add_argument("--threads", type=int, default=0, help="of torch; by default as torch has it")
    return parser.parse_args()


def _dense() -> tuple[Any, Any]:
    model = wide_resnet()
    return model, optimizer_of(model)


def _sparse(storage: str, options: argparse.Namespace) -> tuple[Any, Any]:
    """The same with sparsify; no update is due while it is timed (see reallocation.py for one)."""
    model = wide_resnet()
    optimizer = optimizer_of(model)
    strategy = DynamicReallocation(schedule=Every(steps=10**9))
    sparsify(model, optimizer, strategy=strategy, sparsity=options.sparsity, exclude="*shortcut*", storage=storage)
    return model, optimizer


def _backend_step(options: argparse.Namespace) -> Callable[[], None]:
    network, rng = learner(TorchBackend(device="cpu"), SHAPE, options.sparsity), np.random.default_rng(0)
    return lambda: network.train(batch_of(rng.choice(EXAMPLES, options.batch, replace=False)), 0.1)


def _parts(dense: Loop, masked: Loop) -> dict[str, Callable[[], None]]:
    """The optimizer's step without masks and with them, and what the gradients go through, all by themselves."""
    hooks = [
        (hook, parameter)
        for parameter in masked.model.parameters()
        for hook in (getattr(parameter, "_post_accumulate_grad_hooks", None) or {}).values()
    ]

    def arrive() -> None:
        for hook, parameter in hooks:
            hook(parameter)

    actions = {"optimizer, dense": dense.optimizer.step, "optimizer, masks": masked.optimizer.step, "gradients": arrive}
    return {name: _repeated(action) for name, action in actions.items()}


def _repeated(action: Callable[[], Any]) -> Callable[[], None]:
    def several() -> None:
        for _ in range(REPEATED):
            action()

    return several


def _masks(dense: Loop, masked: Loop, parts: dict[str, list[float]]) -> dict[str, float]:
    """Milliseconds that masks add: within training steps, and by themselves, again and again on the same memory."""
    alone = {name: [second / REPEATED for second in samples] for name, samples in parts.items()}
    added = [one - other for one, other in zip(alone["optimizer, masks"], alone["optimizer, dense"], strict=True)]
    within = [statistics.median(loop.optimizer_seconds) for loop in (dense, masked)]
    return {
        "optimizer's step, dense, within training": _milliseconds([within[0]]),
        "optimizer's step, sparsify, within training": _milliseconds([within[1]]),
        "optimizer's step, dense, alone": _milliseconds(alone["optimizer, dense"]),
        "optimizer's step, sparsify, alone": _milliseconds(alone["optimizer, masks"]),
        "added to the optimizer's step, alone": _milliseconds(added),
        "gradients on their way, alone": _milliseconds(alone["gradients"]),
    }


def _milliseconds(seconds: list[float]) -> float:
    return round(1e3 * statistics.median(seconds), 3)


def page(report: dict[str, Any]) -> str:
    settings, steps, masks = report["settings"], report["step_ms"], report["masks_ms"]
    rows = [[name, f"{steps[name]:.1f}", f"{times:.3f}"] for name, times in report["times_dense"].items()]
    shares = [[name, f"{value:.3f}", f"{100 * value / steps['dense']:.3f}"] for name, value in masks.items()]
    return f"""# A training step of WRN-28-2 on torch

Batch {settings["batch"]}, images of {"×".join(map(str, SHAPE))}, sparsity {settings["sparsity"]}, float32, channels
last; medians over {settings["rounds"]} rounds, in each of which every kind of step was taken once. The ratio is the
median of the rounds' ratios. The backend's step also notes loss and hits.

{table(("step", "ms", "times dense"), rows)}

What masks add, and what it is of a dense step. Alone means carried out {REPEATED} times in a row, on memory that is in
the cache by then. The goal is at most {100 * GOALS["masks"]} % for the optimizer's step.

{table(("", "ms", "% of a dense step"), shares)}

{sentence(report["machine"])}
"""


if __name__ == "__main__":
    main()
