"""What a strategy leaves alone, and how much memory it takes."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from numpy.typing import NDArray

from sparsecore.engine.arrays import Array
from sparsecore.engine.engine import Engine
from sparsecore.engine.state import State
from sparsecore.engine.topology import Layout
from sparsecore.testing.backend_subjects import WritableArrays
from sparsecore.testing.frugality import LARGE, MOST, WEIGHTS, few, peak
from sparsecore.testing.promises import NotJudgedError, Promise, expect
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
    for act in _acts(algorithm, before, scene, gradient):
        after = act()
        changed = [name for name, copy in copies.items() if copy.tobytes() != shown[name].tobytes()]
        expect(not changed, f"{', '.join(changed)} changed in place")
        for field, kept in _state_arrays(after).items():
            lent = [name for name in ("values", *_by_name(gradients)) if np.shares_memory(kept, shown[name])]
            expect(not lent, f"{field} is {', '.join(lent)}, which training may change in place; keep a copy")


def _acts(algorithm: Engine, before: Moment, scene: Scene, gradient: Any) -> tuple[Callable[[], State], ...]:
    """A step, and an update; each returns the state after it."""
    return (
        lambda: algorithm.advance(before.state, before.values, scene.learning_rate, gradient).state,
        lambda: algorithm.update(before.state, before.values, gradient)[0],
    )


def _shown(moment: Moment, gradients: Mapping[str, Array]) -> dict[str, NDArray[Any]]:
    """Everything that a hook is shown."""
    topology = moment.state.topology
    return {
        "positions": np.asarray(topology.positions),
        "values": np.asarray(moment.values),
        **_state_arrays(moment.state),
        **_by_name(gradients),
    }


def _by_name(gradients: Mapping[str, Array]) -> dict[str, NDArray[Any]]:
    return {f"the gradient of {name}": np.asarray(gradient) for name, gradient in gradients.items()}


def _state_arrays(state: State) -> dict[str, NDArray[Any]]:
    """The arrays of the strategies' states, by what they are called in a sentence."""
    return {
        f"{field.name} of {plugin}": getattr(strategy_state, field.name)
        for plugin, strategy_state in state.strategy_states.items()
        for field in attrs.fields(type(strategy_state))
        if isinstance(getattr(strategy_state, field.name), np.ndarray)
    }


_VAST = 3 * 10**9
"""More dense positions than 32 bits with a sign can count."""


@st.composite
def _few_among(draw: DrawFn, subject: Subject, size: int) -> Scene:
    return attrs.evolve(_spread(draw(scenes(subject)), size), gradients={})


def _spread(scene: Scene, size: int) -> Scene:
    """The scene's draws with few weights among very many positions."""
    layout = Layout.of({"small": (10, 20), "vast": (size,)})
    draws = np.random.default_rng(scene.noise)
    places = np.concatenate([draws.choice(200, 20, replace=False), 200 + draws.integers(0, size, WEIGHTS - 20)])
    positions = np.unique(places).astype(layout.position_dtype)
    values = draws.standard_normal(len(positions)).astype(scene.values.dtype)
    return attrs.evolve(scene, layout=layout, positions=positions, values=values, sparsity=few(layout), past=0)


def _is_frugal(_: Subject, scene: Scene) -> None:
    peak = _peak(scene)
    expect(
        peak < MOST,
        f"an update of {len(scene.values)} weights among {scene.layout.size:,} positions took {peak:,} bytes",
    )


def _acts_far_out(_: Subject, scene: Scene) -> None:
    if _peak(_spread(scene, LARGE)) >= MOST:
        raise NotJudgedError("it takes memory for each position, and there are too many of them")
    _act(scene)


def _peak(scene: Scene) -> int:
    """The most bytes that a start, a step and an update hold at once."""
    return peak(lambda: _act(scene))


def _act(scene: Scene) -> None:
    """A start, a step and an update."""
    algorithm = engine(scene)
    algorithm.start(scene.sparsity, clock=scene.clock)
    moment = begun(algorithm, scene)
    algorithm.advance(moment.state, moment.values, scene.learning_rate)
    algorithm.update(moment.state, moment.values)


def _is_sparse_throughout(subject: Subject) -> bool:
    return subject.is_sparse_throughout


COST = (
    Promise(
        "inputs",
        "nothing that a hook is shown is changed, and values and gradients are kept as copies alone",
        scenes,
        _leaves_alone,
        share=0.5,
    ),
    Promise(
        "size",
        "memory follows the weights: nothing is of the size of a dense tensor, unless its gradient is asked for or the "
        "number of weights is declared",
        partial(_few_among, size=LARGE),
        _is_frugal,
        applies=_is_sparse_throughout,
        share=0.1,
    ),
    Promise(
        "vast",
        "positions beyond 32 bits are as good as others",
        partial(_few_among, size=_VAST),
        _acts_far_out,
        hooks=("initial_topology", "prune", "allocate", "grow", "initial_values", "strategy_state", "target_size"),
        errors=True,
        applies=_is_sparse_throughout,
        share=0.1,
    ),
)
