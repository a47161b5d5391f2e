"""Fully connected layers in bfloat16, by the units that are active as one, in dense ones of torch, in one process.

    python benchmarks/cpu_linear_bfloat16.py [--threads 1 2] [--rounds 31]

A layer of 4096×4096 alone, and a training step of a perceptron in torch, under autocast: with single weights, pairs
(`1x2`), and blocks (`16x32`), which are matrix tiles where the processor has AMX. What is dense is measured in float32,
and in bfloat16 under autocast.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import quiet_machine
from cpu_mlp import SPARSITIES, WIDTHS, Actions, PerceptronStep, options_of
from cpu_networks import threads_of_all
from linear_layers import SIDE, DenseLayer, SparseLayer
from machine import machine, sentence
from writing import table, write

from sparsecore_cpu.runtime import STORED, Runtime

UNITS = ("weights", "1x2", "16x32")
SPARSE = [(f"{sparsity:g}, {units}", sparsity, units) for sparsity in SPARSITIES for units in UNITS]
"""Names of rows, with sparsity and units."""

FLOAT32, BFLOAT16 = "dense, float32", "dense, bfloat16"
Make = Callable[[int, int], Actions]
"""Of the numbers of threads and of vectors."""


def main() -> None:
    options = options_of(__doc__)
    results = {
        str(threads): {what: _measured(make, threads, options) for what, make in MEASURED.items()}
        for threads in options.threads
    }
    report = {
        "settings": vars(options),
        "kernels": Runtime.of(1, STORED).kernels.name,
        "threads": results,
        "machine": machine(),
    }
    write("cpu_linear_bfloat16", report, page(report))


def _measured(make: Make, threads: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    with threads_of_all(threads):
        seconds = quiet_machine.in_turn(make(threads, options.batch), options, warm_up=5)
    return {
        name: {
            "ms": round(1e3 * statistics.median(samples), 4),
            "of_float32": round(quiet_machine.ratio(samples, seconds[FLOAT32]), 4),
            "of_bfloat16": round(quiet_machine.ratio(samples, seconds[BFLOAT16]), 4),
        }
        for name, samples in seconds.items()
    }


def _forward(threads: int, batch: int) -> Actions:
    return {name: layer.forward for name, layer in _layers(threads, batch).items()}


def _both(threads: int, batch: int) -> Actions:
    return {name: layer.both for name, layer in _layers(threads, batch).items()}


def _layers(threads: int, batch: int) -> dict[str, DenseLayer | SparseLayer]:
    shared = Runtime.of(threads, STORED)
    dense = {FLOAT32: DenseLayer(batch), BFLOAT16: DenseLayer(batch, autocast=True)}
    return dense | {name: SparseLayer(sparsity, shared, batch, units) for name, sparsity, units in SPARSE}


def _perceptron(threads: int, batch: int) -> Actions:  # noqa: ARG001
    dense = {FLOAT32: PerceptronStep(batch), BFLOAT16: PerceptronStep(batch, autocast=True)}
    sparse = {
        # Ten classes are no whole block.
        name: PerceptronStep(batch, sparsity, autocast=True, units=units, exclude=["4.weight"])
        for name, sparsity, units in SPARSE
    }
    return {name: perceptron.step for name, perceptron in (dense | sparse).items()}


MEASURED: Mapping[str, Make] = {
    f"a layer of {SIDE}×{SIDE}, forward": _forward,
    f"a layer of {SIDE}×{SIDE}, forward and both gradients": _both,
    f"a training step of {'-'.join(map(str, WIDTHS))} in torch, classifier dense": _perceptron,
}


def page(report: dict[str, Any]) -> str:
    settings = report["settings"]
    sections = [
        f"## {what}, {threads} thread{'s' if int(threads) > 1 else ''}\n\n{_table(measured)}\n"
        for threads, by_what in report["threads"].items()
        for what, measured in by_what.items()
    ]
    return f"""# Fully connected layers in bfloat16

Batch {settings["batch"]}, kernels `{report["kernels"]}`; medians over {settings["rounds"]} rounds, in each of which
each was done once, in one process. Ratios are medians of the rounds' ratios. Rows name the sparsity, and what is active
as one: single weights, pairs, or blocks of 16 outputs by 32 inputs. The layer alone has its inputs in the CPU backend's
own layout. Dense bfloat16 is PyTorch under autocast, which also casts the weights.

{chr(10).join(sections)}
{quiet_machine.caveat(settings)}{sentence(report["machine"])}
"""


def _table(measured: dict[str, dict[str, float]]) -> str:
    rows = [
        [name, f"{one['ms']:.2f}", f"{one['of_float32']:.3f}", f"{one['of_bfloat16']:.3f}"]
        for name, one in measured.items()
    ]
    return table(("", "ms", "of dense float32", "of dense bfloat16"), rows)


if __name__ == "__main__":
    main()
