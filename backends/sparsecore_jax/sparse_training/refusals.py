"""What ``sparsify`` of JAX refuses, each by a sentence that names what exists, and what it warns of."""

from typing import Any

import numpy as np

from sparsecore.engine.groups import EngineGroups
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore.sparse_training.lost_weights import MANY_ZEROS, warn_of_loss
from sparsecore_jax.sparse_training.parameters import PyTree
from sparsecore_jax.sparse_training.tensors import SparseTensors, on_host


def check_optimizer(optimizer: Any) -> None:
    """Check that something is a transformation of optax.

    Raises:
        InputError: it is not.
    """
    if not callable(getattr(optimizer, "init", None)) or not callable(getattr(optimizer, "update", None)):
        raise InputError(
            f"optimizer is {optimizer!r}; expected a transformation of optax, such as optax.adam(1e-3), with functions "
            "init and update"
        )
    if hasattr(optimizer, "tx"):
        raise InputError(
            "optimizer is one of flax.nnx; give the transformation of optax, and make nnx.Optimizer of the one that "
            "sparsify returns"
        )


def check_distribution(distribution: Any) -> None:
    """Check that a distribution needs no forward pass, since parameters have none.

    Raises:
        InputError: it does.
    """
    if distribution == "flops":
        raise InputError(
            "distribution='flops' runs a model once to count, and sparsify of JAX has parameters alone; there are "
            "'uniform', 'er' and 'erk'"
        )


def check_strategies(engines: EngineGroups) -> None:
    """Check that no strategy has to act inside a jitted step.

    Args:
        engines: of the training.

    Raises:
        InputError: one does; the sentence says which strategies there are instead.
    """
    if engines.gradient_perturbers:
        raise InputError(
            f"the strategy {engines.gradient_perturbers[0]!r} changes gradients before the optimizer's step, which is "
            "inside a jitted function here; 'deepr' changes weights after the step"
        )
    if engines.has_silent_weights:
        raise InputError(
            "a strategy decides by which weights the network computes (topkast), which the parameters of a jitted step "
            "do not tell apart; 'rigl', 'set', 'dpr' and others compute with all active weights"
        )
    if engines.measured_tensors:
        raise InputError(
            "a strategy asks for the norms of layers' inputs (wanda-drop), which parameters and gradients do not "
            "tell; 'magnitude-drop' prunes by weights alone"
        )
    for engine in engines.engines:
        if engine.young_weights().changes_steps:
            raise InputError(
                f"the strategy {' + '.join(engine.strategies)} lets weights that have grown count their own steps of "
                "Adam, and optax keeps Adam's settings inside functions; 'mest' and 'rigl' take the optimizer's steps"
            )


def warn_of_lost_weights(tensors: SparseTensors, params: PyTree, topology: Topology) -> None:
    """Warn if parameters that seem to be trained sparsely lose nonzero weights to newly drawn positions.

    Args:
        tensors: the sparse tensors.
        params: their present values.
        topology: the active positions.
    """
    lost = {}
    for one, array, active in zip(tensors.leaves, tensors.of_tree(params), tensors.leaf_indices(topology), strict=True):
        host = on_host(array, None).reshape(-1)
        nonzero = int(np.count_nonzero(host))
        if nonzero and 1.0 - nonzero / host.size >= MANY_ZEROS:
            lost[one.name] = (nonzero - int(np.count_nonzero(host[active])), nonzero)
    warn_of_loss(lost, "to continue a training, give its state dict as start", stacklevel=3)
