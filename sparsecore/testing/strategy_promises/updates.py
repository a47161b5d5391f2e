"""What an update does: told once more with Python's sets and fractions, and what a strategy declares."""

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
from sparsecore.testing.promises import Promise, expect
from sparsecore.testing.runs import Updated, updated
from sparsecore.testing.scenes import Scene, scenes
from sparsecore.testing.stacks import Subject, declared, fresh


def fair_shares(total: int, weights: Sequence[int], room: Sequence[int]) -> list[Fraction]:
    """Exact shares λ·w_i, at most ``room[i]``, with one λ for all that have room; what weighs nothing comes last.

    Where all that have room left weigh nothing, they share in proportion to their room.
    """
    shares = [Fraction(0)] * len(room)
    rest, open_ = Fraction(total), [i for i, places in enumerate(room) if places]
    heavy = list(weights)
    while rest and open_:
        if not any(heavy[i] for i in open_):
            heavy = [places - int(share) for places, share in zip(room, shares, strict=True)]
        scale = rest / sum(heavy[i] for i in open_)
        full = [i for i in open_ if scale * heavy[i] >= room[i]]
        for i in full or open_:
            shares[i] = Fraction(room[i]) if full else scale * heavy[i]
        rest = Fraction(0) if not full else rest - sum(room[i] for i in full)
        open_ = [i for i in open_ if i not in full]
    return shares


@attrs.frozen
class Weight:
    """An active weight before an update: where it lies in its tensor, and among all weights."""

    slot: int
    tensor: str
    position: int
    value: float


def _weights(update: Updated) -> list[Weight]:
    topology, values = update.before.state.topology, np.asarray(update.before.values).tolist()
    places = [(name, place) for name in topology.layout.names for place in topology.local(name).tolist()]
    return [Weight(slot, *place, value) for slot, (place, value) in enumerate(zip(places, values, strict=True))]


def _split(update: Updated) -> tuple[list[Weight], list[Weight]]:
    """The weights that survived, and those that were pruned."""
    survives = np.asarray(update.reallocation.survives).tolist()
    weights = list(zip(_weights(update), survives, strict=True))
    return [weight for weight, stays in weights if stays], [weight for weight, stays in weights if not stays]


def _count(_: Subject, scene: Scene) -> None:
    update = updated(scene)
    expected, after = _declared_size(update, scene), update.state.topology.size
    expect(expected == after == len(update.reallocation.values), f"there are {after} weights, not {expected}")
    kept, pruned = _split(update)
    lost = {weight.tensor for weight in pruned} - {weight.tensor for weight in kept}
    expect(not lost, f"the tensor {', '.join(sorted(lost))} has lost all its weights")


def _declared_size(update: Updated, scene: Scene) -> int:
    state = update.before.state
    survivors = state.topology.counts - update.reallocation.pruned
    return int(target_size_result(StrategyStack(fresh(scene.stack)), state, survivors).value)


def _survivors(_: Subject, scene: Scene) -> None:
    update = updated(scene)
    active = _active(update)
    for weight in _split(update)[0]:
        now = active.get((weight.tensor, weight.position))
        expect(
            now is not None and now == weight.value,
            f"position {weight.position} of {weight.tensor!r} survived with {weight.value}, and now holds {now}",
        )


def _active(update: Updated) -> dict[tuple[str, int], float]:
    """The value after the update of each active position."""
    topology, values = update.state.topology, np.asarray(update.reallocation.values).tolist()
    return {
        (name, position): value
        for name in topology.layout.names
        for position, value in zip(topology.local(name).tolist(), values[topology.slots(name)], strict=True)
    }


def _grown(subject: Subject, scene: Scene) -> None:
    update = updated(scene)
    before = {(weight.tensor, weight.position) for weight in _weights(update)}
    kept = {(weight.tensor, weight.position) for weight in _split(update)[0]}
    active = _active(update)
    expect(active.keys() & before == kept, "a weight grew where one is, or was just pruned")
    start = 0.0 if subject.decided_by_engine("initial_values") else _declared_start(subject, scene)
    wrong = [place for place in active.keys() - before if start is not None and active[place] != start]
    expect(not wrong, f"a weight that grew at {wrong[:1]} starts with {[active[p] for p in wrong[:1]]}, not {start}")


def _declared_start(subject: Subject, scene: Scene) -> float | None:
    return declared(subject, scene.stack, "initial_values").grown_value


def _is_shared_in_proportion(subject: Subject) -> bool:
    return _shares_of(subject, subject.sample) is not None


