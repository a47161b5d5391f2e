"""The backward pass of a training step, with the gradients that strategies ask for, by any learner."""

from typing import Any

from sparsecore.data.images import Batch
from sparsecore.engine.gradients import StepGradients
from sparsecore.engine.step import StepPlan
from sparsecore.learning.protocols import Learner


def backward(learner: Learner, batch: Batch, plan: StepPlan) -> StepGradients:
    """Compute the gradients of a step, and return those that strategies ask for.

    A learner without ``backward_at`` (:class:`sparsecore.learning.protocols.Learner`) computes dense gradients, from
    which the engine takes those of candidates.

    Args:
        learner: the network.
        batch: the training images.
        plan: what the strategies do at this step.

    Returns:
        The gradients, valid after the optimizer's step; None for those that are not asked for, or are in the dense
        ones.
    """
    backward_at: Any = getattr(learner, "backward_at", None)
    dense = of_candidates = None
    if plan.wants_gradient or (plan.candidates is not None and backward_at is None):
        dense = learner.backward(batch, dense=True)
    elif plan.candidates is not None:
        of_candidates = backward_at(batch, plan.candidates)
    else:
        learner.backward(batch)
    of_weights = None
    if plan.wants_weight_gradient:  # a copy, as the optimizer's step may write to it
        of_weights = plan.state.topology.arrays.concatenate([learner.weight_gradient])
    return StepGradients(dense, of_weights, plan.candidates, of_candidates)
