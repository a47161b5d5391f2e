"""Engines and runs that start from a scene."""

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from sparsecore.arrays import Array, Arrays
from sparsecore.engine import Engine
from sparsecore.gradient import Gradient
from sparsecore.reallocation import Reallocation
from sparsecore.state import State
from sparsecore.testing.oracle import oracle_arrays
from sparsecore.testing.scenes import Scene
from sparsecore.testing.stacks import Stack, fresh
from sparsecore.topology import Topology


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


def begun(algorithm: Engine, scene: Scene) -> Moment:
    """The scene's moment."""
    topology = scene.topology(algorithm.arrays)
    state = algorithm.start_at(topology, sparsity=max(scene.sparsity, topology.sparsity), clock=scene.clock)
    return Moment(state, algorithm.arrays.from_numpy(scene.values.copy()))


def updated(scene: Scene, arrays: Arrays | None = None) -> Updated:
    """One update in the scene."""
    algorithm = engine(scene, arrays)
    before = begun(algorithm, scene)
    state, reallocation = algorithm.update(before.state, before.values, _gradient(algorithm, scene))
    return Updated(before, state, reallocation)


def trained(algorithm: Engine, scene: Scene, moment: Moment, number: int) -> Moment:
    """A step of training, drawn by its number, and what follows it."""
    arrays = algorithm.arrays
    draws = np.random.default_rng([scene.noise, number])
    noise = arrays.from_numpy(draws.standard_normal(len(moment.values)).astype(scene.values.dtype))
    advance = algorithm.advance(
        moment.state, moment.values + noise * 0.1, scene.learning_rate, _gradient(algorithm, scene)
    )
    return Moment(advance.state, advance.values)


def forced(algorithm: Engine, scene: Scene, moment: Moment) -> Moment:
    """An update, due or not."""
    state, reallocation = algorithm.update(moment.state, moment.values, _gradient(algorithm, scene))
    return Moment(state, reallocation.values)


def step(algorithm: Engine, scene: Scene, moment: Moment, number: int) -> Moment:
    """A step of training, and what follows it; an update in every second step, due or not."""
    after = trained(algorithm, scene, moment, number)
    is_updated = after.state.clock.updates > moment.state.clock.updates
    return after if is_updated or number % 2 == 0 else forced(algorithm, scene, after)


def _gradient(algorithm: Engine, scene: Scene) -> Gradient | None:
    return scene.gradient(algorithm.arrays).__getitem__ if scene.gradients else None


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
    return f"the memory {', '.join(changed)}" if changed else None


def contents(state: State) -> Mapping[str, Any]:
    """What is remembered, as plain values by 'plugin.field'."""
    arrays = state.topology.arrays
    return {
        f"{plugin}.{field.name}": _plain(getattr(memory, field.name), arrays)
        for plugin, memory in state.memories.items()
        for field in attrs.fields(type(memory))
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
