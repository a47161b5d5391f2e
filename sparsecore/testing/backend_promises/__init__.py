"""All promises of a backend, in the order in which they are told."""

from sparsecore.testing.backend_promises.descent import DESCENT
from sparsecore.testing.backend_promises.gradients import GRADIENTS
from sparsecore.testing.backend_promises.learning import LEARNING
from sparsecore.testing.backend_promises.verbs import VERBS
from sparsecore.testing.promises import Promise

BACKEND_PROMISES: tuple[Promise, ...] = (*VERBS, *GRADIENTS, *DESCENT, *LEARNING)
