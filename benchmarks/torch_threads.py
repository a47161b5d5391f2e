"""Training steps in torch with ``kernels="sparse"``, on torch's threads and on the kernels' own, in dense ones.

    python benchmarks/torch_threads.py [--threads 1 2] [--rounds 15]

WRN-28-2 on 32×32 images, and a block of two linear layers, 512-2048-512, all kinds of step in turn in one process.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import quiet_machine
import torch
from machine import machine, sentence
from plain_torch import Loop, optimizer_of, wide_resnet
from torch import nn
from writing import table, write

from sparsecore_cpu._kernels import use_openmp_of
from sparsecore_torch import sparsify

SPARSITY = 0.9
THREADS = {"torch's threads": torch._C.__file__, "the kernels' own": None}
"""The library whose threads the kernels compute on, by name."""


def main() -> None:
    options = _options()
    results = {
        str(threads): {what: _measured(make, threads, options) for what, make in MEASURED.items()}
        for threads in options.threads
    }
    report = {"settings": vars(options), "threads": results, "machine": machine()}
    write("torch_threads", report, _page(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    quiet_machine.add_options(parser, rounds=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of torch (default: 1 2)")
    parser.add_argument("--batch", type=int, default=100, help="images a step (default: 100)")
    parser.add_argument("--vectors", type=int, default=2048, help="vectors a step (default: 2048)")
    return parser.parse_args()


Step = Callable[[], object]


def _network(kernels: str, options: argparse.Namespace) -> Step:
    model = wide_resnet()
    optimizer = optimizer_of(model)
    _sparsify(model, optimizer, kernels, exclude="*shortcut*")
    return Loop(model, optimizer, options.batch, (32, 32, 3)).step


def _block(kernels: str, options: argparse.Namespace) -> Step:
    model = nn.Sequential(nn.LayerNorm(512), nn.Linear(512, 2048), nn.GELU(), nn.Linear(2048, 512))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    _sparsify(model, optimizer, kernels, include=nn.Linear)
    x = torch.randn(options.vectors, 512)

    def step() -> None:
        optimizer.zero_grad()
        (x + model(x)).square().mean().backward()
        optimizer.step()

    return step


MEASURED: Mapping[str, Callable[[str, argparse.Namespace], Step]] = {
    "WRN-28-2": _network,
    "block 512-2048-512": _block,
}


def _sparsify(model: nn.Module, optimizer: torch.optim.Optimizer, kernels: str, **selected: Any) -> None:
    """Train the selected weights sparsely; a dense model stays as it is."""
    if kernels == "sparse":
        sparsify(model, optimizer, strategy="static", sparsity=SPARSITY, kernels=kernels, **selected)


def _measured(
    make: Callable[[str, argparse.Namespace], Step], threads: int, options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    dense, sparse = make("dense", options), make("sparse", options)

    def on(library: str | None) -> Step:
        def step() -> None:
            use_openmp_of(library)
            sparse()

        return step

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        steps = {"dense": dense, **{name: on(library) for name, library in THREADS.items()}}
        seconds = quiet_machine.in_turn(steps, options)
    finally:
        torch.set_num_threads(before)
    return {
        name: {
            "ms": round(1e3 * statistics.median(samples), 3),
            "times_dense": round(quiet_machine.ratio(samples, seconds["dense"]), 4),
        }
        for name, samples in seconds.items()
    }


def _page(report: dict[str, Any]) -> str:
    settings = report["settings"]
    rows = [
        [f"{what}, {threads} threads", f"{by_name['dense']['ms']:.1f}"]
        + [f"{by_name[name]['times_dense']:.3f}" for name in THREADS]
        for threads, measured in report["threads"].items()
        for what, by_name in measured.items()
    ]
    return f"""# Training steps in torch through the sparse kernels, by threads

WRN-28-2 at batch {settings["batch"]} in channels last, and a block of two linear layers on {settings["vectors"]}
vectors; float32, sparsity {SPARSITY}. Medians over {settings["rounds"]} rounds, in each of which every kind of step was
taken once. Beside the milliseconds of the dense step stand ratios to it: the medians of the rounds' ratios.

{table(("step", "dense, ms", *THREADS), rows)}

{quiet_machine.caveat(settings)}{sentence(report["machine"])}
"""


if __name__ == "__main__":
    main()
