"""Runs of ``sparsecore train`` on the digits, each in a separate process; finished ones are not repeated."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path

import attrs
import numpy as np

from sparsecore.experiment.assembly import assemble
from sparsecore.experiment.experiment import Experiment
from sparsecore.run.files import write_whole
from sparsecore.run.folder import RunFolder
from sparsecore.run.replay import replay

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@attrs.frozen
class Trial:
    """A run that is to be made.

    Attributes:
        backend: what computes.
        stack: names of the strategies, bottom first, and behind them '@kernels' or '@4x4' where these are the units.
        sparsity: of the start, or of the end where the strategy begins denser.
        seed: of every draw.
        settings: any others, as ``--set`` takes them.
    """

    backend: str
    stack: tuple[str, ...]
    sparsity: float
    seed: int
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.backend}-{'+'.join(self.stack)}-{self.sparsity}-{self.seed}"

    def experiment(self) -> Experiment:
        """What ``sparsecore train`` makes of it now, with the presets that there are."""
        return Experiment.of(assemble(None, {}, self._strategies(), self._settings()))

    def command(self, folder: Path) -> list[str]:
        """The run, or the rest of it."""
        stack = [part for name in self._strategies() for part in ("--strategy", name)]
        settings = [part for setting in self._settings() for part in ("--set", setting)]
        resume = ["--resume"] if folder.exists() else []
        return [sys.executable, "-m", "sparsecore", "train", *stack, *settings, "--out", str(folder), *resume]

    def _strategies(self) -> list[str]:
        return [name for name in self.stack if not name.startswith("@")]

    def _settings(self) -> list[str]:
        units = [f"reallocation.units={name[1:]}" for name in self.stack if name.startswith("@")]
        return [
            f"backend.name={self.backend}",
            f"sparsity={self.sparsity}",
            f"seed={self.seed}",
            *units,
            *self.settings,
        ]


@attrs.frozen
class Outcome:
    """What a run came to.

    Attributes:
        accuracy: share of the test images classified correctly, 0..1.
        weights: N at the end.
        updates: reallocations.
        explored: the ITOP rate R_s = |∪_t support_t| / D (Liu et al. 2021).
        seconds: of processor time of the whole process; None for a run that was interrupted.
    """

    accuracy: float
    weights: int
    updates: int
    explored: float
    seconds: float | None


def outcomes(trials: Sequence[Trial], folder: Path, jobs: int) -> Iterator[tuple[Trial, Outcome | None]]:
    """Each trial's outcome, ``jobs`` of them side by side; None where a run fails, whose output is in its log."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        yield from zip(trials, pool.map(partial(outcome, folder=folder), trials), strict=True)


def outcome(trial: Trial, folder: Path) -> Outcome | None:
    """The trial's outcome, from its run or from what was written down of it."""
    return known(trial, folder) or _carried_out(trial, folder)


def known(trial: Trial, folder: Path) -> Outcome | None:
    """The outcome that was written down; None if there is none, or of a run with settings of another day."""
    note, run = _note(trial, folder), RunFolder(folder / trial.name)
    if not note.exists() or Experiment.of(run.read_tables()).tables() != trial.experiment().tables():
        return None
    return Outcome(**json.loads(note.read_text()))


def explored(folder: RunFolder) -> float:
    """The share of the positions that were active at any time of a run."""
    topologies = replay(folder)
    start = next(topologies)
    ever = np.zeros(start.layout.size, bool)
    for topology in chain([start], topologies):
        ever[topology.arrays.to_numpy(topology.positions)] = True
    return float(ever.mean())


def _carried_out(trial: Trial, folder: Path) -> Outcome | None:
    run = RunFolder(folder / trial.name)
    is_whole = not run.path.exists()
    seconds = _seconds(trial.command(run.path), folder / f"{trial.name}.log")
    if seconds is None:
        return None
    result = json.loads(run.result.read_text())
    measured = Outcome(
        accuracy=result["test_accuracy"],
        weights=result["sparse_parameters"],
        updates=result["reallocations"],
        explored=explored(run),
        seconds=seconds if is_whole else None,
    )
    write_whole(_note(trial, folder), json.dumps(attrs.asdict(measured)).encode())
    return measured


def _seconds(command: Sequence[str], log: Path) -> float | None:
    """Processor seconds of the process, on one thread; None if it failed."""
    with log.open("w") as stream:
        process = subprocess.Popen(command, env={**os.environ, **ONE_THREAD}, stdout=stream, stderr=stream)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime if process.returncode == 0 else None


def _note(trial: Trial, folder: Path) -> Path:
    return folder / f"{trial.name}.json"
