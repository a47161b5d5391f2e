"""All strategies on the digits, at three sparsities: the tables of docs/strategies.md.

    python benchmarks/strategies.py [--backend torch --backend numpy] [--jobs 2] [--out runs/strategies]

Every run is a ``sparsecore train`` of its own on one thread, with the presets' settings; its folder lies in ``--out``.
What is finished there is not done again, so that the script can be stopped and started, and the tables extended:
``--strategy dpr+gradient-growth`` runs these alone, ``--only-finished`` none.
"""

import argparse
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TypeAlias

from machine import machine, sentence
from trials import Outcome, Trial, known, outcomes
from writing import table

from sparsecore.plugins.discovery import installed
from sparsecore.study.comparison import mean_and_spread

Stack: TypeAlias = tuple[str, ...]
Outcomes: TypeAlias = Mapping[Trial, Outcome]

BACKENDS = ("torch", "numpy")
SPARSITIES = (0.9, 0.95, 0.98)
SEEDS = (0, 1, 2)
STACKS: tuple[Stack, ...] = (
    ("static",),
    ("static", "erk-start"),
    ("dpr",),
    ("dpr", "erk-start"),
    ("dpr", "gradient-growth"),
    ("dpr", "momentum-growth"),
    ("dpr", "magnitude-drop"),
    ("dpr", "magnitude-drop", "gradient-growth"),
    ("set",),
    ("rigl",),
    ("srigl",),
    ("snfs",),
    ("gmp",),
    ("granet",),
    ("deepr",),
    ("soft-deepr",),
    ("dpr", "@kernels"),
    ("rigl", "@kernels"),
    ("set", "@4x4"),
)
"""Every strategy, the pieces on top of one, and larger units."""

BEGIN, END = "<!-- tables: benchmarks/strategies.py writes from here -->", "<!-- to here -->"
HEAD = ("strategy", "accuracy, %", "weights", "updates", "ITOP rate", "seconds")


def stacks() -> list[Stack]:
    """Those above, and each installed strategy that is in none of them."""
    stacked = {name for stack in STACKS for name in stack}
    return [*STACKS, *((entry.name,) for entry in installed("strategy") if entry.name not in stacked)]


def trials(backend: str, stacks: Iterable[Stack]) -> list[Trial]:
    """One strategy after the other."""
    return [Trial(backend, stack, sparsity, seed) for stack, sparsity, seed in product(stacks, SPARSITIES, SEEDS)]


def row(stack: Stack, found: Sequence[Outcome]) -> list[str]:
    """A line of a table, over the seeds that there are."""
    accuracies = [100 * outcome.accuracy for outcome in found]
    timed = [outcome.seconds for outcome in found if outcome.seconds is not None]
    return [
        " + ".join(f"`{name}`" if not name.startswith("@") else f"units `{name[1:]}`" for name in stack),
        mean_and_spread(accuracies) + ("" if len(found) == len(SEEDS) else f" ({len(found)} seeds)"),
        f"{statistics.mean(outcome.weights for outcome in found):,.0f}",
        "–".join(f"{count}" for count in sorted({min(o.updates for o in found), max(o.updates for o in found)})),
        f"{statistics.mean(outcome.explored for outcome in found):.3f}",
        f"{statistics.median(timed):.0f}" if timed else "–",
    ]


def section(backend: str, sparsity: float, found: Outcomes) -> str:
    """The table of one backend at one sparsity; nothing where there are no runs."""
    of_stack: dict[Stack, list[Outcome]] = {}
    for trial, outcome in found.items():
        if (trial.backend, trial.sparsity) == (backend, sparsity):
            of_stack.setdefault(trial.stack, []).append(outcome)
    rows = [row(stack, runs) for stack, runs in of_stack.items()]
    return f"### `{backend}`, sparsity {sparsity}\n\n{table(HEAD, rows)}\n" if rows else ""


def tables(found: Outcomes) -> str:
    """All tables, and the machine."""
    parts = [section(backend, sparsity, found) for backend, sparsity in product(BACKENDS, SPARSITIES)]
    facts = {name: fact for name, fact in machine().items() if name != "threads of torch"}  # the runs have one each
    return "\n".join([*filter(None, parts), f"Measured on: {sentence(facts)}\n"])


def filled(page: str, tables: str) -> str:
    """The page with these tables in the place of those it has."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"the page has no place for tables, between {BEGIN} and {END}")
    return f"{before}{begin}\n\n{tables}\n{end}{after}"


def summary(trial: Trial, outcome: Outcome | None, folder: Path) -> str:
    """How a run has ended."""
    if outcome is None:
        return f"{trial.name}: failed; see {folder / trial.name}.log"
    return f"{trial.name}: accuracy {outcome.accuracy:.4f}, {outcome.weights:,} weights, {outcome.seconds or 0:.0f} s"


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="repeatable; both by default")
    parser.add_argument("--strategy", action="append", metavar="A+B", help="a stack, bottom first; repeatable")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--only-finished", action="store_true", help="run nothing, write the tables of what is there")
    parser.add_argument("--out", type=Path, default=Path("runs/strategies"))
    parser.add_argument("--page", type=Path, default=Path("docs/strategies.md"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and write the page."""
    given = parsed(arguments)
    chosen = [tuple(name.split("+")) for name in given.strategy or ()] or stacks()
    wanted = (
        [] if given.only_finished else [t for backend in given.backend or BACKENDS for t in trials(backend, chosen)]
    )
    failed = 0
    for number, (trial, outcome) in enumerate(outcomes(wanted, given.out, given.jobs), start=1):
        print(f"{number}/{len(wanted)} {summary(trial, outcome, given.out)}", flush=True)
        failed += outcome is None
    everything = [trial for backend in BACKENDS for trial in trials(backend, [*stacks(), *set(chosen) - set(stacks())])]
    found = {trial: outcome for trial in everything if (outcome := known(trial, given.out))}
    given.page.write_text(filled(given.page.read_text("utf-8"), tables(found)), "utf-8")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
