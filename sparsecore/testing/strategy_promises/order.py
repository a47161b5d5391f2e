"""The order of the tensors is nobody's business: what a strategy decides is the same, up to relabelling."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.state import vectors_of
from sparsecore.engine.topology import Layout, Topology
from sparsecore.testing.promises import NotJudgedError, Promise, expect, some
from sparsecore.testing.runs import Moment, engine, judged_update, past
from sparsecore.testing.scenes import Scene, scenes
from sparsecore.testing.stacks import Subject
from sparsecore.testing.strategy_promises.updates import fair_shares

Places = Mapping[str, list[int]]
"""Positions in each tensor, by its name."""


@st.composite
def _without_ties(draw: DrawFn, subject: Subject) -> Scene:
    """Among equals the order of the tensors does count: the lowest position goes first."""
    scene = draw(scenes(subject, min_tensors=2))
    draws, dtype = np.random.default_rng(scene.noise), scene.values.dtype
    gradients = {name: draws.standard_normal(len(dense)).astype(dtype) for name, dense in scene.gradients.items()}
    return attrs.evolve(scene, values=draws.standard_normal(len(scene.values)).astype(dtype), gradients=gradients)


def _blind(subject: Subject, scene: Scene) -> None:
    for number, (one, other) in enumerate(zip(_updates(scene), _updates(_reversed(scene)), strict=True)):
        reallocations = one.reallocation, other.reallocation
        for what, position in (("pruned", "pruned_positions"), ("grown", "grown_positions")):
            first, second = (_by_name(reallocation, position) for reallocation in reallocations)
            if what == "grown":
                _judge_counts(subject, one.reallocation, first, second)
            name = next((name for name in first if first[name] != second[name]), None)
            expect(
                name is None,
                f"with the tensors in reverse order, other positions are {what} in {name!r} in update {number + 1}: "
                f"{some(first.get(name or '', []))} and {some(second.get(name or '', []))}",
            )
        _compare_strategy_states(one.moment, other.moment)


@attrs.frozen(eq=False)
class _Seen:
    """An update, and the moment after it."""

    reallocation: Reallocation
    moment: Moment


def _updates(scene: Scene) -> list[_Seen]:
    """Those of the scene's past, and the one at its moment."""
    algorithm = engine(scene)
    moments = list(past(algorithm, scene))
    seen = [_Seen(reallocation, moment) for moment, reallocation in moments if reallocation]
    update = judged_update(algorithm, scene, moments[-1][0])
    return [*seen, _Seen(update.reallocation, Moment(update.state, update.reallocation.values))]


def _reversed(scene: Scene) -> Scene:
    tensors = range(len(scene.layout))[::-1]
    layout = Layout(scene.layout.names[::-1], scene.layout.shapes[::-1])
    owner = np.searchsorted(scene.layout.offsets, scene.positions, "right") - 1
    slots = np.concatenate([np.flatnonzero(owner == tensor) for tensor in tensors])
    shift = np.array([layout.offsets[::-1][1:][tensor] - scene.layout.offsets[tensor] for tensor in tensors[::-1]])
    positions = scene.positions.astype(np.int64) + shift[owner]
    return attrs.evolve(
        scene, layout=layout, positions=positions[slots].astype(layout.position_dtype), values=scene.values[slots]
    )


def _by_name(reallocation: Reallocation, which: str) -> Places:
    topology = reallocation.before.at(getattr(reallocation, which))
    return {name: topology.local(name).tolist() for name in topology.layout.names}


def _judge_counts(subject: Subject, update: Reallocation, first: Places, second: Places) -> None:
    """Two tensors that are owed the same may both be owed half a weight: then one of them gets it, by their order."""
    before, pruned = update.before, update.pruned
    fair = fair_shares(int(update.grown.sum()), (before.counts - pruned).tolist(), before.room.tolist())
    parts = Counter(share % 1 for share in fair if share % 1)
    tied = not subject.decided_by_engine("allocate") or any(tensors > 1 for tensors in parts.values())
    counts = {name: (len(first[name]), len(second[name])) for name in first}
    if tied and any(one != other for one, other in counts.values()):
        expect(
            all(abs(one - other) <= 1 for one, other in counts.values()),
            f"with the tensors in reverse order, the shares are others: {counts}",
        )
        raise NotJudgedError("the shares of two tensors are tied")


def _compare_strategy_states(one: Moment, other: Moment) -> None:
    for plugin, strategy_state in one.state.strategy_states.items():
        first, second = (_parts(each, moment.state.topology) for each, moment in _both(plugin, one, other))
        changed = [name for name in first if not np.array_equal(first[name], second[name])]
        expect(not changed, f"with the tensors in reverse order, {type(strategy_state).__name__} has another {changed}")


def _both(plugin: str, *moments: Moment) -> list[tuple[Any, Moment]]:
    return [(moment.state.strategy_states[plugin], moment) for moment in moments]


def _parts(strategy_state: Any, topology: Topology) -> dict[str, Any]:
    """What is remembered of each tensor, and the texts and numbers of the whole."""
    vectors = vectors_of(strategy_state)
    whole = {
        field.name: getattr(strategy_state, field.name)
        for field in attrs.fields(type(strategy_state))
        if isinstance(getattr(strategy_state, field.name), str | int | float | None)
    }
    rounded = {name: f"{content:.6g}" if isinstance(content, float) else content for name, content in whole.items()}
    by_name = {
        f"{field} of {name}": topology.arrays.to_numpy(vector[topology.slots(name)])
        for field, vector in vectors.items()
        for name in topology.layout.names
    }
    return {**rounded, **by_name}


ORDER = (
    Promise("order", "the order of the tensors changes nothing but the order of the answers", _without_ties, _blind),
)
