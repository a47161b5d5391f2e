"""A moment of a run, saved as a checkpoint is and taken up again."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from numpy.typing import NDArray

from sparsecore.engine.arrays import Arrays
from sparsecore.engine.engine import Engine
from sparsecore.engine.state import State
from sparsecore.engine.topology import Topology
from sparsecore.engine.validation import topology_error
from sparsecore.run.checkpoint import Checkpoint, from_checkpoint, to_checkpoint
from sparsecore.testing.promises import expect
from sparsecore.testing.runs import Moment, begun, differences, engine, forced, started, trained
from sparsecore.testing.scenes import Scene
from sparsecore.testing.stacks import topmost


class _Held:
    """The part of a learner that a checkpoint asks for: it holds the values."""

    def __init__(self, values: Any, arrays: Arrays) -> None:
        self.values, self._arrays = values, arrays

    def state(self) -> dict[str, NDArray[Any]]:
        """The values."""
        return {"values": self._arrays.to_numpy(self.values).copy()}

    def other_parameters(self) -> dict[str, NDArray[Any]]:
        """No others."""
        return {}

    def load_state(self, topology: Topology, state: Mapping[str, NDArray[Any]]) -> None:  # noqa: ARG002
        """Take up the values."""
        self.values = self._arrays.from_numpy(state["values"])


@attrs.frozen
class Saved:
    """The contents of a checkpoint's file: scalars as JSON, arrays as safetensors."""

    facts: str
    arrays: bytes


def saved(moment: Moment) -> Saved:
    """The moment as a run would save it."""
    from safetensors.numpy import save

    learner: Any = _Held(moment.values, moment.state.topology.arrays)
    checkpoint = to_checkpoint(moment.state, learner, {})
    return Saved(json.dumps(checkpoint.facts, sort_keys=True, allow_nan=False), save(dict(checkpoint.arrays)))


def resumed(algorithm: Engine, start: State, content: Saved) -> Moment:
    """The moment that was saved, in another engine.

    Args:
        algorithm: of the same strategies, which have seen no run.
        start: its state at the start of the run.
        content: what was saved.
    """
    from safetensors.numpy import load

    learner: Any = _Held(None, algorithm.arrays)
    state = from_checkpoint(Checkpoint(json.loads(content.facts), load(content.arrays)), start, learner)
    return Moment(state, learner.values)


@attrs.frozen(eq=False)
class _Run:
    """A run at a moment."""

    scene: Scene
    engine: Engine
    moment: Moment

    @classmethod
    def of(cls, scene: Scene) -> "_Run":
        """At its start, with strategies that have seen no run."""
        algorithm = engine(scene)
        return cls(scene, algorithm, begun(algorithm, scene))

    def at(self, moment: Moment) -> "_Run":
        """At another moment."""
        return attrs.evolve(self, moment=moment)


class TwoRuns:
    """A run that is saved, stopped and resumed, and one that is not. What changes is where they are."""

    def __init__(self, scene: Scene) -> None:
        self._run, self._beside = _Run.of(scene), _Run.of(scene)

    def train(self, number: int) -> None:
        """A step of training, drawn by its number, and what follows it."""
        self._both(lambda run: trained(run.engine, run.scene, run.moment, number))

    def update(self) -> None:
        """An update, due or not."""
        self._both(lambda run: forced(run.engine, run.scene, run.moment))

    def save_and_load(self) -> None:
        """The moment as it comes back from a checkpoint, in the same engine."""
        run = self._run
        self._run = run.at(resumed(run.engine, started(run.engine, run.scene).state, saved(run.moment)))

    def stop_and_resume(self) -> None:
        """Strategies that have seen no run go on from the checkpoint."""
        scene, algorithm = self._run.scene, engine(self._run.scene)
        moment = resumed(algorithm, started(algorithm, scene).state, saved(self._run.moment))
        self._run = _Run(scene, algorithm, moment)

    def check(self) -> None:
        """Both runs are the same, sound, and of as many weights as they should be.

        Raises:
            BrokenError: they are not.
        """
        scene, state, values = self._run.scene, self._run.moment.state, self._run.moment.values
        trouble = differences(self._run.moment, self._beside.moment)
        expect(trouble is None, f"a run that was saved, stopped and resumed differs in {trouble}")
        trouble = topology_error(state.topology, scene.layout)
        expect(trouble is None, f"the run is at {trouble}")
        size, weights = state.topology.size, len(scene.positions)
        expect(size == weights or topmost(scene.stack, "target_size"), f"there are {size} weights, not {weights}")
        expect(
            len(values) == size and state.topology.arrays.all_finite(values), "values are not one a weight, and finite"
        )

    def _both(self, act: Callable[[_Run], Moment]) -> None:
        first, second = act(self._run), act(self._beside)
        self._run, self._beside = self._run.at(first), self._beside.at(second)
