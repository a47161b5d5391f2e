"""What sparse training of a Llama of 97 million parameters costs: steps, updates, memory, and lists of the kernels.

    python benchmarks/large_model.py [--parts steps updates memory lists] [--threads 2 1] [--strategies SET]

The model has 12 blocks of width 768 and a vocabulary of 8,000; AdamW trains it on one sequence of 512 tokens a step.
Its 85 million weights in attention and feed-forward layers are sparse. Each part is measured in processes of its own;
times that are compared take turns in one process. Results of parts that are not measured are kept in the files.
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import large_model_parts as parts
import process_memory
import quiet_machine
from machine import machine, sentence
from worker_processes import alone
from writing import RESULTS, table, write

NAME = "large_model"

DENSE = ("dense", "dense, compiled by inductor")
STEPS = (
    (*DENSE, "masks", "compact storage", "compact storage, sparse kernels, 0.95", "compact storage, sparse kernels"),
    (*DENSE, "masks, sparse kernels"),
)
"""The ways to train whose steps take turns in a process.

With masks the kernels give their memory back in each backward pass, which other ways in the process would take again.
"""

UPDATED = ("masks", "compact storage, sparse kernels")
"""The ways to train in which updates are measured."""

GOALS: Mapping[str, Mapping[str, float]] = {
    "steps": {
        "masks": 1.02,
        "compact storage, sparse kernels": 0.38,
        "compact storage, sparse kernels, 0.95": 0.30,
    },
    "updates": {"DPR": 0.15, "SET": 0.15, "RigL": 0.4},
    "memory": {
        "masks": 1.10,
        "compact storage, sparse kernels": 0.70,
        "compact storage, sparse kernels, 0.95": 0.70,
    },
    "lists": {"bytes_a_weight": 12, "seconds": 0.15},
}
"""At most: of a dense step, of a dense step, of the peak of dense training, and in their own units."""

Task = tuple[dict[str, str], Callable[..., dict[str, Any]], tuple[str, ...]]
"""What is measured, the function that does so, and its arguments behind the options."""


def _steps(_: argparse.Namespace) -> Sequence[Task]:
    return [({"way": ways[-1]}, parts.steps, ways) for ways in STEPS]


def _updates(options: argparse.Namespace) -> Sequence[Task]:
    pairs = product(UPDATED, options.strategies)
    return [({"way": way, "strategy": name}, parts.updates, (way, name)) for way, name in pairs]


def _memory(options: argparse.Namespace) -> Sequence[Task]:
    still: list[Task] = [({"way": way}, parts.peaks, (way,)) for way in parts.WAYS]
    pairs = product(UPDATED, options.strategies)
    return still + [({"way": way, "strategy": name}, parts.peaks, (way, name)) for way, name in pairs]


def _lists(_: argparse.Namespace) -> Sequence[Task]:
    return [({}, parts.lists, ())]


PARTS: Mapping[str, Callable[[argparse.Namespace], Sequence[Task]]] = {
    "steps": _steps,
    "updates": _updates,
    "memory": _memory,
    "lists": _lists,
}


def main() -> None:
    options = _options()
    is_whole = (options.blocks, options.tokens) == (12, 512)
    report: dict[str, Any] = {"measured": {}}
    for threads, part in product(options.threads, options.parts):
        options.threads = threads  # of the process that measures
        process_memory.prepare(is_counted=part == "memory")
        for subject, measure, arguments in PARTS[part](options):
            load = round(os.getloadavg()[0], 1)
            key = ", ".join((part, f"{threads} threads", *subject.values()))
            figures = {"part": part, "threads": threads, **subject, **alone(measure, options, *arguments)}
            print(figures, flush=True)
            if is_whole:
                report = _known()  # again, because another process may measure other parts meanwhile
            report["measured"][key] = figures | {"rounds": options.rounds, "load": load, **_origin()}
            report["machine"] = machine()
            if is_whole:
                write(NAME, report, page(report), is_shown=False)
    print(page(report), end="")


def _known() -> dict[str, Any]:
    path = RESULTS / f"{NAME}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {"measured": {}}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    quiet_machine.add_options(parser, rounds=5)
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what is measured (default: all)"
    )
    known = list(parts.STRATEGIES)
    parser.add_argument("--strategies", nargs="+", choices=known, default=known, help="of the updates (default: all)")
    parser.add_argument("--threads", type=int, nargs="+", default=[2], help="of torch (default: 2)")
    parser.add_argument("--blocks", type=int, default=12, help="of the Llama; nothing is written for others than 12")
    parser.add_argument("--tokens", type=int, default=512, help="of a step; nothing is written for others than 512")
    return parser.parse_args()


def _origin() -> dict[str, str]:
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {"commit": commit or "unknown", "date": time.strftime("%Y-%m-%d")}


def page(report: dict[str, Any]) -> str:
    return f"""# A Llama of 97 million parameters

