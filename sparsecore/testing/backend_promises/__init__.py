"""All promises of a backend, in the order in which they are told."""

from sparsecore.testing.backend_promises.array_verbs import VERBS
from sparsecore.testing.backend_promises.learner import GRADIENTS, LEARNING
from sparsecore.testing.backend_promises.optimizer_step import DESCENT
from sparsecore.testing.promises import Promise

BACKEND_PROMISES: tuple[Promise, ...] = (*VERBS, *GRADIENTS, *DESCENT, *LEARNING)
