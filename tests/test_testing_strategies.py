"""The strategies that come with sparsecore keep every promise, whatever their hyperparameters."""

from sparsecore.testing import StrategyTests, hyperparameters, strategy_machine
from sparsecore_deepr import DeepRewiring
from sparsecore_dpr import DynamicReallocation
from sparsecore_set import SparseEvolution
from sparsecore_static import Static


class TestStatic(StrategyTests):
    strategy = Static()
    max_examples = 10


class TestDynamicReallocation(StrategyTests):
    strategy = hyperparameters(DynamicReallocation)
    max_examples = 40


class TestSparseEvolution(StrategyTests):
    strategy = hyperparameters(SparseEvolution)
    max_examples = 40


class TestDeepRewiring(StrategyTests):
    strategy = hyperparameters(DeepRewiring)
    max_examples = 40


class TestAStack(StrategyTests):
    strategy = (DynamicReallocation(target="20%", initial_threshold=0.2), SparseEvolution())
    max_examples = 20


TestRunsOfDynamicReallocation = strategy_machine(hyperparameters(DynamicReallocation)).TestCase
TestRunsOfDeepRewiring = strategy_machine(hyperparameters(DeepRewiring)).TestCase
for machine in (TestRunsOfDynamicReallocation, TestRunsOfDeepRewiring):
    machine.settings = type(machine.settings)(machine.settings, max_examples=10, stateful_step_count=15)
