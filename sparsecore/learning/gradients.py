"""The backward pass of a training step, with what strategies ask for: gradients and norms of inputs, by any learner."""

from typing import Any

from sparsecore.data.images import Batch
from sparsecore.engine.arrays import InputNorms
from sparsecore.engine.gradients import StepGradients
from sparsecore.engine.step import StepPlan
from sparsecore.errors import InputError
from sparsecore.learning.protocols import Learner


def backward(learner: Learner, batch: Batch, plan: StepPlan) -> StepGradients:
    """Compute the gradients of a step, and return what strategies ask for.

    A learner without ``backward_at`` (:class:`sparsecore.learning.protocols.Learner`) computes dense gradients, from
    which the engine takes those of candidates.

    Args:
        learner: the network.
        batch: the training images.
        plan: what the strategies do at this step.

    Returns:
        The gradients, valid after the optimizer's step; None for those that are not asked for, or are in the dense
        ones.

    Raises:
        InputError: a strategy asks for the norms of inputs, and the learner cannot measure them.
    """
    input_norms = _measured_by(learner) if plan.wants_input_norms else None
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
    return StepGradients(dense, of_weights, plan.candidates, of_candidates, input_norms=input_norms)


def _measured_by(learner: Learner) -> InputNorms:
    measure_inputs: Any = getattr(learner, "measure_inputs", None)
    if measure_inputs is None:
        raise InputError(
            "a strategy asks for the norms of the layers' inputs, and this backend cannot measure them: its learner "
            "has no method measure_inputs"
        )
    norms: InputNorms = measure_inputs()
    return norms
