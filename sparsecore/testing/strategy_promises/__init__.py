"""All promises of a strategy, in the order in which they are checked."""

from sparsecore.testing.promises import Promise
from sparsecore.testing.strategy_promises.cost import COST
from sparsecore.testing.strategy_promises.hook_results import HOOK_RESULTS
from sparsecore.testing.strategy_promises.invariance import INVARIANCE
from sparsecore.testing.strategy_promises.randomness import RANDOMNESS
from sparsecore.testing.strategy_promises.resuming import RESUMING
from sparsecore.testing.strategy_promises.traced_updates import TRACED_UPDATES
from sparsecore.testing.strategy_promises.updates import UPDATES

STRATEGY_PROMISES: tuple[Promise, ...] = (
    *HOOK_RESULTS,
    *UPDATES,
    *TRACED_UPDATES,
    *RANDOMNESS,
    *RESUMING,
    *COST,
    *INVARIANCE,
)