12 blocks of width 768, 85 million sparse weights of which 8.5 million are active at sparsity 0.9, AdamW, float32, 512
tokens a step, on the CPU. All goals are at most.

A step, by the wall clock, in turn in one process, relative to the faster dense one; medians over rounds:

{_steps_table(report)}

An update, with what it adds to the step behind it, in which the kernels make their lists. DPR moves a tenth of the
weights, SET and RigL three tenths of each tensor; RigL's takes the place of the optimizer's step:

{_updates_table(report)}

The peak of memory, as the system counts it for a process of its own, activations included: in steps behind the first
ones, of which one has an update, and from before the model is made on:

{_memory_table(report)}

The lists of the kernels for all weights, with their positions in each tensor, made in the first of several products;
and selecting a tenth of random numbers, the smallest:

{_lists_table(report)}

{sentence(report["machine"])}
"""


def _entries(report: dict[str, Any], part: str) -> list[dict[str, Any]]:
    found = [entry for entry in report["measured"].values() if entry["part"] == part]
    ways, names = ["", *parts.WAYS], ["", *parts.STRATEGIES]
    order = {one: number for number, one in enumerate((*ways, *names))}
    return sorted(found, key=lambda one: (-one["threads"], order[one.get("way", "")], order[one.get("strategy", "")]))


def _steps_table(report: dict[str, Any]) -> str:
    rows = [
        [
            way,
            str(entry["threads"]),
            f"{entry['seconds'][way]:.2f}",
            f"{ratio:.2f}",
            _goal("steps", way),
            *_source(entry),
        ]
        for entry in _entries(report, "steps")
        for way, ratio in entry["of_dense"].items()
        if way not in DENSE or entry["way"] == STEPS[0][-1]
    ]
    return table(("way to train", "threads", "s", "of dense", "goal", "load", "commit"), rows)


def _updates_table(report: dict[str, Any]) -> str:
    rows = [
        [
            f"{entry['strategy']}, {entry['way']}",
            str(entry["threads"]),
            *(f"{entry[key]:.2f}" for key in ("dense_s", "sparse_s", "update_s", "in_dense_steps")),
            _goal("updates", entry["strategy"]),
            *_source(entry),
        ]
        for entry in _entries(report, "updates")
    ]
    head = ("update", "threads", "dense step, s", "sparse step, s", "update, s", "in dense steps", "goal")
    return table((*head, "load", "commit"), rows)


def _memory_table(report: dict[str, Any]) -> str:
    entries = _entries(report, "memory")
    dense = {entry["threads"]: entry for entry in entries if entry["way"] == "dense"}
    rows = []
    for entry in entries:
        of = dense.get(entry["threads"], entry)
        goal = "" if entry.get("strategy") else _goal("memory", entry["way"])
        rows.append(
            [
                ", ".join(entry[key] for key in ("way", "strategy") if key in entry),
                str(entry["threads"]),
                f"{entry['training_mb']:,.0f}",
                f"{entry['training_mb'] / of['training_mb']:.2f}",
                goal,
                f"{entry['all_mb']:,.0f}",
                f"{entry['all_mb'] / of['all_mb']:.2f}",
                entry["commit"],
            ]
        )
    head = ("training", "threads", "peak of steps, MB", "of dense", "goal", "peak of all, MB", "of dense", "commit")
    return table(head, rows)


def _lists_table(report: dict[str, Any]) -> str:
    rows = [
        [f"{title}, {entry['threads']} threads", f"{entry[key]:.2f}", _goal("lists", key), *_source(entry)]
        for entry in _entries(report, "lists")
        for key, title in (
            ("seconds", f"seconds for {entry['weights'] / 1e6:.1f} million weights"),
            ("bytes_a_weight", "bytes a weight"),
            *((key, f"nanoseconds an entry, {key.split('_')[1]} million entries") for key in entry if "ns_" in key),
        )
    ]
    return table(("", "measured", "goal", "load", "commit"), rows)


def _goal(part: str, name: str) -> str:
    goal = GOALS[part].get(name)
    return "" if goal is None else f"{goal:.2f}"


def _source(entry: dict[str, Any]) -> tuple[str, str]:
    return f"{entry['load']:.1f}", entry["commit"]


if __name__ == "__main__":
    main()
