"""Promises about what a strategy declares so that a compiler can trace its updates.

The strategies run on the oracle's arrays, and their decisions are compared with Python's sets and sorting.
"""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.testing.promises import BrokenPromiseError, Promise, expect
from sparsecore.testing.runs import UpdateRecord, regrows, run_update
from sparsecore.testing.scenarios import Scenario, scenarios
from sparsecore.testing.subjects import StrategySubject, declarations, pruning_declarations


def _declares_fixed_counts(subject: StrategySubject) -> bool:
    return pruning_declarations(subject, subject.sample).pruned_counts == "fixed"


def _check_fixed_counts(subject: StrategySubject, scenario: Scenario) -> None:
    declared = pruning_declarations(subject, scenario.stack)
    if declared.pruned_counts != "fixed":
        return
    by_sign = declared.smallest_first == "sign"
    update, other = run_update(scenario), run_update(scenario, change_values=_other_magnitudes)
    # the engine keeps a weight of a tensor that would lose all, and which one depends on the values
    spared = {name for one in (update, other) for name, count in _survivors(one).items() if count == 1}
    counts, others = (_pruned(one, by_sign=by_sign) for one in (update, other))
    for group in sorted(counts | others, key=str):
        name, sign = group
        expect(
            name in spared or counts[group] == others[group],
            f"{counts[group]} {_SIGNS[sign]}weights of {name!r} were pruned, and {others[group]} if their magnitudes "
            "are others; declared is that the number follows from the clock and from how many there are",
        )


_SIGNS = {None: "", 0.0: "zero ", 1.0: "positive ", -1.0: "negative "}


def _other_magnitudes(values: NDArray[Any]) -> NDArray[Any]:
    """Return values of the same signs whose magnitudes fall from 1 to almost 0, whatever they were."""
    falling = 1 - np.arange(len(values)) / max(1, len(values))
    return np.where(values == 0, values, np.copysign(falling, values)).astype(values.dtype)


def _survivors(update: UpdateRecord) -> dict[str, int]:
    return dict(zip(update.kept.layout.names, update.kept.counts.tolist(), strict=True))


def _pruned(update: UpdateRecord, *, by_sign: bool) -> Counter[tuple[str, float | None]]:
    """Count the pruned weights of each tensor, and if it matters of each sign."""
    topology, kept = update.before.state.topology, set(update.kept.host_positions.tolist())
    positions, signs = topology.host_positions.tolist(), np.sign(np.asarray(update.before.values)).tolist()
    return Counter(
        (name, signs[slot] + 0.0 if by_sign else None)
        for name in topology.layout.names
        for slot in range(*topology.slots(name).indices(topology.size))
        if positions[slot] not in kept
    )


def _declares_gradient_first(subject: StrategySubject) -> bool:
    return declarations(subject, subject.sample, "grow").grows_first == "gradient"


def _check_gradient_first(subject: StrategySubject, scenario: Scenario) -> None:
    if declarations(subject, scenario.stack, "grow").grows_first != "gradient":
        return
    update = run_update(scenario)
    occupied = update.kept if regrows(scenario) else update.before.state.topology
    for name, dense in scenario.gradients.items():
        there = set(occupied.local(name).tolist())
        grown = set(update.state.topology.local(name).tolist()) - set(update.kept.local(name).tolist())
        free = sorted(set(range(len(dense))) - there, key=lambda position: (-abs(dense[position]), position))
        missed, others = set(free[: len(grown)]) - grown, grown - set(free[: len(grown)])
        if missed:
            first, other = min(missed), min(others)
            raise BrokenPromiseError(
                f"in {name!r} a weight grew at position {other}, where the gradient is {dense[other]}, and none at "
                f"{first}, where it is {dense[first]}"
            )


TRACED_UPDATES = (
    Promise(
        "fixed-counts",
        "how many weights of each tensor are pruned follows from the clock and from how many of them are zero, "
        "positive and negative, where that is declared",
        scenarios,
        _check_fixed_counts,
        ("prune",),
        fraction=0.5,
        applies=_declares_fixed_counts,
    ),
    Promise(
        "gradient-first",
        "weights grow where the dense gradient is largest in absolute value, and among equals at the lowest positions, "
        "where that is declared",
        scenarios,
        _check_gradient_first,
        ("grow",),
        fraction=0.5,
        applies=_declares_gradient_first,
    ),
)
