"""How reliably the test kit catches each defect of its own tests, and how long a check of a strategy takes.

    python benchmarks/mutants.py [--seeds 150] [--seconds 540] [--out benchmarks/results] [--only TEXT ...]

Each defect of ``tests/mutants_of_strategies.py``, ``tests/mutants_of_backends.py`` and, where JAX is installed,
``tests/mutants_of_jax.py`` is checked with the promise that it breaks and the default number of examples, once for each
seed; a third of the seeds is enough if every search has found it within a tenth of its examples. The result of each
defect is written to ``mutants.json``; run the script again until it prints that all is measured.
"""

import argparse
import os
import resource
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from machine import machine, sentence
from stages import Record, Result, Stage, measure_all, output_of
from writing import table

from sparsecore.plugins.discovery import installed
from sparsecore.testing.backend_promises import BACKEND_PROMISES
from sparsecore.testing.promises import Promise
from sparsecore.testing.search import DEFAULT_EXAMPLES, Status, check_promise
from sparsecore.testing.strategy_promises import STRATEGY_PROMISES
from sparsecore.testing.subjects import BackendSubject, StrategySubject

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

FIRST_SEED = 1000
"""The first seed; the tests use seed 0."""

AIM = 0.001
"""The largest acceptable probability of a miss."""

LIMIT = 60
"""Seconds of processor time that a check of one strategy may take."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=150, help="how often each defect is searched for (default: 150)")
    parser.add_argument("--seconds", type=float, default=540, help="how long this run may take (default: 540)")
    parser.add_argument("--only", nargs="+", default=[""], help="measure only what has one of these texts in its name")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="the folder of results")
    options = parser.parse_args()
    stages = [
        stage for stage in (*defects(options.seeds), *checks()) if any(text in stage.name for text in options.only)
    ]
    record = Record.of(options.out / "mutants.json", {"seeds": options.seeds, "examples": DEFAULT_EXAMPLES})
    missing = measure_all(stages, record, options.seconds, machine())
    (options.out / "mutants.md").write_text(page(record.report(machine())), "utf-8")
    print(f"{len(missing)} of {len(stages)} are still to be measured" if missing else "all is measured")


def defects(seeds: int) -> list[Stage]:
    """Return a measurement for each defect of a strategy or a backend."""
    from mutants_of_backends import MUTANTS as BACKENDS
    from mutants_of_strategies import MUTANTS as STRATEGIES

    of_jax: Mapping[str, Any] = import_module("mutants_of_jax").MUTANTS if find_spec("jax") else {}
    kinds = (
        ("strategy", STRATEGIES, STRATEGY_PROMISES, StrategySubject.of),
        ("backend", BACKENDS, BACKEND_PROMISES, BackendSubject.of),
        ("JAX backend", of_jax, BACKEND_PROMISES, BackendSubject.of),
    )
    return [
        Stage(f"{kind}: {what}", partial(of_defect, promise, mutant, subject_of, seeds), needs=10)
        for kind, mutants, promises, subject_of in kinds
        for what, (mutant, breaks) in mutants.items()
        for promise in promises
        if promise.name == breaks
    ]


def of_defect(promise: Promise, mutant: type, subject_of: Any, seeds: int, _: float) -> Result:
    """Return the number of the first example that caught the defect, for each seed; None if it was missed."""
    subject = subject_of(mutant())
    first: list[int | None] = []
    most = round(DEFAULT_EXAMPLES * promise.fraction)
    for number in range(seeds):
        if number == seeds // 3 and all(one is not None and one <= most / 10 for one in first):
            break
        result = check_promise(promise, subject, first_seed=FIRST_SEED + number, shrink=False)
        first.append(result.examples + 1 if result.status is Status.BROKEN else None)
    return {"promise": promise.name, "examples": most, "first": first}


def checks() -> list[Stage]:
    """Return a measurement of the whole check of each installed strategy."""
    return [Stage(f"check: {entry.name}", partial(of_check, entry.name), needs=100) for entry in installed("strategy")]


def of_check(name: str, seconds: float) -> Result:
    """Measure the processor time and the duration of ``sparsecore check NAME``, with all its processes."""
    before, since = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    output_of([sys.executable, "-m", "sparsecore", "check", name], seconds)
    clock, after = time.monotonic() - since, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"processor": spent, "clock": clock, "load": os.getloadavg()[0]}


def miss(result: Result) -> float:
    """Estimate the probability that all examples of the promise miss the defect.

    The estimate uses the quarter of the seeds that take longest to find it: after the example by which the other seeds
    have found it, each further example finds it with the probability seen in that quarter. So it includes defects that
    are rare in some searches only.
    """
    most: int = result["examples"]
    first = sorted(most + 1 if one is None else one for one in result["first"])
    usual = first[len(first) * 3 // 4]
    late = [one for one in first if one > usual]
    tried = sum(min(one, most) - usual for one in late)
    rate = sum(one <= most for one in late) / tried if tried else 1.0
    return len(late) / len(first) * (1 - rate) ** (most - usual)


def page(report: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    found = {name: result for name, result in report["stages"].items() if not name.startswith("check: ")}
    timed = {name: result for name, result in report["stages"].items() if name.startswith("check: ")}
    searches = [one for result in found.values() for one in result["first"]]
    seeds = report["settings"]["seeds"]
    above = [name for name, result in found.items() if miss(result) > AIM]
    lines = [
        "# How reliably the test kit catches defects",
        f"Machine: {sentence(report['machine'])}",
        f"Each of {len(found)} defects was searched for with {seeds // 3} to {seeds} seeds and the default number of "
        f"examples, by the promise that it breaks: {searches.count(None)} of {len(searches):,} searches missed it. "
        f"The estimated probability of a miss is above {AIM} for {len(above)} of the defects"
        + (f": {'; '.join(above)}." if above else "."),
        "'Median' and 'slowest' are numbers of examples until the defect was found. The estimate assumes that after "
        "the example by which three quarters of the seeds have found it, each further one finds it with the "
        "probability seen there. '0' is less than 10⁻⁹: nearly every example finds the defect.",
        table(
            ("The defect", "The promise", "examples", "median", "slowest", "missed", "probability of a miss"),
            [_row(name, result) for name, result in found.items()],
        ),
        "## How long a check takes",
        f"`sparsecore check NAME`, all its processes together. Other programs were running, so the duration says "
        f"little; the aim is {LIMIT} s of processor time.",
        table(
            ("The strategy", "processor time", "duration", "load of the machine"),
            [
                (
                    f"`{name.removeprefix('check: ')}`",
                    f"{result['processor']:.0f} s",
                    f"{result['clock']:.0f} s",
                    f"{result['load']:.1f}",
                )
                for name, result in timed.items()
            ],
        ),
    ]
    return "\n\n".join(lines) + "\n"


def _row(name: str, result: Result) -> Sequence[str]:
    most, probability = result["examples"], miss(result)
    first = [most + 1 if one is None else one for one in result["first"]]
    missed = sum(one > most for one in first)
    slowest = "-" if missed else str(max(first))
    return (
        name,
        f"`{result['promise']}`",
        str(most),
        f"{statistics.median(first):.0f}",
        slowest,
        f"{missed} of {len(first)}",
        "0" if probability < 1e-9 else f"{probability:.0e}",
    )


if __name__ == "__main__":
    main()
