"""A run of a strategy with everything that may happen to it, in any order: a state machine for hypothesis."""

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sparsecore.errors import InputError, NoRoomError
from sparsecore.testing.interruptions import TwoRuns
from sparsecore.testing.scenes import Scene, scenes
from sparsecore.testing.stacks import Given, Subject


def strategy_machine(given: Given) -> type[RuleBasedStateMachine]:
    """The class of state machines that run this strategy.

        TestMine = strategy_machine(MyStrategy()).TestCase

    A run is trained, updated, saved and loaded, and stopped and resumed, in any order; beside it goes one that is
    never saved nor stopped. After each step both are the same, sound, and of as many weights as they should be.

    Args:
        given: a strategy, a list or a dict of them, or a hypothesis strategy for one of these.
    """
    subject = Subject.of(given)

    class StrategyMachine(RuleBasedStateMachine):
        """A run of the strategy, and beside it the same without any interruption."""

        runs: TwoRuns

        @initialize(scene=scenes(subject))
        def start(self, scene: Scene) -> None:
            """Begin both runs."""
            try:
                self.runs = TwoRuns(scene)
            except InputError:
                assume(False)  # the strategy refuses this start, as it may

        @rule(number=st.integers(0, 2**16))
        def train(self, number: int) -> None:
            """A step of training, and what follows it."""
            try:
                self.runs.train(number)
            except NoRoomError:
                assume(False)  # more was pruned than can grow: an ending, but no mistake

        @rule()
        def update(self) -> None:
            """An update, due or not."""
            try:
                self.runs.update()
            except NoRoomError:
                assume(False)

        @rule()
        def save_and_load(self) -> None:
            """The moment as it comes back from a checkpoint."""
            self.runs.save_and_load()

        @rule()
        def stop_and_resume(self) -> None:
            """Strategies that have seen no run go on from the checkpoint."""
            self.runs.stop_and_resume()

        @invariant()
        def is_as_if_nothing_had_happened(self) -> None:
            """The run is sound, and the same as the one beside it."""
            self.runs.check()

    return StrategyMachine
