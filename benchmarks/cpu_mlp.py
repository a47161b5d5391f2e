"""Fully connected layers on the CPU backend, in dense ones of torch, in turn in one process.

    python benchmarks/cpu_mlp.py [--threads 1 2] [--rounds 31]

A training step of LeNet-300-100, with batch norm on both sides, and a layer of 4096×4096 by itself: its outputs, and
its outputs and both gradients.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import calm
import numpy as np
import torch
from cpu_networks import learner_on, threads_of_all
from machine import machine, sentence
from networks import layout_of, step_of, topology_of
from plain import Loop, optimizer_of
from torch import nn
from writing import table, write

from sparsecore.layout import Layout
from sparsecore_cpu.activations import Activation, Given
from sparsecore_cpu.entries import Lists
from sparsecore_cpu.machine import Buffer, Form, Machine
from sparsecore_cpu.operations import CpuOperations, Forgetful, Tape
from sparsecore_cpu.statistics import of_batch
from sparsecore_lenet import LeNet
from sparsecore_numpy import NumpyArrays
from sparsecore_numpy.weights import Weight

SHAPE = (28, 28, 1)
SIDE = 4096
SPARSITIES = (0.9, 0.95, 0.99)

Actions = dict[str, Callable[[], object]]


def main() -> None:
    options = _options()
    results = {
        str(threads): {what: _measured(make(threads, options), threads, options) for what, make in MEASURED.items()}
        for threads in options.threads
    }
    report = {"settings": vars(options), "threads": results, "machine": machine()}
    write("cpu_mlp", report, _page(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    calm.add_options(parser, rounds=31)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of both (default: 1 2)")
    parser.add_argument("--batch", type=int, default=100, help="images a step, and vectors (default: 100)")
    return parser.parse_args()


def _measured(actions: Actions, threads: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    with threads_of_all(threads):
        seconds = calm.in_turn(actions, options, warm_up=5)
    return {
        name: {
            "ms": round(1e3 * statistics.median(samples), 4),
            "of_dense": round(calm.ratio(samples, seconds["torch, dense"]), 4),
        }
        for name, samples in seconds.items()
    }


def _perceptron(threads: int, options: argparse.Namespace) -> Actions:
    layout = layout_of(LeNet().parameters(SHAPE, 10))
    shared, sizes = Machine.of(threads), [784, 300, 100]
    hidden = [
        part
        for inputs, outputs in pairwise(sizes)
        for part in (nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU())
    ]
    model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(100, 10))
    loop = Loop(model, optimizer_of(model), options.batch, SHAPE, memory_format=torch.contiguous_format)
    sparse = {
        f"sparsity {sparsity:g}": step_of(
            learner_on(topology_of(layout, sparsity, NumpyArrays()), shared, SHAPE, LeNet()), options.batch
        )
        for sparsity in SPARSITIES
    }
    return {"torch, dense": loop.step, **sparse}


def _forward(threads: int, options: argparse.Namespace) -> Actions:
    layers, dense = _layers(threads, options), DenseLayer(options.batch)
    return {"torch, dense": dense.forward, **{name: layer.forward for name, layer in layers.items()}}


def _both(threads: int, options: argparse.Namespace) -> Actions:
    layers, dense = _layers(threads, options), DenseLayer(options.batch)
    return {"torch, dense": dense.both, **{name: layer.both for name, layer in layers.items()}}


MEASURED: Mapping[str, Callable[[int, argparse.Namespace], Actions]] = {
    "a training step of 784-300-100-10": _perceptron,
    f"a layer of {SIDE}×{SIDE}, forward": _forward,
    f"a layer of {SIDE}×{SIDE}, forward and both gradients": _both,
}


def _layers(threads: int, options: argparse.Namespace) -> "dict[str, SparseLayer]":
    shared = Machine.of(threads)
    return {f"sparsity {sparsity:g}": SparseLayer(sparsity, shared, options.batch) for sparsity in SPARSITIES}


class DenseLayer:
    """On torch."""

    def __init__(self, batch: int) -> None:
        self._weight = torch.randn(SIDE, SIDE, requires_grad=True)
        self._x = torch.randn(batch, SIDE, requires_grad=True)
        self._gradient = torch.randn(batch, SIDE)

    def forward(self) -> None:
        """Outputs, as in evaluation."""
        with torch.no_grad():
            nn.functional.linear(self._x, self._weight)

    def both(self) -> None:
        """Outputs and gradients."""
        self._weight.grad = self._x.grad = None
        nn.functional.linear(self._x, self._weight).backward(self._gradient)


class SparseLayer:
    """On the CPU backend, from activations in its own layout, as they lie between two layers."""

    def __init__(self, sparsity: float, shared: Machine, batch: int) -> None:
        topology = topology_of(Layout.of({"layer": (SIDE, SIDE)}), sparsity, NumpyArrays())
        positions = topology.local("layer").astype(np.intp)
        values = np.random.default_rng(0).standard_normal(len(positions)).astype(np.float32)
        self._weight = Weight((SIDE, SIDE), positions, values, np.zeros_like(values))
        self._machine, self._lists = shared, Lists()
        self._form = Form.of_features(batch, SIDE)
        self._x, self._gradient = self._noise(), self._noise()

    def forward(self) -> None:
        """Outputs, as in evaluation."""
        ops = CpuOperations(self._machine, self._lists, Forgetful(), of_batch)
        ops.linear(self._input(), self._weight).buffer()

    def both(self) -> None:
        """Outputs and gradients."""
        tape, x = Tape(), self._input()
        self._weight.gradient.fill(0)
        out = CpuOperations(self._machine, self._lists, tape, of_batch).linear(x, self._weight)
        out.buffer()
        tape.backward(out, self._gradient)
        x.gradient.total(self._machine, self._form)

    def _input(self) -> Activation:
        return Activation(self._machine, self._form, Given(self._x))

    def _noise(self) -> Buffer:
        buffer = self._machine.buffers.take(self._form)
        by_vector = buffer.array.reshape(SIDE, -1)
        by_vector[:, : self._form.images] = np.random.default_rng(1).standard_normal((SIDE, self._form.images))
        by_vector[:, self._form.images :] = 0
        return buffer


def _page(report: dict[str, Any]) -> str:
    settings = report["settings"]
    sections = [
        f"## {what}, {threads} thread{'s' if int(threads) > 1 else ''}\n\n{_table(measured)}\n"
        for threads, by_what in report["threads"].items()
        for what, measured in by_what.items()
    ]
    return f"""# Fully connected layers on the CPU backend

Batch {settings["batch"]}, float32; medians over {settings["rounds"]} rounds, in each of which each was done once, in
one process. The ratio is the median of the rounds' ratios. The layer alone has its inputs in the backend's own layout.

{chr(10).join(sections)}
{calm.caveat(report["settings"])}{sentence(report["machine"])}
"""


def _table(measured: Mapping[str, Mapping[str, float]]) -> str:
    rows = [[name, f"{one['ms']:.2f}", f"{one['of_dense']:.3f}"] for name, one in measured.items()]
    return table(("", "ms", "of dense"), rows)


if __name__ == "__main__":
    main()
