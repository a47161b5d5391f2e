"""Draws: a function of the seed and of what they are for, and of nothing else."""

import atexit
import inspect
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import IO, cast

import attrs
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from sparsecore.engine.engine import Engine
from sparsecore.engine.topology import Layout
from sparsecore.testing.promises import NotJudgedError, Promise, expect
from sparsecore.testing.runs import begun, differences, engine, run, updated
from sparsecore.testing.scenes import Scene, scenes
from sparsecore.testing.stacks import Stack, Subject, declared, hooks_of, topmost

_HASH_SEEDS = ("1", "2")


class Process:
    """A Python process that is asked for the outcome of one scene after another."""

    def __init__(self, hash_seed: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sparsecore.testing.outcomes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        # both are pipes, as asked for
        self._stdin, self._stdout = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        atexit.register(self.close)

    def first_result(self, told: bytes) -> None:
        """Begin with this."""
        self._stdin.write(told)
        self._stdin.flush()

    def answer(self) -> Mapping[str, str] | None:
        """Digests of what came of it by what they are of; None where it was refused."""
        answer: Mapping[str, str] | None = pickle.load(self._stdout)
        return answer

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@cache
def processes() -> tuple[Process, ...]:
    """One for each way to hash; they are started once, and end with this process."""
    return tuple(map(Process, _HASH_SEEDS))


def can_be_told(stack: Stack) -> bool:
    """Whether another process can have these strategies: they can be pickled, and are of modules that it can load."""
    try:
        pickle.dumps(stack)
    except Exception:  # classes within functions, open files and whatever else cannot be written down
        return False
    return "__main__" not in _files(stack)


def outcomes(scene: Scene) -> list[Mapping[str, str] | None]:
    """The outcome of the scene in each process."""
    told = pickle.dumps((_files(scene.stack), pickle.dumps(scene)))
    for process in processes():
        process.first_result(told)
    return [process.answer() for process in processes()]


def _files(stack: Stack) -> dict[str, str | None]:
    """The files of the strategies' modules, by the modules' names."""
    names = {type(plugin).__module__ for plugin in stack.values()}
    return {name: getattr(sys.modules[name], "__file__", None) for name in sorted(names)}


_STEPS = 6


def _twice(_: Subject, scene: Scene) -> None:
    one, other = (run(algorithm, scene, begun(algorithm, scene), range(_STEPS)) for algorithm in _engines(scene))
    trouble = differences(one, other)
    expect(trouble is None, f"two runs of the same seed differ in {trouble}")
    first, second = (algorithm.start(scene.sparsity).topology.host_positions.tolist() for algorithm in _engines(scene))
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


_SIDES = (100, 400, 2000)


@st.composite
def _roomy(draw: DrawFn, subject: Subject) -> Scene:
    """Two tensors with a quarter of their positions active: room for growth that is hardly twice the same by chance."""
    scene = draw(scenes(subject))
    side = draw(st.sampled_from(_SIDES))
    layout, draws = Layout.of({"first": (side // 10, 10), "second": (side,)}), np.random.default_rng(scene.noise)
    weights = side // 2
    values = draws.standard_normal(weights) * draws.choice([1e-5, 1.0], weights)
    return attrs.evolve(
        scene,
        layout=layout,
        positions=np.sort(draws.choice(layout.size, weights, replace=False)).astype(layout.position_dtype),
        values=values.astype(scene.values.dtype),
        gradients={name: draws.standard_normal(side) for name in layout.names} if scene.gradients else {},
        past=0,
    )


_OTHER_DRAWS = 3
"""What is drawn anew is so often the same by chance once in 10^9 times, where there are a thousand ways."""

_WAYS = 10**3


def _draws_anew(subject: Subject, scene: Scene) -> None:
    if declared(subject, scene.stack, "grow").growth == "fixed":
        return
    reallocation = updated(scene).reallocation
    room, counts = reallocation.before.room.tolist(), reallocation.grown.tolist()
    if math.prod(map(math.comb, room, counts)) < _WAYS:
        return
    for what, others in (("another seed", _other_seeds(scene)), ("another update", _other_updates(scene))):
        expect(
            _differs(_grown, scene, others) or _is_a_border(subject, scene, _grown),
            f"{what} grows {sum(counts)} weights at the same positions, with any hyperparameters; where that is meant, "
            "declare growth='fixed'",
        )


def _other_seeds(scene: Scene) -> list[Scene]:
    return [attrs.evolve(scene, seed=scene.seed + more) for more in range(1, _OTHER_DRAWS + 1)]


def _other_updates(scene: Scene) -> list[Scene]:
    later = [attrs.evolve(scene.clock, updates=scene.clock.updates + more) for more in range(1, _OTHER_DRAWS + 1)]
    return [attrs.evolve(scene, clock=clock) for clock in later]


def _differs(outcome: Callable[[Scene], Sequence[int]], scene: Scene, others: Sequence[Scene]) -> bool:
    first = outcome(scene)
    return any(outcome(other) != first for other in others)


def _is_a_border(subject: Subject, scene: Scene, outcome: Callable[[Scene], Sequence[int]]) -> bool:
    """Whether it is for the hyperparameters that nothing is drawn here: with others the outcome differs by the seed."""
    for stack in (subject.sample, *subject.others):
        other = attrs.evolve(scene, stack=stack)
        try:
            draws = _differs(outcome, other, _other_seeds(other))
            draws = draws and (outcome is not _grown or _differs(outcome, other, _other_updates(other)))
        except Exception:  # these hyperparameters do not suit this example
            continue
        if draws:
            return True
    return False


def _grown(scene: Scene) -> Sequence[int]:
    grown: list[int] = updated(scene).reallocation.grown_weights.host_positions.tolist()
    return grown


def _starts_anew(subject: Subject, scene: Scene) -> None:
    start = _start(scene)
    expect(
        len(start) == scene.layout.size
        or _differs(_start, scene, _other_seeds(scene))
        or _is_a_border(subject, scene, _start),
        f"{_OTHER_DRAWS} other seeds start with {len(start)} weights at the same positions of {scene.layout.size}; "
        "where that is meant, declare start='fixed'",
    )


def _start(scene: Scene) -> Sequence[int]:
    positions: list[int] = engine(scene).start(scene.sparsity, clock=scene.clock).topology.host_positions.tolist()
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
        "where growth is random, another seed and another update grow at other positions, unless declared to be fixed",
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
