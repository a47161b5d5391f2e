"""The floating-point operations of a run: those of an image's forward pass, and of all training so far."""

from sparsecore.engine.state import State
from sparsecore.learning.flops import ForwardPass, StepSums, flops
from sparsecore.learning.model_flops import model_forward_pass
from sparsecore.learning.protocols import with_ties
from sparsecore.run.logs import RunFlops
from sparsecore.run.setup import Setup


def flops_of(setup: Setup, state: State, sums: StepSums | None) -> RunFlops | None:
    """Return the operations of a run.

    Args:
        setup: the parts of the run that do not change.
        state: at its end.
        sums: over its steps; None where they are not known.

    Returns:
        The operations; None for a model that computes with more than shapes outside the operations of models, and for
        a module in which no product with a parameter is seen.
    """
    try:
        forward = _forward_pass(setup)
    except Exception:  # anybody's code, which may read what shapes do not tell; the run itself has succeeded
        return None
    engine = setup.engine
    silent = state.topology.counts - engine.visible_weights(state).counts if engine.has_silent_weights else None
    found = flops(forward, state.topology, sums, state.clock.step - setup.start.clock.step, silent)
    images = setup.experiment.training.batch_size
    training = None if found.training is None else images * found.training
    return RunFlops(found.inference, found.inference_dense, training, images * found.training_dense)


def _forward_pass(setup: Setup) -> ForwardPass:
    """Return the operations of one image's forward pass; a model with a method ``forward_pass`` counts them itself."""
    counted = getattr(setup.experiment.model.plugin, "forward_pass", None)
    if counted is not None:
        own: ForwardPass = counted(setup.images.shape, setup.images.classes)
        return own
    shapes = {parameter.name: parameter.shape for parameter in setup.parameters}
    model = with_ties(setup.experiment.model.plugin, setup.parameters)
    return model_forward_pass(model.forward, shapes, setup.images.shape, 1)
