"""Engines and runs that start from a scene."""

import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import attrs
import numpy as np

from sparsecore.engine.arrays import Array, Arrays, Gradient
from sparsecore.engine.engine import Advance, Engine
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.state import State
from sparsecore.engine.topology import Topology
from sparsecore.errors import NoRoomError
from sparsecore.testing.backend_subjects import oracle_arrays
from sparsecore.testing.scenes import Scene
from sparsecore.testing.stacks import Stack, fresh


@attrs.frozen(eq=False)
class Moment:
    """State and values, between two steps of a run."""

    state: State
    values: Array


@attrs.frozen(eq=False)
class Updated:
    """One update: what was, what is, and what it did."""

    before: Moment
    state: State
    reallocation: Reallocation


def engine(scene: Scene, arrays: Arrays | None = None, stack: Stack | None = None) -> Engine:
    """An engine with strategies that have seen no run."""
    stack = fresh(scene.stack) if stack is None else stack
    return Engine(scene.layout, stack, arrays=arrays or oracle_arrays(), seed=scene.seed)


def started(algorithm: Engine, scene: Scene) -> Moment:
    """The scene's start: where its past begins, or its moment itself where it has none."""
    topology = scene.topology(algorithm.arrays)
    clock = attrs.evolve(
        scene.clock,
        step=max(0, scene.clock.step - scene.past),
        updates=max(0, scene.clock.updates - scene.past),
    )
    state = algorithm.start_at(topology, sparsity=max(scene.sparsity, topology.sparsity), clock=clock)
    return Moment(state, algorithm.arrays.from_numpy(scene.values.copy()))


def begun(algorithm: Engine, scene: Scene) -> Moment:
    """The scene's moment: its past is trained through, then the weights have the scene's values."""
    return deque((moment for moment, _ in past(algorithm, scene)), maxlen=1).pop()


def past(algorithm: Engine, scene: Scene) -> Iterator[tuple[Moment, Reallocation | None]]:
    """From the start step by step to the scene's moment, which is the last one, and the update that led to each."""
    moment = started(algorithm, scene)
    yield moment, None
    for number in range(scene.past):
        moment, reallocation = _lived(algorithm, scene, moment, _PAST + number)
        if number == scene.past - 1:
            moment = Moment(moment.state, _scene_values(scene, moment.state.topology))
        yield moment, reallocation


_PAST = 10**6
"""Where the numbers of past steps begin, so that no later step draws the same."""


def _lived(algorithm: Engine, scene: Scene, moment: Moment, number: int) -> tuple[Moment, Reallocation | None]:
    """A step of training and an update, due or not; none where there is no room for it."""
    gradient = _gradient(algorithm, scene, number)
    try:
        advance = _advanced(algorithm, scene, moment, number)
    except NoRoomError:
        return moment, None
    if advance.reallocation is not None:
        return Moment(advance.state, advance.values), advance.reallocation
    try:
        state, reallocation = algorithm.update(advance.state, advance.values, gradient)
    except NoRoomError:
        return Moment(advance.state, advance.values), None
    return Moment(state, reallocation.values), reallocation


def _scene_values(scene: Scene, topology: Topology) -> Array:
    """The scene's values for weights that have moved since: each tensor's own, repeated where it has got more."""
    bounds = np.searchsorted(scene.positions, scene.layout.offsets)
    own = [scene.values[first:last] for first, last in pairwise(bounds)]
    counts = topology.counts.tolist()
    parts = [np.resize(values, count) for values, count in zip(own, counts, strict=True)]
    return topology.arrays.from_numpy(np.concatenate(parts))


def updated(scene: Scene, arrays: Arrays | None = None) -> Updated:
    """One update in the scene."""
    algorithm = engine(scene, arrays)
    return judged_update(algorithm, scene, begun(algorithm, scene))


def judged_update(algorithm: Engine, scene: Scene, before: Moment) -> Updated:
    """The update at the scene's moment, with the scene's gradients."""
    state, reallocation = algorithm.update(before.state, before.values, _gradient(algorithm, scene))
    return Updated(before, state, reallocation)


