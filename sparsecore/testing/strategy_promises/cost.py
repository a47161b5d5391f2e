"""What a strategy leaves alone, and how much memory it takes."""

import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from numpy.typing import NDArray

from sparsecore.arrays import Array
from sparsecore.layout import Layout
from sparsecore.testing.oracle import WritableArrays
from sparsecore.testing.promises import Promise, expect
from sparsecore.testing.runs import Moment, begun, engine
from sparsecore.testing.scenes import Scene, scenes
from sparsecore.testing.stacks import Subject


def _leaves_alone(_: Subject, scene: Scene) -> None:
    algorithm = engine(scene, WritableArrays())
    before = begun(algorithm, scene)
    gradients = scene.gradient(algorithm.arrays)
    shown = _shown(before, gradients)
    copies = {name: array.copy() for name, array in shown.items()}
    gradient = gradients.__getitem__ if gradients else None
    for act in _acts(algorithm.advance, algorithm.update, before, scene, gradient):
        act()
        changed = [name for name, copy in copies.items() if copy.tobytes() != shown[name].tobytes()]
        expect(not changed, f"{', '.join(changed)} changed in place")


def _acts(advance: Any, update: Any, before: Moment, scene: Scene, gradient: Any) -> tuple[Callable[[], Any], ...]:
    return (
        lambda: advance(before.state, before.values, scene.learning_rate, gradient),
        lambda: update(before.state, before.values, gradient),
    )


def _shown(moment: Moment, gradients: Mapping[str, Array]) -> dict[str, NDArray[Any]]:
    """Everything that a hook is shown."""
    memories = {
        f"{field.name} of {plugin}": getattr(memory, field.name)
        for plugin, memory in moment.state.memories.items()
        for field in attrs.fields(type(memory))
        if hasattr(getattr(memory, field.name), "tobytes")
    }
    dense = {f"the gradient of {name}": gradient for name, gradient in gradients.items()}
    return {"positions": moment.state.topology.positions, "values": moment.values, **memories, **dense}


_WEIGHTS = 60
_SIZES = (4 * 10**6, 2**31 + 10**6)
"""Dense positions: first so few that too much memory does no harm, then more than 32 bits can count."""

_MOST = 256 * 1024
"""Bytes that the few weights may take, all temporaries included; a bit a position of the smaller size is twice that."""


@st.composite
def _vast(draw: DrawFn, subject: Subject) -> Scene:
    scene = draw(scenes(subject))
    return attrs.evolve(_spread(scene, _SIZES[0]), gradients={})


def _spread(scene: Scene, size: int) -> Scene:
    """The scene's draws with few weights among very many positions."""
    layout = Layout.of({"small": (10, 20), "vast": (size,)})
    draws = np.random.default_rng(scene.noise)
    places = np.concatenate([draws.choice(200, 20, replace=False), 200 + draws.integers(0, size, _WEIGHTS - 20)])
    positions = np.unique(places).astype(layout.position_dtype)
    values = draws.standard_normal(len(positions)).astype(scene.values.dtype)
    return attrs.evolve(scene, layout=layout, positions=positions, values=values, sparsity=1 - _WEIGHTS / size)


def _is_frugal(_: Subject, scene: Scene) -> None:
    for size in _SIZES:
        peak = _peak(_spread(scene, size))
        expect(
            peak < _MOST,
            f"an update of {_WEIGHTS} weights among {size:,} positions took {peak:,} bytes; memory follows the weights",
        )


def _peak(scene: Scene) -> int:
    """The most bytes that a start, a step and an update hold at once."""
    traced = tracemalloc.is_tracing()
    if not traced:
        tracemalloc.start()
    try:
        algorithm = engine(scene)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        algorithm.start(scene.sparsity, clock=scene.clock)
        moment = begun(algorithm, scene)
        algorithm.advance(moment.state, moment.values, scene.learning_rate)
        algorithm.update(moment.state, moment.values)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not traced:
            tracemalloc.stop()


def _needs_no_gradient(subject: Subject) -> bool:
    return not subject.asks_for("gradient")


COST = (
    Promise("inputs", "nothing that a hook is shown is changed", scenes, _leaves_alone),
    Promise(
        "size",
        "memory follows the weights, not the positions: nothing of the size of a dense tensor, unless the dense "
        "gradient is asked for",
        _vast,
        _is_frugal,
        applies=_needs_no_gradient,
        most=10,
    ),
)
