"""What a strategy remembers is all that it remembers."""

from collections.abc import Callable
from functools import partial

import attrs
import numpy as np

from sparsecore.testing.promises import Promise, expect
from sparsecore.testing.resuming import TwoRuns, resumed, saved
from sparsecore.testing.runs import Moment, begun, differences, engine, run, started
from sparsecore.testing.scenes import Scene, scenes
from sparsecore.testing.stacks import Subject

_STEPS = 4


def _comes_back(_: Subject, scene: Scene) -> None:
    algorithm = engine(scene)
    start = begun(algorithm, scene)
    moment = run(algorithm, scene, start, range(_STEPS))
    trouble = differences(moment, resumed(algorithm, start.state, saved(moment)))
    expect(trouble is None, f"what was saved and read again differs in {trouble}")


def _goes_on(_: Subject, scene: Scene) -> None:
    algorithm = engine(scene)
    start = begun(algorithm, scene)
    half = run(algorithm, scene, start, range(_STEPS))
    content, whole = saved(half), run(algorithm, scene, half, range(_STEPS, 2 * _STEPS))
    _somebody_else(scene)
    taken_up = engine(scene)
    again = resumed(taken_up, started(taken_up, scene).state, content)
    finished = run(taken_up, scene, again, range(_STEPS, 2 * _STEPS))
    trouble = differences(whole, finished)
    expect(trouble is None, f"a run that was stopped after {_STEPS} steps and resumed ends with another {trouble}")


def _somebody_else(scene: Scene) -> Moment:
    """Another run in the same process, which leaves its traces in whatever is shared."""
    other = attrs.evolve(scene, seed=scene.seed + 1, noise=scene.noise + 1)
    algorithm = engine(other)
    return run(algorithm, other, begun(algorithm, other), range(_STEPS + 1))


def _survives_all(_: Subject, scene: Scene) -> None:
    """The state machine's steps, in an order drawn by the scene."""
    runs, draws = TwoRuns(scene), np.random.default_rng([scene.noise, 1])
    for number, choice in enumerate(draws.integers(0, 4, 3 * _STEPS)):
        acts: tuple[Callable[[], None], ...] = (
            partial(runs.train, number),
            runs.update,
            runs.save_and_load,
            runs.stop_and_resume,
        )
        acts[choice]()
        runs.check()


MEMORIES = (
    Promise("saving", "what was saved comes back the same", scenes, _comes_back, share=0.5),
    Promise("resume", "a run that was stopped and resumed ends as if it had not been", scenes, _goes_on, share=0.5),
    Promise(
        "any-order",
        "trained, updated, saved, loaded, stopped and resumed in any order, a run is the one that was left alone",
        scenes,
        _survives_all,
        share=0.5,
    ),
)
