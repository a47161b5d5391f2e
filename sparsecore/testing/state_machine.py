"""A run of a strategy with everything that may happen to it, in any order: a state machine for hypothesis."""

from collections.abc import Callable

from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sparsecore.errors import DivergedError, InputError, NoRoomError
from sparsecore.testing.judging import Shrinking
from sparsecore.testing.promises import is_mistake
from sparsecore.testing.resuming import TwoRuns
from sparsecore.testing.scenes import Scene, scenes
from sparsecore.testing.stacks import Given, Subject

_REFUSALS = (InputError, NoRoomError, DivergedError)


def strategy_machine(given: Given) -> type[RuleBasedStateMachine]:
    """The class of state machines that run this strategy.

        TestMine = strategy_machine(MyStrategy()).TestCase

    A run is trained, updated, saved and loaded, and stopped and resumed, in any order; beside it goes one that is
    never saved nor stopped. After each step both are the same, sound, and of as many weights as they should be.

    Args:
        given: a strategy, a list or a dict of them, or a hypothesis strategy for one of these.
    """
    subject, shrinking = Subject.of(given), Shrinking()

    class StrategyMachine(RuleBasedStateMachine):
        """A run of the strategy, and beside it the same without any interruption."""

        scene: Scene
        runs: TwoRuns

        def __init__(self) -> None:
            super().__init__()
            self._acts: list[str] = []
            shrinking.begin()

        def _begin(self) -> None:
            self.runs = TwoRuns(self.scene)

        def _act(self, told: str, act: Callable[[TwoRuns], None]) -> None:
            self._judged(told, lambda: act(self.runs))

        def _judged(self, told: str, act: Callable[[], None]) -> None:
            """What the engine refuses, or the strategy at its start, is an ending, but no mistake."""
            self._acts.append(told)
            if not shrinking.is_worth_trying(*self._acts):
                return  # hypothesis wants every example to go on for as long as it did before
            try:
                act()
            except Exception as error:
                if isinstance(error, _REFUSALS) and not is_mistake(error, self.scene):
                    shrinking.ended(*self._acts)
                    reject()
                shrinking.found(*self._acts)
                raise

        @initialize(scene=scenes(subject))
        def start(self, scene: Scene) -> None:
            """Begin both runs."""
            self.scene = scene
            self._judged(repr(scene), self._begin)

        @rule(number=st.integers(0, 2**16))
        def train(self, number: int) -> None:
            """A step of training, and what follows it."""
            self._act(f"train {number}", lambda runs: runs.train(number))

        @rule()
        def update(self) -> None:
            """An update, due or not."""
            self._act("update", TwoRuns.update)

        @rule()
        def save_and_load(self) -> None:
            """The moment as it comes back from a checkpoint."""
            self._act("save and load", TwoRuns.save_and_load)

        @rule()
        def stop_and_resume(self) -> None:
            """Strategies that have seen no run go on from the checkpoint."""
            self._act("stop and resume", TwoRuns.stop_and_resume)

        @invariant()
        def is_as_if_nothing_had_happened(self) -> None:
            """The run is sound, and the same as the one beside it."""
            self._act("check", TwoRuns.check)

    return StrategyMachine
