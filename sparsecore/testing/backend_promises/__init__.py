"""All promises of a backend, in the order in which they are checked."""

from sparsecore.testing.backend_promises.array_operations import ARRAY_OPERATIONS
from sparsecore.testing.backend_promises.learner import GRADIENTS, LEARNING
from sparsecore.testing.backend_promises.optimizer_step import OPTIMIZER_STEP
from sparsecore.testing.promises import Promise

BACKEND_PROMISES: tuple[Promise, ...] = (*ARRAY_OPERATIONS, *GRADIENTS, *OPTIMIZER_STEP, *LEARNING)
