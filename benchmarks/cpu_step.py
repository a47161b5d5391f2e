"""A training step of WRN-28-2 on the CPU backend, in dense steps of torch, in turn in one process.

    python benchmarks/cpu_step.py [--threads 1 2] [--rounds 15] [--densities FILE ...]

A step of the CPU backend calls no BLAS, so that the only pools of threads are its own and torch's, and they take turns.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import quiet_machine
from cpu_networks import learner_on, threads_of_all, wide_resnet_layout
from cpu_step_page import HALVES, chart, is_uniform, page
from dense_baselines import LOWERED, PEERS, SHAPE, SINGLE, peer_steps
from densities import Densities
from machine import machine
from networks import step_of, topology_of
from writing import write

from sparsecore.engine.topology import Topology
from sparsecore_cpu import runtime
from sparsecore_cpu.runtime import Runtime
from sparsecore_numpy import NumpyArrays

SPARSITIES = (0.3, 0.4, 0.5, 0.6, 0.8, 0.9, 0.95, 0.98)
TOPOLOGIES = sorted((Path(__file__).parent / "topologies").glob("*.json"))

GOALS: Mapping[str, float] = {
    "uniform 0.8": 0.45,
    "uniform 0.9": 0.28,
    "uniform 0.95": 0.21,
    "uniform 0.98": 0.17,
    "dpr 0.9": 0.40,
    "dpr 0.95": 0.30,
}
"""Of a dense step in float32, at most."""

BREAK_EVEN_GOAL = 0.45
"""The density up to which a sparse step is the faster one, at least."""

LOWERED_GOAL = 0.50
"""Of a dense step in bfloat16, at most, at uniform sparsity 0.9."""

LOWERED_TOO = ("uniform 0.9", f"uniform 0.9{HALVES}")
"""What that goal is for."""


def main() -> None:
    options = _options()
    topologies = _topologies(options)
    report = {
        "settings": vars(options) | {"densities": [path.name for path in options.densities]},
        "image": list(SHAPE),
        "sparsities": {name: round(topology.sparsity, 4) for name, topology in topologies.items()},
        "goals": {
            "of_float32": GOALS,
            "break_even": BREAK_EVEN_GOAL,
            "of_bfloat16": dict.fromkeys(LOWERED_TOO, LOWERED_GOAL),
        },
        "threads": {str(threads): _measured(threads, topologies, options) for threads in options.threads},
        "machine": machine(),
    }
    write("cpu_step", report, page(report), chart=chart(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    quiet_machine.add_options(parser, rounds=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of all of them (default: 1 2)")
    parser.add_argument("--batch", type=int, default=100, help="images a step (default: 100)")
    parser.add_argument("--sparsities", type=float, nargs="*", default=SPARSITIES, help="the same in all tensors")
    parser.add_argument(
        "--densities", type=Path, nargs="*", default=TOPOLOGIES, help="files of densities.py (default: of topologies/)"
    )
    return parser.parse_args()


def _topologies(options: argparse.Namespace) -> dict[str, Topology]:
    layout, arrays = wide_resnet_layout(SHAPE), NumpyArrays()
    reached = [Densities.read(path) for path in options.densities]
    topologies = {
        **{f"uniform {sparsity:g}": topology_of(layout, sparsity, arrays) for sparsity in options.sparsities},
        **{f"{one.name} {one.sparsity:g}": one.topology(layout, arrays) for one in reached},
    }
    return topologies | {f"{name}{HALVES}": topology for name, topology in topologies.items() if name in GOALS}


def _measured(threads: int, topologies: Mapping[str, Topology], options: argparse.Namespace) -> dict[str, Any]:
    with threads_of_all(threads):
        seconds = quiet_machine.in_turn(_steps(threads, topologies, options), options)
    medians = {name: statistics.median(samples) for name, samples in seconds.items()}
    faster = min(SINGLE, key=lambda name: medians[name])
    ratios = {
        peer: {name: round(quiet_machine.ratio(seconds[name], seconds[peer]), 4) for name in topologies}
        for peer in PEERS
    }
    return {
        "step_ms": {name: round(1e3 * median, 2) for name, median in medians.items()},
        "float32": faster,
        "ratios": ratios,
        "break_even_density": _break_even(ratios[faster], topologies),
        "bfloat16_of_float32": round(quiet_machine.ratio(seconds[LOWERED], seconds[faster]), 4),
    }


def _steps(
    threads: int, topologies: Mapping[str, Topology], options: argparse.Namespace
) -> dict[str, Callable[[], None]]:
    single, halves = Runtime.of(threads), Runtime.of(threads, runtime.STORED)
    sparse = {
        name: learner_on(topology, halves if name.endswith(HALVES) else single, SHAPE)
        for name, topology in topologies.items()
    }
    return peer_steps(options.batch) | {name: step_of(network, options.batch) for name, network in sparse.items()}


def _break_even(ratios: Mapping[str, float], topologies: Mapping[str, Topology]) -> float | None:
    """The least density at which a uniformly sparse step takes as long as a dense one; None where none does."""
    measured = sorted((1 - topologies[name].sparsity, ratio) for name, ratio in ratios.items() if is_uniform(name))
    for (density, ratio), (denser, longer) in pairwise(measured):
        if ratio < 1 <= longer:
            return round(density + (1 - ratio) / (longer - ratio) * (denser - density), 3)
    return None


if __name__ == "__main__":
    main()
