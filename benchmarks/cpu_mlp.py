"""Fully connected layers on the CPU backend, in dense ones of torch, in turn in one process.

    python benchmarks/cpu_mlp.py [--threads 1 2] [--rounds 31]

A training step of LeNet-300-100, with batch norm on both sides, one of a larger network in torch itself, with sparse
kernels and compact storage, and a layer of 4096×4096 alone: its outputs, and its outputs and both gradients.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import quiet_machine
import torch
from charts import Points, lines_chart
from cpu_networks import learner_on, threads_of_all
from linear_layers import SIDE, DenseLayer, SparseLayer
from machine import machine, sentence
from networks import layout_of, step_of, topology_of
from plain_torch import Loop, optimizer_of
from torch import nn
from writing import table, write

from sparsecore_cpu.runtime import Runtime
from sparsecore_models.lenet import LeNet
from sparsecore_numpy import NumpyArrays
from sparsecore_torch import sparsify

SHAPE = (28, 28, 1)
SPARSITIES = (0.9, 0.95, 0.99)
WIDTHS = (1024, 4096, 4096, 10)
"""Of the network in torch."""

Actions = dict[str, Callable[[], object]]


def main() -> None:
    options = options_of(__doc__)
    results = {
        str(threads): {what: _measured(make(threads, options), threads, options) for what, make in MEASURED.items()}
        for threads in options.threads
    }
    report = {"settings": vars(options), "threads": results, "machine": machine()}
    write("cpu_mlp", report, page(report), chart=chart(report))


def options_of(description: str | None) -> argparse.Namespace:
    """The options of a benchmark of fully connected layers, from the first line of its docstring on."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    quiet_machine.add_options(parser, rounds=31)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of both (default: 1 2)")
    parser.add_argument("--batch", type=int, default=100, help="images a step, and vectors (default: 100)")
    return parser.parse_args()


def _measured(actions: Actions, threads: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    with threads_of_all(threads):
        seconds = quiet_machine.in_turn(actions, options, warm_up=5)
    return {
        name: {
            "ms": round(1e3 * statistics.median(samples), 4),
            "of_dense": round(quiet_machine.ratio(samples, seconds["torch, dense"]), 4),
        }
        for name, samples in seconds.items()
    }


def _perceptron(threads: int, options: argparse.Namespace) -> Actions:
    layout = layout_of(LeNet().parameters(SHAPE, 10))
    shared = Runtime.of(threads)
    layers = [
        part
        for inputs, outputs in pairwise([784, 300, 100, 10])
        for part in (nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU())
    ]
    model = nn.Sequential(nn.Flatten(), *layers[:-1])
    loop = Loop(model, optimizer_of(model), options.batch, SHAPE, memory_format=torch.contiguous_format)
    sparse = {
        f"sparsity {sparsity:g}": step_of(
            learner_on(topology_of(layout, sparsity, NumpyArrays()), shared, SHAPE, LeNet()), options.batch
        )
        for sparsity in SPARSITIES
    }
    return {"torch, dense": loop.step, **sparse}


def _in_torch(threads: int, options: argparse.Namespace) -> Actions:  # noqa: ARG001
    sparse = {f"sparsity {sparsity:g}": PerceptronStep(options.batch, sparsity).step for sparsity in SPARSITIES}
    return {"torch, dense": PerceptronStep(options.batch).step, **sparse}


class PerceptronStep:
    """A training step of a perceptron in torch.

    Args:
        batch: vectors.
        sparsity: of its layers, with sparse kernels and compact storage; None trains the dense network.
        autocast: whether it computes in bfloat16, as under ``torch.autocast``.
        given: other arguments of `sparsify`.
    """

    def __init__(self, batch: int, sparsity: float | None = None, *, autocast: bool = False, **given: Any) -> None:
        torch.manual_seed(0)
        self._precision = torch.autocast("cpu", torch.bfloat16, enabled=autocast)
        layers = [part for sides in pairwise(WIDTHS[:-1]) for part in (nn.Linear(*sides), nn.ReLU())]
        self._model = nn.Sequential(*layers, nn.Linear(*WIDTHS[-2:]))
        self._optimizer = optimizer_of(self._model)
        self._x, self._labels = torch.randn(batch, WIDTHS[0]), torch.randint(0, WIDTHS[-1], (batch,))
        if sparsity is not None:
            self._training = sparsify(
                self._model,
                self._optimizer,
                strategy="static",
                sparsity=sparsity,
                storage="compact",
                kernels="sparse",
                **given,
            )

    def step(self) -> None:
        """Train on the same vectors as before."""
        self._optimizer.zero_grad()
        with self._precision:
            loss = nn.functional.cross_entropy(self._model(self._x), self._labels)
        loss.backward()
        self._optimizer.step()


def _forward(threads: int, options: argparse.Namespace) -> Actions:
    layers, dense = _layers(threads, options), DenseLayer(options.batch)
    return {"torch, dense": dense.forward, **{name: layer.forward for name, layer in layers.items()}}


def _both(threads: int, options: argparse.Namespace) -> Actions:
    layers, dense = _layers(threads, options), DenseLayer(options.batch)
    return {"torch, dense": dense.both, **{name: layer.both for name, layer in layers.items()}}


MEASURED: Mapping[str, Callable[[int, argparse.Namespace], Actions]] = {
    "a training step of 784-300-100-10": _perceptron,
    f"a training step of {'-'.join(map(str, WIDTHS))} in torch": _in_torch,
    f"a layer of {SIDE}×{SIDE}, forward": _forward,
    f"a layer of {SIDE}×{SIDE}, forward and both gradients": _both,
}


def _layers(threads: int, options: argparse.Namespace) -> dict[str, SparseLayer]:
    shared = Runtime.of(threads)
    return {f"sparsity {sparsity:g}": SparseLayer(sparsity, shared, options.batch) for sparsity in SPARSITIES}


def page(report: dict[str, Any]) -> str:
    settings = report["settings"]
    sections = [
        f"## {what}, {threads} thread{'s' if int(threads) > 1 else ''}\n\n{_table(measured)}\n"
        for threads, by_what in report["threads"].items()
        for what, measured in by_what.items()
    ]
    return f"""# Fully connected layers on the CPU backend

Batch {settings["batch"]}, float32; medians over {settings["rounds"]} rounds, in each of which each was done once, in
one process. The ratio is the median of the rounds' ratios. The layer alone has its inputs in the backend's own layout.

![Ratio over sparsity](cpu_mlp.svg)

{chr(10).join(sections)}
{quiet_machine.caveat(report["settings"])}{sentence(report["machine"])}
"""


def chart(report: dict[str, Any]) -> str:
    """Ratio over sparsity as an SVG document: a line for each network and number of threads."""
    return lines_chart("cpu-mlp", "sparsity", "CPU backend, of dense float32 on torch", _lines(report["threads"]))


def _lines(results: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> dict[str, Points]:
    return {
        f"{what}; threads: {threads}": {s: measured[f"sparsity {s:g}"]["of_dense"] for s in SPARSITIES}
        for threads, by_what in results.items()
        for what, measured in by_what.items()
    }


def _table(measured: Mapping[str, Mapping[str, float]]) -> str:
    rows = [[name, f"{one['ms']:.2f}", f"{one['of_dense']:.3f}"] for name, one in measured.items()]
    return table(("", "ms", "of dense"), rows)


if __name__ == "__main__":
    main()
