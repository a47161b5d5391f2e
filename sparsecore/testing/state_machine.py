"""A hypothesis state machine that trains, updates, saves, loads, stops and resumes a run in any order."""

from collections.abc import Callable

from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sparsecore.errors import DivergedError, InputError, NoRoomError
from sparsecore.testing.promises import is_strategy_error
from sparsecore.testing.scenarios import Scenario, scenarios
from sparsecore.testing.search import ShrinkingLimit
from sparsecore.testing.strategy_promises.resuming import InterruptedRun
from sparsecore.testing.subjects import StrategyLike, StrategySubject

_REFUSALS = (InputError, NoRoomError, DivergedError)


def strategy_machine(strategy: StrategyLike) -> type[RuleBasedStateMachine]:
    """Make a class of state machines that run a strategy.

        TestMine = strategy_machine(MyStrategy()).TestCase

    A run is trained, updated, saved and loaded, and stopped and resumed, in any order, and compared with the same run
    without interruptions. After each step both are the same, sound, and have the number of weights they should have.

    Args:
        strategy: a strategy, a list or a dict of strategies, or a hypothesis strategy for one of these.

    Returns:
        A subclass of ``hypothesis.stateful.RuleBasedStateMachine``.

    Raises:
        PluginError: the strategy cannot be registered; the message says why.
    """
    subject, limit = StrategySubject.of(strategy), ShrinkingLimit()

    class StrategyMachine(RuleBasedStateMachine):
        """Runs the strategy with interruptions and without."""

        scenario: Scenario
        runs: InterruptedRun

        def __init__(self) -> None:
            super().__init__()
            self._steps: list[str] = []
            limit.begin()

        def _begin(self) -> None:
            self.runs = InterruptedRun(self.scenario)

        def _step(self, name: str, act: Callable[[InterruptedRun], None]) -> None:
            self._checked(name, lambda: act(self.runs))

        def _checked(self, name: str, act: Callable[[], None]) -> None:
            """Take a step; a refusal by the engine, or by the strategy at its start, ends the example."""
            self._steps.append(name)
            if not limit.is_worth_trying(*self._steps):
                return  # hypothesis expects an example to go on for as many steps as before
            try:
                act()
            except Exception as error:
                if isinstance(error, _REFUSALS) and not is_strategy_error(error, self.scenario):
                    limit.ended(*self._steps)
                    reject()
                limit.broken(*self._steps)
                raise

        @initialize(scenario=scenarios(subject))
        def start(self, scenario: Scenario) -> None:
            """Begin both runs."""
            self.scenario = scenario
            self._checked(repr(scenario), self._begin)

        @rule(number=st.integers(0, 2**16))
        def train(self, number: int) -> None:
            """Take a step of training, and the update after it if one is due."""
            self._step(f"train {number}", lambda runs: runs.train(number))

        @rule()
        def update(self) -> None:
            """Perform an update, whether or not it is due."""
            self._step("update", InterruptedRun.update)

        @rule()
        def save_and_load(self) -> None:
            """Save the run and load it into the same engine."""
            self._step("save and load", InterruptedRun.save_and_load)

        @rule()
        def stop_and_resume(self) -> None:
            """Save the run and load it into a new engine."""
            self._step("stop and resume", InterruptedRun.stop_and_resume)

        @invariant()
        def is_as_without_interruptions(self) -> None:
            """Check that the run is sound and the same as the one without interruptions."""
            self._step("check", InterruptedRun.check)

    return StrategyMachine
