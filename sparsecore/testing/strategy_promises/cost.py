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
from sparsecore.engine.layout import Layout
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
    strategy_states = {
        f"{field.name} of {plugin}": getattr(strategy_state, field.name)
        for plugin, strategy_state in moment.state.strategy_states.items()
        for field in attrs.fields(type(strategy_state))
        if hasattr(getattr(strategy_state, field.name), "tobytes")
    }
    dense = {f"the gradient of {name}": gradient for name, gradient in gradients.items()}
    return {"positions": moment.state.topology.positions, "values": moment.values, **strategy_states, **dense}


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
    Promise("inputs", "nothing that a hook is shown is changed", scenes, _leaves_alone, share=0.5),
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
