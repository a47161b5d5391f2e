"""The test kit for strategies and backends; it needs hypothesis (the extra ``testing``)."""

from sparsecore.extras import require

require("hypothesis", "cattrs", "safetensors", extra="testing", purpose="sparsecore.testing")

from sparsecore.engine.declarations import Declares
from sparsecore.testing.generators import clocks, gradients, layouts, topologies, values
from sparsecore.testing.hyperparameters import hyperparameters
from sparsecore.testing.state_machine import strategy_machine
from sparsecore.testing.suites import BackendTests, StrategyTests

__all__ = [
    "BackendTests",
    "Declares",
    "StrategyTests",
    "clocks",
    "gradients",
    "hyperparameters",
    "layouts",
    "strategy_machine",
    "topologies",
    "values",
]