def trained(algorithm: Engine, scene: Scene, moment: Moment, number: int) -> Moment:
    """A step of training, drawn by its number, and what follows it."""
    advance = _advanced(algorithm, scene, moment, number)
    return Moment(advance.state, advance.values)


def _advanced(algorithm: Engine, scene: Scene, moment: Moment, number: int) -> Advance:
    topology = moment.state.topology
    draws = [
        _draw(scene, number, "step", name).standard_normal(count)
        for name, count in zip(topology.layout.names, topology.counts.tolist(), strict=True)
    ]
    noise = algorithm.arrays.from_numpy(np.concatenate(draws).astype(scene.values.dtype))
    gradient = _gradient(algorithm, scene, number)
    return algorithm.advance(moment.state, moment.values + noise * 0.1, scene.learning_rate, gradient)


def _draw(scene: Scene, number: int, *what: str) -> np.random.Generator:
    """Draws of training: by number and name alone, so that the order of the tensors is of no account."""
    return np.random.default_rng([scene.noise, number, zlib.crc32("/".join(what).encode())])


def forced(algorithm: Engine, scene: Scene, moment: Moment, number: int | None = None) -> Moment:
    """An update, due or not, with the gradients of the step of this number, or with the scene's."""
    state, reallocation = algorithm.update(moment.state, moment.values, _gradient(algorithm, scene, number))
    return Moment(state, reallocation.values)


def step(algorithm: Engine, scene: Scene, moment: Moment, number: int) -> Moment:
    """A step of training, and what follows it; an update in every second step, due or not."""
    after = trained(algorithm, scene, moment, number)
    is_updated = after.state.clock.updates > moment.state.clock.updates
    return after if is_updated or number % 2 == 0 else forced(algorithm, scene, after, number)


def _gradient(algorithm: Engine, scene: Scene, number: int | None = None) -> Gradient | None:
    """The dense gradients of the step of this number; those of the scene where there is none."""
    if not scene.gradients:
        return None
    if number is None:
        return scene.gradient(algorithm.arrays).__getitem__
    return {
        name: algorithm.arrays.from_numpy(
            _draw(scene, number, "gradient", name).standard_normal(len(dense)).astype(dense.dtype)
        )
        for name, dense in scene.gradients.items()
    }.__getitem__


def run(algorithm: Engine, scene: Scene, moment: Moment, numbers: range) -> Moment:
    """These steps, one after another."""
    for number in numbers:
        moment = step(algorithm, scene, moment, number)
    return moment


def differences(one: Moment, other: Moment) -> str | None:
    """In what two moments differ, as the end of a sentence; None where they are the same, bit for bit."""
    if _active(one.state.topology) != _active(other.state.topology):
        return "positions"
    if _host(one.values, one).tobytes() != _host(other.values, other).tobytes():
        return "values"
    if one.state.clock != other.state.clock:
        return "the clock"
    first, second = contents(one.state), contents(other.state)
    changed = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    return f"the strategy state {', '.join(changed)}" if changed else None


def contents(state: State) -> Mapping[str, Any]:
    """What is remembered, as plain values by 'plugin.field'."""
    arrays = state.topology.arrays
    return {
        f"{plugin}.{field.name}": _plain(getattr(strategy_state, field.name), arrays)
        for plugin, strategy_state in state.strategy_states.items()
        for field in attrs.fields(type(strategy_state))
    }


def _plain(content: Any, arrays: Arrays) -> Any:
    if not hasattr(content, "shape"):
        return content
    host = content if isinstance(content, np.ndarray) else arrays.to_numpy(content)
    return str(host.dtype), host.shape, host.tobytes()


def _active(topology: Topology) -> list[int]:
    return list(map(int, topology.arrays.to_numpy(topology.positions)))


def _host(values: Array, moment: Moment) -> Any:
    return moment.state.topology.arrays.to_numpy(values)
