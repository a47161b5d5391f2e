"""WRN-28-2 on a CUDA device: the step, the update, and images/s over a whole epoch; dense and sparse.

    python benchmarks/torch_cuda.py [--rounds 10] [--images 50000] [--batch 100]

In float32 (without TF32 throughout) and bfloat16 (autocast), compiled and not. Without a CUDA device nothing is
measured and nothing written; ``--device cpu`` tries the script out, and writes nothing either.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from machine import machine, sentence
from networks import batch_of, noise, task
from plain import Loop, optimizer_of, wide_resnet
from reallocation import Update
from writing import table, write

from sparsecore import Clock, Engine, Every
from sparsecore.settings import Amount
from sparsecore_dpr import DynamicReallocation
from sparsecore_torch import TorchArrays, TorchBackend, sparsify
from sparsecore_wrn import WideResNet

SHAPE = (32, 32, 3)
STEPS = 20
"""Of one sample; short ones would measure how fast work is handed to the device."""

WARM_UP = 30
UPDATE_EVERY = 100

DTYPES: Mapping[str, "torch.dtype | None"] = {"float32": None, "bfloat16": torch.bfloat16}


def main() -> None:
    options = _options()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("not measured: no CUDA device")
        return
    torch.backends.cudnn.allow_tf32 = False
    variants = list(itertools.product(WAYS, DTYPES, (False, True)))
    rows = [_measured(way, dtype, options, compiled=compiled) for way, dtype, compiled in variants]
    report = {"machine": machine(), "settings": vars(options), "training": rows, "update": _update(options)}
    if options.device == "cuda":
        write("torch_cuda", report, _page(report))
    else:
        print(_page(report), end="")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10, help=f"samples of {STEPS} steps, and updates (default: 10)")
    parser.add_argument("--batch", type=int, default=100, help="images a step (default: 100)")
    parser.add_argument("--images", type=int, default=50_000, help="of an epoch (default: 50000)")
    parser.add_argument("--sparsity", type=float, default=0.9, help="of the 3x3 convolutions in blocks (default: 0.9)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    return parser.parse_args()


def _dense(dtype: str, options: argparse.Namespace, *, compiled: bool) -> Callable[[], None]:
    model = wide_resnet(options.device)
    return _loop(model, optimizer_of(model), dtype, options, compiled=compiled)


def _sparsified(storage: str) -> Any:
    def make(dtype: str, options: argparse.Namespace, *, compiled: bool) -> Callable[[], None]:
        model = wide_resnet(options.device)
        optimizer = optimizer_of(model)
        chosen: Any = {"sparsity": options.sparsity, "exclude": "*shortcut*", "storage": storage}
        sparsify(model, optimizer, strategy=_strategy(), **chosen)
        return _loop(model, optimizer, dtype, options, compiled=compiled)

    return make


def _loop(model: Any, optimizer: Any, dtype: str, options: argparse.Namespace, *, compiled: bool) -> Callable[[], None]:
    trained = torch.compile(model) if compiled else model
    return Loop(trained, optimizer, options.batch, SHAPE, options.images, DTYPES[dtype]).step


def _backend(dtype: str, options: argparse.Namespace, *, compiled: bool) -> Callable[[], None]:
    """As ``sparsecore train`` does it: a step, and what the engine makes of it."""
    backend = TorchBackend(device=options.device, dtype=dtype, compile=compiled)
    asked = task(backend, noise(SHAPE, options.images), options.sparsity, WideResNet())
    learner, rng = backend.learner(asked), np.random.default_rng(0)
    engine = Engine(asked.topology.layout, [_strategy()], arrays=backend.arrays)
    state = engine.start(options.sparsity, clock=Clock(steps_per_epoch=-(-options.images // options.batch)))
    learner.load_state(state.topology, learner.state())

    def step() -> None:
        nonlocal state
        learner.train(batch_of(rng.choice(options.images, options.batch, replace=False)), 0.1)
        quiet = engine.quiet(state)
        if quiet is not None:
            state = quiet
            return
        advance = engine.advance(state, learner.values, 0.1)
        state = advance.state
        if advance.reallocation is not None:
            learner.reallocate(advance.reallocation)

    return step


def _strategy() -> DynamicReallocation:
    return DynamicReallocation(target=Amount("14%"), schedule=Every(steps=UPDATE_EVERY))


WAYS: Mapping[str, Any] = {
    "torch, dense": _dense,
    "sparsify, masked": _sparsified("masked"),
    "sparsify, compact": _sparsified("compact"),
    "torch backend": _backend,
}


def _measured(way: str, dtype: str, options: argparse.Namespace, *, compiled: bool) -> dict[str, Any]:
    torch.compiler.reset()
    step = WAYS[way](dtype, options, compiled=compiled)
    _seconds(step, WARM_UP, options)
    samples = [_seconds(step, STEPS, options) / STEPS for _ in range(options.rounds)]
    steps = options.images // options.batch
    epoch = _seconds(step, steps, options)
    return {
        "way": way,
        "dtype": dtype,
        "compiled": compiled,
        "step_ms": round(1e3 * statistics.median(samples), 3),
        "images_per_second": round(steps * options.batch / epoch),
    }


def _seconds(action: Callable[[], Any], times: int, options: argparse.Namespace) -> float:
    """How long the device takes for so many."""
    _wait(options)
    begin = time.perf_counter()
    for _ in range(times):
        action()
    _wait(options)
    return time.perf_counter() - begin


def _wait(options: argparse.Namespace) -> None:
    if options.device == "cuda":
        torch.cuda.synchronize()


def _update(options: argparse.Namespace) -> dict[str, float]:
    """One update of WRN-28-2, and reading its N values and positions once."""
    update = Update.of("WRN-28-2 at sparsity 0.9", TorchArrays(options.device), lambda: _wait(options))
    actions = {"update_ms": update.once, "read_ms": update.read}
    for action in actions.values():
        _seconds(action, 3, options)
    samples = {name: [_seconds(action, 1, options) for _ in range(options.rounds)] for name, action in actions.items()}
    return {name: round(1e3 * statistics.median(taken), 3) for name, taken in samples.items()}


def _page(report: dict[str, Any]) -> str:
    settings, update = report["settings"], report["update"]
    dense = {
        row["dtype"]: row["step_ms"]
        for row in report["training"]
        if row["way"] == "torch, dense" and not row["compiled"]
    }
    rows = [
        [
            row["way"],
            row["dtype"],
            "yes" if row["compiled"] else "no",
            f"{row['step_ms']:.2f}",
            f"{row['step_ms'] / dense[row['dtype']]:.3f}",
            f"{row['images_per_second']:,}",
        ]
        for row in report["training"]
    ]
    head = ("", "dtype", "compiled", "ms a step", "times dense, not compiled", "images/s over an epoch")
    return f"""# WRN-28-2 on a CUDA device

Batch {settings["batch"]}, images of {"×".join(map(str, SHAPE))}, sparsity {settings["sparsity"]}, channels last,
without TF32. A step is the median of {settings["rounds"]} samples of {STEPS} steps; an epoch has {settings["images"]:,}
images and an update every {UPDATE_EVERY} steps.

{table(head, rows)}

One DPR update by itself takes {update["update_ms"]:.2f} ms, reading the N values and positions once
{update["read_ms"]:.3f} ms.

{sentence(report["machine"])}
"""


if __name__ == "__main__":
    main()
