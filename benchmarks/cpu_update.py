"""What an update costs on the CPU backend: the new lists, the reallocation as a whole, and dense gradients.

    python benchmarks/cpu_update.py [--threads 1 2] [--rounds 15]

WRN-28-2; shares are of the steps from one update to the next, as many as the paper's schedule has.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import quiet_machine
from cpu_networks import learner_on, threads_of_all, wide_resnet_layout
from machine import machine, sentence
from networks import EXAMPLES, batch_of
from operation_times import replaced
from writing import table, write

from sparsecore import Engine
from sparsecore.data.images import Batch
from sparsecore.engine.schedules import Amount
from sparsecore.engine.state import State
from sparsecore.host.learner import HostLearner
from sparsecore_cpu.runtime import Runtime
from sparsecore_cpu.weight_lists import LayerLists
from sparsecore_numpy import NumpyArrays
from sparsecore_strategies.dpr import DynamicReallocation

SHAPE = (32, 32, 3)
INTERVALS = (100, 200, 400, 800)
"""Steps between updates in the paper's schedule: from epoch 0, 25, 80 and 140 on."""

GOAL = 0.02
"""Of the steps between two updates: what the new lists may take."""

SHARED = {"making the lists": "lists_ms", "update and reallocation": "reallocation_ms", "dense gradients": "dense_ms"}


class Network:
    """WRN-28-2 in training by DPR; each update follows from the one before."""

    def __init__(self, options: argparse.Namespace, threads: int) -> None:
        # about 14 % of the weights move from the first update on, as in the paper
        strategy = DynamicReallocation(target=Amount("14%"), initial_threshold=2e-2)
        self._engine = Engine(wide_resnet_layout(SHAPE), [strategy], arrays=NumpyArrays())
        self._state: State = self._engine.start(options.sparsity)
        self._learner: HostLearner = learner_on(self._state.topology, Runtime.of(threads), SHAPE)
        self._rng, self._batch = np.random.default_rng(0), options.batch
        self.in_lists = 0.0

    def step(self) -> None:
        """A step as between updates."""
        with self._timing_lists():
            self._learner.train(self._some(), 0.1)

    def step_with_dense_gradients(self) -> None:
        """A step after which a strategy may grow by gradient."""
        gradient = self._learner.backward(self._some(), dense=True)
        self._learner.optimizer_step(0.1)
        del gradient

    def reallocate(self) -> None:
        """What DPR and the learner do; the next step makes the lists."""
        self._state, reallocation = self._engine.update(self._state, self._learner.values)
        self._learner.reallocate(reallocation)

    def _some(self) -> Batch:
        return batch_of(self._rng.choice(EXAMPLES, self._batch, replace=False))

    @contextmanager
    def _timing_lists(self) -> Iterator[None]:
        """Within it, the seconds of making lists and filling them in are summed up."""
        self.in_lists = 0.0

        def timed(function: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*arguments: Any) -> Any:
                start = time.perf_counter()
                try:
                    return function(*arguments)
                finally:
                    self.in_lists += time.perf_counter() - start

            return wrapper

        with (
            replaced(LayerLists, "forward", timed(LayerLists.forward)),
            replaced(LayerLists, "backward", timed(LayerLists.backward)),
        ):
            yield


def main() -> None:
    options = _options()
    report = {
        "settings": vars(options),
        "goal": GOAL,
        "threads": {str(threads): _measured(options, threads) for threads in options.threads},
        "machine": machine(),
    }
    write("cpu_update", report, page(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    quiet_machine.add_options(parser, rounds=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--batch", type=int, default=100, help="images a step (default: 100)")
    parser.add_argument("--sparsity", type=float, default=0.9, help="of the 3x3 convolutions in blocks (default: 0.9)")
    return parser.parse_args()


def _measured(options: argparse.Namespace, threads: int) -> dict[str, Any]:
    network = Network(options, threads)
    in_lists: dict[str, list[float]] = {"usual": [], "first": []}
    for _ in range(2):
        network.step()
        network.step_with_dense_gradients()

    def step_noted(what: str) -> None:
        network.step()
        in_lists[what].append(network.in_lists)

    take = quiet_machine.clock(options)
    actions: dict[str, Callable[[], object]] = {
        "step": partial(step_noted, "usual"),
        "with dense gradients": network.step_with_dense_gradients,
        "reallocation": network.reallocate,
        "step after it": partial(step_noted, "first"),
    }
    with threads_of_all(threads):
        seconds = quiet_machine.rounds({name: partial(take, action) for name, action in actions.items()}, options)
    step = statistics.median(seconds["step"])
    usual, first = (statistics.median(samples) for samples in in_lists.values())
    report = {
        "step_ms": _milliseconds(step),
        "filling_ms": _milliseconds(usual),
        "lists_ms": _milliseconds(first - usual),
        "reallocation_ms": _milliseconds(statistics.median(seconds["reallocation"])),
        "dense_ms": _milliseconds(statistics.median(seconds["with dense gradients"]) - step),
    }
    shares = {
        what: [report[key] / report["step_ms"] / interval for interval in INTERVALS] for what, key in SHARED.items()
    }
    return report | {"shares": {what: [round(share, 5) for share in some] for what, some in shares.items()}}


def _milliseconds(seconds: float) -> float:
    return round(1e3 * seconds, 2)


def page(report: dict[str, Any]) -> str:
    settings = report["settings"]
    sections = [_section(threads, measured) for threads, measured in report["threads"].items()]
    return f"""# What an update costs on the CPU backend

WRN-28-2, batch {settings["batch"]}, images of {"×".join(map(str, SHAPE))}, sparsity {settings["sparsity"]}; medians
over {settings["rounds"]} rounds. Making the lists is what the first step after an update takes longer for them than
another step, which only fills in the values. Update and reallocation is DPR's, and the learner's new vectors. Dense
gradients is what a step takes longer that gives them to a strategy. The goal is below {100 * GOAL:g} % for the lists.

{chr(10).join(sections)}
{quiet_machine.caveat(report["settings"])}{sentence(report["machine"])}
"""


def _section(threads: str, measured: dict[str, Any]) -> str:
    head = ("", "ms", *(f"% of {interval} steps" for interval in INTERVALS))
    rows = [
        [what, f"{measured[key]:.1f}", *(f"{100 * share:.2f}" for share in measured["shares"][what])]
        for what, key in SHARED.items()
    ]
    return f"""## {threads} thread{"s" if int(threads) > 1 else ""}

A step takes {measured["step_ms"]:.1f} ms, {measured["filling_ms"]:.1f} ms of it to fill the lists.

{table(head, rows)}
"""


if __name__ == "__main__":
    main()
