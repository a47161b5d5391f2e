"""Promises about an update, checked by Python's sets and fractions, and about what a strategy declares."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from sparsecore.engine.stack import StrategyStack
from sparsecore.engine.update import target_size_result
from sparsecore.testing.promises import BrokenPromiseError, Promise, expect
from sparsecore.testing.runs import UpdateRecord, make_engine, regrows, run_update
from sparsecore.testing.scenarios import Scenario, scenarios
from sparsecore.testing.subjects import StrategySubject, declarations, fresh_copies, pruning_declarations


def exact_shares(total: int, weights: Sequence[int], room: Sequence[int]) -> list[Fraction]:
    """Share out a number in proportion to weights, exactly and limited by the room.

    Each share is λ·w_i or the room, with the same λ for all that have room left. If all of these have weight zero,
    they share in proportion to their room.

    Args:
        total: the number to share out, at most the sum of the room.
        weights: one for each share.
        room: the most that each share can be.
    """
    shares = [Fraction(0)] * len(room)
    rest, open_ = Fraction(total), [i for i, limit in enumerate(room) if limit]
    current = list(weights)
    while rest and open_:
        if not any(current[i] for i in open_):
            current = [limit - int(share) for limit, share in zip(room, shares, strict=True)]
        scale = rest / sum(current[i] for i in open_)
        full = [i for i in open_ if scale * current[i] >= room[i]]
        for i in full or open_:
            shares[i] = Fraction(room[i]) if full else scale * current[i]
        rest = Fraction(0) if not full else rest - sum(room[i] for i in full)
        open_ = [i for i in open_ if i not in full]
    return shares


@attrs.frozen
class _Weight:
    """An active weight before an update.

    Attributes:
        slot: its index among all weights.
        tensor: the name of its tensor.
        position: its position within the tensor.
        value: its value.
    """

    slot: int
    tensor: str
    position: int
    value: float

    def __str__(self) -> str:
        return f"the weight {self.value} at position {self.position} of {self.tensor!r}"


def _weights(update: UpdateRecord) -> list[_Weight]:
    topology, values = update.before.state.topology, np.asarray(update.before.values).tolist()
    positions = [(name, position) for name in topology.layout.names for position in topology.local(name).tolist()]
    return [
        _Weight(slot, name, position, value)
        for slot, ((name, position), value) in enumerate(zip(positions, values, strict=True))
    ]


def _kept_and_pruned(update: UpdateRecord) -> tuple[list[_Weight], list[_Weight]]:
    """Return the weights that pruning kept and those that it pruned, also where these have grown again."""
    positions, kept = update.before.state.topology.host_positions.tolist(), set(update.kept.host_positions.tolist())
    weights = list(zip(_weights(update), (position in kept for position in positions), strict=True))
    return [weight for weight, stays in weights if stays], [weight for weight, stays in weights if not stays]


def _check_count(_: StrategySubject, scenario: Scenario) -> None:
    update = run_update(scenario)
    expected, after = _target_size(update, scenario), update.state.topology.size
    expect(expected == after == len(update.reallocation.values), f"there are {after} weights instead of {expected}")
    kept, pruned = _kept_and_pruned(update)
    emptied = {weight.tensor for weight in pruned} - {weight.tensor for weight in kept}
    expect(not emptied, f"all weights of {', '.join(sorted(emptied))} were pruned")


def _target_size(update: UpdateRecord, scenario: Scenario) -> int:
    state, survivors = update.before.state, update.kept.counts
    return int(
        target_size_result(StrategyStack(fresh_copies(scenario.stack)), state, survivors, state.topology.room).value
    )


def _check_survivors(_: StrategySubject, scenario: Scenario) -> None:
    update = run_update(scenario)
    values = _values_after(update)
    for weight in _kept_and_pruned(update)[0]:
        after = values.get((weight.tensor, weight.position))
        expect(
            after is not None and after == weight.value,
            f"{weight} survived, but afterwards "
            + ("there is no weight" if after is None else f"its value is {after}"),
        )


def _values_after(update: UpdateRecord) -> dict[tuple[str, int], float]:
    """Return the value after the update of each weight, by tensor and position."""
    topology, values = update.state.topology, np.asarray(update.reallocation.values).tolist()
    return {
        (name, position): value
        for name in topology.layout.names
        for position, value in zip(topology.local(name).tolist(), values[topology.slots(name)], strict=True)
    }


def _check_grown(subject: StrategySubject, scenario: Scenario) -> None:
    update = run_update(scenario)
    before = {(weight.tensor, weight.position) for weight in _weights(update)}
    kept = {(weight.tensor, weight.position) for weight in _kept_and_pruned(update)[0]}
    after = _values_after(update)
    if not regrows(scenario):
        expect(after.keys() & before == kept, "a weight grew at a position that was active, or was just pruned")
    declared = declarations(subject, scenario.stack, "initial_values").grown_value
    expected = 0.0 if subject.uses_default("initial_values") else declared
    wrong = [key for key in after.keys() - before if expected is not None and after[key] != expected]
    if wrong:
        tensor, position = min(wrong)
        raise BrokenPromiseError(
            f"the weight that grew at position {position} of {tensor!r} starts with {after[min(wrong)]} instead of "
            f"{expected}"
        )


def _check_regrown(subject: StrategySubject, scenario: Scenario) -> None:
    update = run_update(scenario, regrow_pruned="keep")
    reallocation = update.reallocation
    survives = np.asarray(reallocation.survives).tolist()
    # a vector like the optimizer's state: 1 plus the slot before the update, which grown weights have none of
    states = np.asarray(reallocation.carry(np.arange(1, reallocation.before.size + 1))).tolist()
    state_of = dict(zip(reallocation.after.host_positions.tolist(), states, strict=True))
    after, keeps_all = _values_after(update), subject.uses_default("keep_regrown")
    positions = reallocation.before.host_positions.tolist()
    for weight in _kept_and_pruned(update)[1]:
        value = after.get((weight.tensor, weight.position))
        if value is None:
            continue
        state, is_kept = state_of[positions[weight.slot]], survives[weight.slot]
        expect(is_kept or not keeps_all, f"{weight} was pruned and grew again, but counts as another weight")
        expected = weight.slot + 1 if is_kept else 0
        expect(state == expected, f"{weight} was pruned and grew again, but not with its own optimizer state")
        expect(
            not is_kept or (value, np.signbit(value)) == (weight.value, np.signbit(weight.value)),
            f"{weight} was pruned, grew again and keeps its optimizer state, but its value is {value}",
        )


def _declares_shares(subject: StrategySubject) -> bool:
    return _shares(subject, subject.sample) is not None


def _shares(subject: StrategySubject, stack: Mapping[str, Any]) -> str | None:
    """Return what growth is declared to be proportional to; None if nothing is declared."""
    if subject.uses_default("allocate"):
        return "survivors"
    return declarations(subject, stack, "allocate").shares


def _check_shares(subject: StrategySubject, scenario: Scenario) -> None:
    kind = _shares(subject, scenario.stack)
    if kind is None:
        return
    update = run_update(scenario)
    before, kept = update.before.state.topology, update.kept
    weights = {"survivors": kept.counts, "pruned": before.counts - kept.counts}[kind]
    grown, room = update.state.topology.counts - kept.counts, (kept if regrows(scenario) else before).room
    shares = exact_shares(int(grown.sum()), weights.tolist(), room.tolist())
    for name, count, share in zip(before.layout.names, grown.tolist(), shares, strict=True):
        expect(
            abs(count - share) < 1,
            f"{count} weights grew in {name!r}, but its exact share in proportion to the {kind} is {float(share):.3f}",
        )


_GROUPS: Mapping[str, Callable[[_Weight], object]] = MappingProxyType(
    {
        "network": lambda _: "the network",
        "tensor": lambda weight: weight.tensor,
        "sign": lambda weight: (weight.tensor, (weight.value > 0) - (weight.value < 0)),
    }
)
"""The group within which a weight is ranked, by the value of ``smallest_first``."""


def _declares_smallest_first(subject: StrategySubject) -> bool:
    return pruning_declarations(subject, subject.sample).smallest_first is not None


def _check_smallest_first(subject: StrategySubject, scenario: Scenario) -> None:
    scope = pruning_declarations(subject, scenario.stack).smallest_first
    if scope is None:
        return
    group_of = _GROUPS[scope]
    kept, pruned = _kept_and_pruned(run_update(scenario))
    spared = _kept_by_pruning(kept)
    for group in {group_of(weight) for weight in pruned}:
        last = max((weight for weight in pruned if group_of(weight) == group), key=_rank)
        for weight in (weight for weight in spared if group_of(weight) == group):
            expect(_rank(last) < _rank(weight), f"{last} was pruned, and {weight} was kept")


def _kept_by_pruning(kept: list[_Weight]) -> list[_Weight]:
    """Leave out single survivors of a tensor, because the engine may have kept these."""
    survivors = Counter(weight.tensor for weight in kept)
    return [weight for weight in kept if survivors[weight.tensor] > 1]


def _rank(weight: _Weight) -> tuple[float, int]:
    """Return a key that is lowest for what is to be pruned first."""
    return abs(weight.value), weight.slot


@st.composite
def _scenarios_with_zeros(draw: DrawFn, subject: StrategySubject) -> Scenario:
    """Draw scenarios with exact zeros of either sign among the values."""
    scenario = draw(scenarios(subject))
    pattern = np.resize(draw(st.sampled_from(_PATTERNS)), len(scenario.values))
    return attrs.evolve(scenario, values=scenario.values * pattern.astype(scenario.values.dtype))


_PATTERNS = ((0.0, 1.0), (1.0, 0.0), (-0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (0.0, 1.0, 1.0, -0.0, 1.0), (1.0, -0.0, 0.0))
"""Factors of the values, repeated."""


def _check_zeros_first(subject: StrategySubject, scenario: Scenario) -> None:
    scope = pruning_declarations(subject, scenario.stack).smallest_first
    kept, pruned = _kept_and_pruned(run_update(scenario))
    group_of = _GROUPS["network" if scope == "network" else "tensor"]
    pruned_nonzero = {group_of(weight): weight for weight in pruned if weight.value}
    for weight in (weight for weight in _kept_by_pruning(kept) if not weight.value):
        other = pruned_nonzero.get(group_of(weight)) if scope else None
        expect(other is None, f"{other} was pruned, and {weight} was kept")


def _names_candidates(subject: StrategySubject) -> bool:
    return not subject.uses_default("candidates")


def _check_candidates(subject: StrategySubject, scenario: Scenario) -> None:
    update = run_update(scenario)  # the engine refuses positions that cannot be candidates
    if declarations(subject, scenario.stack, "grow").grows_at != "candidates":
        return
    named = make_engine(scenario).candidates(update.before.state)
    candidates = set() if named is None else set(named.host_positions.tolist())
    others = set(update.reallocation.grown_weights.host_positions.tolist()) - candidates
    expect(not others, f"a weight grew at position {min(others, default=0)}, which is none of the candidates")


UPDATES: Sequence[Promise] = (
    Promise(
        "count",
        "an update keeps the number of weights, or changes it to what target_size returns, and leaves no tensor empty",
        scenarios,
        _check_count,
        (None, "target_size"),
    ),
    Promise("survivors", "surviving weights keep their position and their value", scenarios, _check_survivors),
    Promise(
        "grown",
        "weights grow at inactive positions, and start with the declared value, or with zero without initial_values",
        scenarios,
        _check_grown,
    ),
    Promise(
        "regrown",
        "with regrow_pruned='keep', a weight that is pruned and grows again keeps its value and its optimizer state",
        scenarios,
        _check_regrown,
        ("keep_regrown",),
        fraction=0.3,
    ),
    Promise(
        "candidates",
        "the positions that candidates names are ascending, distinct, within bounds and inactive, and weights grow at "
        "these alone where that is declared",
        scenarios,
        _check_candidates,
        hooks=("candidates",),
        applies=_names_candidates,
    ),
    Promise(
        "proportional",
        "each tensor grows its share of the weights, in the declared proportion and within one weight",
        partial(scenarios, min_tensors=2),
        _check_shares,
        applies=_declares_shares,
    ),
    Promise(
        "smallest",
        "the smallest weights are pruned first, and of equal ones those at the lowest positions",
        scenarios,
        _check_smallest_first,
        applies=_declares_smallest_first,
    ),
    Promise(
        "zeros",
        "if the smallest weights are pruned first, exact zeros of either sign are pruned before all others",
        _scenarios_with_zeros,
        _check_zeros_first,
        applies=_declares_smallest_first,
    ),
)
