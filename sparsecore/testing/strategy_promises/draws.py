"""Draws: a function of the seed and of what they are for, and of nothing else."""

import inspect
from collections.abc import Sequence

import attrs
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from sparsecore.engine import Engine
from sparsecore.layout import Layout
from sparsecore.testing.processes import can_be_told, outcomes
from sparsecore.testing.promises import NotJudgedError, Promise, expect
from sparsecore.testing.runs import begun, differences, engine, run, updated
from sparsecore.testing.scenes import Scene, scenes
from sparsecore.testing.stacks import Subject, declared, hooks_of, topmost

_STEPS = 6


def _twice(_: Subject, scene: Scene) -> None:
    one, other = (run(algorithm, scene, begun(algorithm, scene), range(_STEPS)) for algorithm in _engines(scene))
    trouble = differences(one, other)
    expect(trouble is None, f"two runs of the same seed differ in {trouble}")
    first, second = (algorithm.start(scene.sparsity).topology.positions.tolist() for algorithm in _engines(scene))
    expect(first == second, "two starts of the same seed differ in positions")


def _elsewhere(_: Subject, scene: Scene) -> None:
    one, other = outcomes(scene)
    if one is None or other is None:
        raise NotJudgedError("it was refused in another process")
    changed = [what for what in one if one[what] != other[what]]
    expect(not changed, f"in two processes that hash texts in other ways (PYTHONHASHSEED), {', '.join(changed)} differ")


def _can_be_told(subject: Subject) -> bool:
    return can_be_told(subject.sample)


def _engines(scene: Scene) -> tuple[Engine, Engine]:
    return engine(scene), engine(scene)


def _grows_at_random(subject: Subject) -> bool:
    """Whether the strategy that chooses positions asks for draws; where none does, the engine draws them."""
    decides = topmost(subject.sample, "grow")
    return decides is None or "random" in inspect.signature(hooks_of(decides)["grow"]).parameters


_ROOMY = Layout.of({"first": (40, 50), "second": (2000,)})
_WEIGHTS = 400


@st.composite
def _roomy(draw: DrawFn, subject: Subject) -> Scene:
    """Room for so many weights that where two draws are alike, nothing was drawn."""
    scene = draw(scenes(subject))
    draws = np.random.default_rng(scene.noise)
    values = draws.standard_normal(_WEIGHTS) * draws.choice([1e-5, 1.0], _WEIGHTS)
    return attrs.evolve(
        scene,
        layout=_ROOMY,
        positions=np.sort(draws.choice(_ROOMY.size, _WEIGHTS, replace=False)).astype(_ROOMY.position_dtype),
        values=values.astype(scene.values.dtype),
        gradients={name: draws.standard_normal(2000) for name in _ROOMY.names} if scene.gradients else {},
    )


def _draws_anew(_: Subject, scene: Scene) -> None:
    later = attrs.evolve(scene.clock, updates=scene.clock.updates + 1)
    others = {
        "another seed": attrs.evolve(scene, seed=scene.seed + 1),
        "the next update": attrs.evolve(scene, clock=later),
    }
    grown = _grown(scene)
    for what, other in others.items():
        # by chance alone, ten of thousands are the same once in 10^20 times
        expect(len(grown) < 10 or grown != _grown(other), f"{what} grows {len(grown)} weights at the same positions")


def _grown(scene: Scene) -> Sequence[int]:
    grown: list[int] = updated(scene).reallocation.grown_positions.tolist()
    return grown


_OTHER_SEEDS = 3
"""By chance alone a start at one of a thousand positions is the same for all of them once in 10^9 times."""


def _starts_anew(_: Subject, scene: Scene) -> None:
    start = _start(scene)
    others = [_start(attrs.evolve(scene, seed=scene.seed + more)) for more in range(1, _OTHER_SEEDS + 1)]
    expect(
        len(start) == _ROOMY.size or any(other != start for other in others),
        f"{_OTHER_SEEDS} other seeds start with {len(start)} weights at the same positions of {_ROOMY.size}; "
        "where that is meant, declare start='fixed'",
    )


def _start(scene: Scene) -> Sequence[int]:
    positions: list[int] = engine(scene).start(scene.sparsity, clock=scene.clock).topology.positions.tolist()
    return positions


def _may_start_anew(subject: Subject) -> bool:
    return declared(subject, subject.sample, "initial_topology").start != "fixed"


DRAWS = (
    Promise("deterministic", "the same seed gives the same run, whatever else is running", scenes, _twice, share=0.5),
    Promise(
        "processes", "another process takes the same decisions", scenes, _elsewhere, applies=_can_be_told, share=0.2
    ),
    Promise(
        "seeded",
        "where growth is random, another seed and another update grow at other positions",
        _roomy,
        _draws_anew,
        applies=_grows_at_random,
        share=0.3,
    ),
    Promise(
        "seeded-start",
        "another seed starts at other positions, unless at all of them or where the start is declared to be fixed",
        _roomy,
        _starts_anew,
        applies=_may_start_anew,
        share=0.1,
    ),
)
