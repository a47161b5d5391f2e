"""A training step of WRN-28-2 on the NumPy backend and on torch, in processes of their own that take turns.

    python benchmarks/numpy_torch_step.py [--rounds 10]

Two thread pools in one process take the cores from one another, so each step runs in a process that otherwise waits.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import quiet_machine
from machine import sentence
from networks import learner, step_of
from worker_processes import in_turn
from writing import table, write

SHAPE = (32, 32, 3)
GOAL = 2.0
"""NumPy's step in dense steps of torch."""


def main() -> None:
    options = _options()
    seconds, machine = in_turn(STEPS, options)
    report = {
        "machine": machine,
        "settings": vars(options),
        "step_ms": {name: round(1e3 * statistics.median(samples), 2) for name, samples in seconds.items()},
        "numpy_times": {
            name: round(quiet_machine.ratio(seconds["NumPy"], samples), 3) for name, samples in seconds.items()
        },
        "goal": GOAL,
    }
    write("numpy_torch_step", report, page(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    quiet_machine.add_options(parser, rounds=10)
    parser.add_argument("--batch", type=int, default=100, help="images a step (default: 100)")
    parser.add_argument("--sparsity", type=float, default=0.9, help="of the 3x3 convolutions in blocks (default: 0.9)")
    return parser.parse_args()


def _numpy(options: argparse.Namespace) -> Callable[[], None]:
    from sparsecore_numpy import NumpyBackend

    return _on_backend(NumpyBackend(), options)


def _torch(options: argparse.Namespace) -> Callable[[], None]:
    from sparsecore_torch import TorchBackend

    return _on_backend(TorchBackend(device="cpu"), options)


def _on_backend(backend: Any, options: argparse.Namespace) -> Callable[[], None]:
    return step_of(learner(backend, SHAPE, options.sparsity), options.batch)


def _dense(options: argparse.Namespace) -> Callable[[], None]:
    from plain_torch import Loop, optimizer_of, wide_resnet

    model = wide_resnet()
    return Loop(model, optimizer_of(model), options.batch, SHAPE).step


STEPS: Mapping[str, Callable[[argparse.Namespace], Callable[[], None]]] = {
    "NumPy": _numpy,
    "torch, dense": _dense,
    "torch backend": _torch,
}


def page(report: dict[str, Any]) -> str:
    settings, steps, times = report["settings"], report["step_ms"], report["numpy_times"]
    rows = [[name, f"{steps[name]:.1f}", f"{times[name]:.2f}"] for name in steps]
    return f"""# A training step of WRN-28-2 on NumPy and on torch

Batch {settings["batch"]}, images of {"×".join(map(str, SHAPE))}, sparsity {settings["sparsity"]} (but for the dense
one), float32, torch with channels last; medians over {settings["rounds"]} rounds, in each of which every process took
one step while the others waited. The ratio is the median of the rounds' ratios. The goal is at most {GOAL} dense steps
of torch.

{table(("", "ms a step", "NumPy takes times as long"), rows)}

{sentence(report["machine"])}
"""


if __name__ == "__main__":
    main()
