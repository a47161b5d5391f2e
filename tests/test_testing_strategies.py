"""The strategies that come with sparsecore keep every promise, whatever their hyperparameters."""

import pytest
from hypothesis import strategies as st

from sparsecore.testing import StrategyTests, hyperparameters, strategy_machine
from sparsecore_strategies.acdc import AlternatingCompression
from sparsecore_strategies.chts import CannistraciHebb
from sparsecore_strategies.deepr import DeepRewiring
from sparsecore_strategies.density_schedule import DensitySchedule
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.erk_start import ErkStart
from sparsecore_strategies.gmp import GradualPruning
from sparsecore_strategies.gradient_deepr import GradientDeepRewiring
from sparsecore_strategies.gradient_growth import GradientGrowth
from sparsecore_strategies.granet import GradualRegeneration
from sparsecore_strategies.gse import GuidedExploration
from sparsecore_strategies.iterative_pruning import IterativePruning
from sparsecore_strategies.magnitude_drop import MagnitudeDrop
from sparsecore_strategies.mest import MemoryEconomic
from sparsecore_strategies.momentum_growth import MomentumGrowth
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.set import SparseEvolution
from sparsecore_strategies.smet import MemoryEfficient
from sparsecore_strategies.snfs import SparseMomentum
from sparsecore_strategies.soft_deepr import SoftDeepRewiring
from sparsecore_strategies.static import Static
from sparsecore_strategies.topkast import TopKast
from sparsecore_strategies.wanda_drop import WandaDrop


def stacked(*classes):
    """Return a hypothesis strategy for stacks of these classes, bottom first, with any hyperparameters."""
    return st.tuples(*map(hyperparameters, classes))


class TestStatic(StrategyTests):
    strategy = Static()
    max_examples = 2


class TestDynamicReallocation(StrategyTests):
    strategy = hyperparameters(DynamicReallocation)
    max_examples = 5


@pytest.mark.slow
class TestSparseEvolution(StrategyTests):
    strategy = hyperparameters(SparseEvolution)
    max_examples = 5


@pytest.mark.slow
class TestWandaDropOnSparseEvolution(StrategyTests):
    strategy = stacked(SparseEvolution, WandaDrop)
    max_examples = 5


@pytest.mark.slow
class TestDensityScheduleOnSparseEvolution(StrategyTests):
    strategy = stacked(SparseEvolution, DensitySchedule)
    max_examples = 5


@pytest.mark.slow
class TestTopKast(StrategyTests):
    strategy = hyperparameters(TopKast)
    max_examples = 5


@pytest.mark.slow
class TestMemoryEfficient(StrategyTests):
    strategy = hyperparameters(MemoryEfficient)
    max_examples = 5


class TestDeepRewiring(StrategyTests):
    strategy = hyperparameters(DeepRewiring)
    max_examples = 3


@pytest.mark.slow
class TestDeepRewiringWithinTensors(StrategyTests):
    strategy = DeepRewiring(scope="tensor")
    max_examples = 5


@pytest.mark.slow
class TestGradientDeepRewiring(StrategyTests):
    strategy = hyperparameters(GradientDeepRewiring)
    max_examples = 3


@pytest.mark.slow
class TestIterativePruning(StrategyTests):
    strategy = hyperparameters(IterativePruning)
    max_examples = 3


@pytest.mark.slow
class TestSoftDeepRewiring(StrategyTests):
    strategy = hyperparameters(SoftDeepRewiring)
    max_examples = 5


class TestRigL(StrategyTests):
    strategy = hyperparameters(RigL)
    max_examples = 3


@pytest.mark.slow
class TestSparseMomentum(StrategyTests):
    strategy = hyperparameters(SparseMomentum)
    max_examples = 5


@pytest.mark.slow
class TestGradualPruning(StrategyTests):
    strategy = hyperparameters(GradualPruning)
    max_examples = 5


@pytest.mark.slow
class TestCannistraciHebb(StrategyTests):
    strategy = hyperparameters(CannistraciHebb)
    max_examples = 5


@pytest.mark.slow
class TestAlternatingCompression(StrategyTests):
    strategy = hyperparameters(AlternatingCompression)
    max_examples = 5


@pytest.mark.slow
class TestGradualRegeneration(StrategyTests):
    strategy = hyperparameters(GradualRegeneration)
    max_examples = 5


@pytest.mark.slow
class TestGuidedExploration(StrategyTests):
    strategy = hyperparameters(GuidedExploration)
    max_examples = 5


@pytest.mark.slow
class TestMemoryEconomic(StrategyTests):
    strategy = hyperparameters(MemoryEconomic)
    max_examples = 5


@pytest.mark.slow
class TestAStack(StrategyTests):
    strategy = (DynamicReallocation(target="20%", initial_threshold=0.2), SparseEvolution())
    max_examples = 5


@pytest.mark.slow
class TestPiecesOfGradients(StrategyTests):
    strategy = stacked(DynamicReallocation, MagnitudeDrop, GradientGrowth)
    max_examples = 5


@pytest.mark.slow
class TestPiecesOfMomentumAndStart(StrategyTests):
    strategy = stacked(MagnitudeDrop, MomentumGrowth, ErkStart)
    max_examples = 5


TestRunsOfDynamicReallocation = strategy_machine(hyperparameters(DynamicReallocation)).TestCase
TestRunsOfDeepRewiring = strategy_machine(hyperparameters(DeepRewiring)).TestCase
for machine in (TestRunsOfDynamicReallocation, TestRunsOfDeepRewiring):
    machine.settings = type(machine.settings)(machine.settings, max_examples=10, stateful_step_count=15)
