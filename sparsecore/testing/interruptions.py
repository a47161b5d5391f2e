"""A run with everything that may happen to it, and beside it the same run without any interruption."""

from collections.abc import Callable

import attrs

from sparsecore.engine import Engine
from sparsecore.soundness import trouble_with_topology
from sparsecore.testing.promises import expect
from sparsecore.testing.runs import Moment, begun, differences, engine, forced, started, trained
from sparsecore.testing.saving import resumed, saved
from sparsecore.testing.scenes import Scene
from sparsecore.testing.stacks import topmost


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
        trouble = trouble_with_topology(state.topology, scene.layout)
        expect(trouble is None, f"the run is at {trouble}")
        size, weights = state.topology.size, len(scene.positions)
        expect(size == weights or topmost(scene.stack, "target_size"), f"there are {size} weights, not {weights}")
        expect(
            len(values) == size and state.topology.arrays.all_finite(values), "values are not one a weight, and finite"
        )

    def _both(self, act: Callable[[_Run], Moment]) -> None:
        first, second = act(self._run), act(self._beside)
        self._run, self._beside = self._run.at(first), self._beside.at(second)
