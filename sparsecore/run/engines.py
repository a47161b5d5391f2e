"""The engine of an experiment."""

from sparsecore.engine.arrays import Arrays
from sparsecore.engine.engine import Engine
from sparsecore.engine.topology import Layout
from sparsecore.experiment.experiment import Experiment


def engine_of(experiment: Experiment, layout: Layout, arrays: Arrays) -> Engine:
    """The experiment's strategies over this layout.

    Raises:
        InputError: a strategy cannot be registered, or does not fit the layout.
    """
    return Engine(
        layout,
        {strategy.name: strategy.plugin for strategy in experiment.strategies},
        arrays=arrays,
        seed=experiment.seed,
        regrow_pruned=experiment.reallocation.regrow_pruned,
        units=experiment.reallocation.units,
    )
