"""An epoch of the digits demo on each backend, in processes of their own that take turns.

    python benchmarks/cpu_digits.py [--rounds 10] [--threads 2]

An epoch is what ``sparsecore train --set training.epochs=1`` does with the defaults, but for starting Python, reading
the data and writing files: the network is made, trained with DPR for 15 steps and tested.
"""

import argparse
import os
import statistics
from functools import partial
from typing import Any

import quiet_machine
from machine import sentence
from worker_processes import Made, in_turn
from writing import table, write

BACKENDS = ("numpy", "torch", "cpu")
MEASURED = "cpu"


def main() -> None:
    options = _options()
    os.environ |= {name: str(options.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    seconds, machine = in_turn({name: partial(_epoch, name) for name in BACKENDS}, options)
    report = {
        "settings": vars(options),
        "epoch_ms": {name: round(1e3 * statistics.median(samples), 1) for name, samples in seconds.items()},
        "cpu_takes": {
            name: round(quiet_machine.ratio(seconds[MEASURED], samples), 3) for name, samples in seconds.items()
        },
        "machine": machine,
    }
    write("cpu_digits", report, page(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    quiet_machine.add_options(parser, rounds=10)
    parser.add_argument("--threads", type=int, default=2, help="of each process (default: 2)")
    return parser.parse_args()


def _epoch(backend: str, options: argparse.Namespace) -> Made:
    from sparsecore.experiment.assembly import assemble
    from sparsecore.experiment.experiment import Experiment
    from sparsecore.learning.ranks import SingleProcess
    from sparsecore.run.recording import RunWriter
    from sparsecore.run.setup import set_up
    from sparsecore.run.training import Callback, Run

    chosen = [f"backend.name={backend}", "training.epochs=1", "sparsity=0.9"]
    threads = [f"backend.threads={options.threads}"] if backend == MEASURED else []  # others take them from outside
    setup = set_up(Experiment.of(assemble(None, {}, ["dpr"], [*chosen, *threads])))
    return lambda: Run(setup, SingleProcess(), {}, None).train(RunWriter(), Callback())


def page(report: dict[str, Any]) -> str:
    rows = [
        [f"`{name}`", f"{milliseconds:.0f}", f"{report['cpu_takes'][name]:.3f}"]
        for name, milliseconds in report["epoch_ms"].items()
    ]
    return f"""# An epoch of the digits demo

WRN-28-2 on 8×8 digits, sparsity 0.9, DPR, 15 steps of batch 100 with their updates, and the test;
{report["settings"]["threads"]} thread(s) a process, medians over {report["settings"]["rounds"]} rounds, in each of
which every process trained an epoch while the others waited. The ratio is the median of the rounds' ratios.

{table(("backend", "ms an epoch", "`cpu` takes of it"), rows)}

{quiet_machine.caveat(report["settings"])}{sentence(report["machine"])}
"""


if __name__ == "__main__":
    main()