def _shares_of(subject: Subject, stack: Mapping[str, Any]) -> str | None:
    if subject.decided_by_engine("allocate"):
        return "survivors"
    return declared(subject, stack, "allocate").shares


def _proportional(subject: Subject, scene: Scene) -> None:
    kind = _shares_of(subject, scene.stack)
    if kind is None:
        return
    update = updated(scene)
    before, pruned = update.before.state.topology, update.reallocation.pruned
    weights = {"survivors": before.counts - pruned, "pruned": pruned}[kind]
    fair = fair_shares(int(update.reallocation.grown.sum()), weights.tolist(), before.room.tolist())
    for name, given, share in zip(before.layout.names, update.reallocation.grown.tolist(), fair, strict=True):
        expect(abs(given - share) < 1, f"{given} weights grew in {name!r}; its share is {float(share):.3f}")


_GROUPS: Mapping[str, Callable[[Weight], object]] = MappingProxyType(
    {
        "network": lambda _: "the network",
        "tensor": lambda weight: weight.tensor,
        "sign": lambda weight: (weight.tensor, (weight.value > 0) - (weight.value < 0)),
    }
)
"""Which weights are compared with each other, by what is declared."""


def _declares_smallest(subject: Subject) -> bool:
    return declared(subject, subject.sample, "prune").smallest_first is not None


def _smallest(subject: Subject, scene: Scene) -> None:
    scope = declared(subject, scene.stack, "prune").smallest_first
    if scope is None:
        return
    kept, pruned = _split(updated(scene))
    spared = _spared(kept)
    for group in {_GROUPS[scope](weight) for weight in pruned}:
        last = max((weight for weight in pruned if _GROUPS[scope](weight) == group), key=_turn)
        for weight in (weight for weight in spared if _GROUPS[scope](weight) == group):
            expect(_turn(last) < _turn(weight), f"{_described(last)} was pruned and {_described(weight)} was kept")


def _spared(kept: list[Weight]) -> list[Weight]:
    """Those that pruning has kept; a single survivor of a tensor may be one that the engine has kept from going."""
    survivors = Counter(weight.tensor for weight in kept)
    return [weight for weight in kept if survivors[weight.tensor] > 1]


@st.composite
def _with_zeros(draw: DrawFn, subject: Subject) -> Scene:
    """Scenes with exact zeros of either sign among the weights."""
    scene = draw(scenes(subject))
    pattern = draw(st.sampled_from(_PATTERNS))
    return attrs.evolve(scene, values=scene.values * np.resize(pattern, len(scene.values)).astype(scene.values.dtype))


_PATTERNS = ((0.0, 1.0), (1.0, 0.0), (-0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (0.0, 1.0, 1.0, -0.0, 1.0), (1.0, -0.0, 0.0))
"""What values are multiplied by, over and over."""


def _zeros_first(subject: Subject, scene: Scene) -> None:
    scope = declared(subject, scene.stack, "prune").smallest_first
    kept, pruned = _split(updated(scene))
    within = _GROUPS["network" if scope == "network" else "tensor"]
    gone = {within(weight): weight for weight in pruned if weight.value}
    for weight in (weight for weight in _spared(kept) if not weight.value):
        other = gone.get(within(weight)) if scope else None
        expect(other is None, f"{_described(weight)} was kept, and {other and _described(other)} was pruned")


def _turn(weight: Weight) -> tuple[float, int]:
    """What is pruned first has the lowest."""
    return abs(weight.value), weight.slot


def _described(weight: Weight) -> str:
    return f"{weight.value} at position {weight.position} of {weight.tensor!r}"


UPDATES: Sequence[Promise] = (
    Promise(
        "count",
        "an update leaves as many weights as there were, or as declared, and no tensor empty",
        scenes,
        _count,
        (None, "target_size"),
    ),
    Promise("survivors", "survivors keep their position and their value", scenes, _survivors),
    Promise("grown", "grown weights are new, and start as declared: with zero, where nothing is", scenes, _grown),
    Promise(
        "proportional",
        "shares are proportional within one",
        partial(scenes, min_tensors=2),
        _proportional,
        applies=_is_shared_in_proportion,
    ),
    Promise(
        "smallest",
        "the smallest weights are pruned first, and among equals those at the lowest positions",
        scenes,
        _smallest,
        applies=_declares_smallest,
    ),
    Promise(
        "zeros",
        "where the smallest go first, weights that are exactly zero go before all others, of either sign",
        _with_zeros,
        _zeros_first,
        applies=_declares_smallest,
    ),
)
