"""All promises of a strategy, in the order in which they are told."""

from sparsecore.testing.promises import Promise
from sparsecore.testing.strategy_promises.agreement import AGREEMENT
from sparsecore.testing.strategy_promises.cost import COST
from sparsecore.testing.strategy_promises.hook_results import ANSWERS
from sparsecore.testing.strategy_promises.order import ORDER
from sparsecore.testing.strategy_promises.randomness import DRAWS
from sparsecore.testing.strategy_promises.resuming import MEMORIES
from sparsecore.testing.strategy_promises.updates import UPDATES

STRATEGY_PROMISES: tuple[Promise, ...] = (
    *ANSWERS,
    *UPDATES,
    *DRAWS,
    *ORDER,
    *MEMORIES,
    *COST,
    *AGREEMENT,
)
