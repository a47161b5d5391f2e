"""Training steps of linear layers beside those of SparseLab, another library for sparse training on the CPU.

    python -m pip install --no-deps sparselab==0.2.2
    python benchmarks/sparselab_step.py [--threads 1 2] [--rounds 7]

The same perceptron and the same feed-forward layers at sparsity 0.9: dense on PyTorch, with ``sparsify`` (compact
storage, sparse kernels), and with SparseLab's layers, whose weights lie in padded rows (CSR). Each has a process of its
own, because thread pools in one process compete for the cores; the processes take turns. Where SparseLab is not
installed, the others are measured without it.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
import quiet_machine
import torch
from machine import machine, sentence
from torch import nn
from worker_processes import in_turn
from writing import table, write

from sparsecore_torch import sparsify

SPARSITY = 0.9

Linear = Callable[[int, int], nn.Module]


@attrs.frozen
class Network:
    """Layers that are measured.

    Attributes:
        title: for tables.
        make: makes them, given what makes a sparse linear layer.
        vectors: the number of input vectors of a step.
        features: the size of an input vector.
        outputs: the size of an output vector.
    """

    title: str
    make: Callable[[Linear], nn.Module]
    vectors: int
    features: int
    outputs: int


NETWORKS: Mapping[str, Network] = {
    "mlp": Network(
        "MLP 1024-4096-4096-10, batch 100",
        lambda linear: nn.Sequential(linear(1024, 4096), nn.ReLU(), linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 10)),
        100,
        1024,
        10,
    ),
    "feed-forward": Network(
        "feed-forward 512-2048-512, 2,048 tokens",
        lambda linear: nn.Sequential(linear(512, 2048), nn.GELU(), linear(2048, 512)),
        2048,
        512,
        512,
    ),
}


def main() -> None:
    options = _options()
    rows = [_measured(name, threads, options) for name in NETWORKS for threads in options.threads]
    report = {
        "settings": vars(options),
        "sparselab": importlib.metadata.version("sparselab") if _is_installed() else "not installed",
        "networks": rows,
        "machine": machine(),
        "load": round(os.getloadavg()[0], 1),
    }
    write("sparselab_step", report, page(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    quiet_machine.add_options(parser, rounds=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    return parser.parse_args()


def _is_installed() -> bool:
    return importlib.util.find_spec("sparselab") is not None


def _measured(name: str, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of the processes that are started from here on
    libraries = {one: step for one, step in STEPS.items() if one != "SparseLab" or _is_installed()}
    seconds, _ = in_turn({one: partial(step, name=name) for one, step in libraries.items()}, options)
    return {
        "network": NETWORKS[name].title,
        "threads": threads,
        "ms": {one: round(1e3 * statistics.median(taken), 2) for one, taken in seconds.items()},
        "times_dense": {one: round(quiet_machine.ratio(taken, seconds["dense"]), 4) for one, taken in seconds.items()},
    }


def _dense(_options: argparse.Namespace, name: str) -> Callable[[], None]:
    network = NETWORKS[name]
    model = network.make(nn.Linear)
    return _step(network, model, _optimizer(model))


def _ours(_options: argparse.Namespace, name: str) -> Callable[[], None]:
    network = NETWORKS[name]
    model = network.make(nn.Linear)
    optimizer = _optimizer(model)
    head = "4*" if name == "mlp" else ()
    sparsify(
        model,
        optimizer,
        strategy="static",
        sparsity=SPARSITY,
        include=nn.Linear,
        exclude=head,
        storage="compact",
        kernels="sparse",
    )
    return _step(network, model, optimizer)


def _sparselab(_options: argparse.Namespace, name: str) -> Callable[[], None]:
    network = NETWORKS[name]
    library: Any = importlib.import_module("sparselab")
    model = network.make(lambda inputs, outputs: library.SparseLinear(inputs, outputs, sparsity=SPARSITY))
    return _step(network, model, _optimizer(model))


STEPS = {"dense": _dense, "sparsecore": _ours, "SparseLab": _sparselab}


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def _step(network: Network, model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    x, target = torch.randn(network.vectors, network.features), torch.randn(network.vectors, network.outputs)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), target).backward()
        optimizer.step()

    return step


def page(report: dict[str, Any]) -> str:
    rows = [
        [row["network"], str(row["threads"]), f"{row['ms']['dense']:.1f}"]
        + [f"{row['times_dense'][one]:.2f}" if one in row["times_dense"] else "" for one in STEPS if one != "dense"]
        for row in report["networks"]
    ]
    head = ("network", "threads", "dense, ms", "sparsecore", f"SparseLab {report['sparselab']}")
    return f"""# Training steps of linear layers beside SparseLab

Float32, sparsity {SPARSITY}, SGD with momentum; relative to the dense step of PyTorch. Medians over
{report["settings"]["rounds"]} rounds, in each of which every library took one step, in a process of its own.

{table(head, rows)}

{quiet_machine.caveat(report["settings"])}Load {report["load"]}. {sentence(report["machine"])}
"""


if __name__ == "__main__":
    main()
