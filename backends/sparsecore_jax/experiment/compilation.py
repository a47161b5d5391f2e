"""The functions of a network, compiled once for all learners of the same network on the same devices.

Positions are arguments of what is compiled, so that no update of the topology compiles anything again, unless it
changes the number of weights, which is a shape.
"""

from functools import lru_cache, partial
from typing import Any

import attrs
import jax

from sparsecore_jax.experiment.devices import Placement
from sparsecore_jax.experiment.network import JaxNetwork

_KEPT = 32
"""How many networks stay compiled in a process."""


@attrs.frozen(eq=False)
class CompiledNetwork:
    """The functions of a :class:`sparsecore_jax.experiment.network.JaxNetwork`, compiled by JAX at their first call.

    Attributes:
        step: a whole training step; the buffers before it are given up.
        gradients: the gradients of a batch.
        optimizer_step: an optimizer step; the buffers before it are given up.
        evaluation: the totals of a batch.
    """

    step: Any
    gradients: Any
    optimizer_step: Any
    evaluation: Any

    @classmethod
    def of(cls, network: JaxNetwork, placement: Placement) -> "CompiledNetwork":
        """Return the functions of a network, those of an equal one where there is one.

        Args:
            network: whose model may also be one that is equal to no other, and that cannot be hashed.
            placement: the devices.
        """
        try:
            hash(network)
        except TypeError:
            return _compiled(network, placement)
        return _shared(network, placement)


def _compiled(network: JaxNetwork, placement: Placement) -> CompiledNetwork:
    # each result is where the buffers are: without saying so, JAX may leave some of it in parts on several devices
    everywhere = placement.everywhere
    return CompiledNetwork(
        jax.jit(partial(JaxNetwork.step, network), donate_argnums=0, out_shardings=everywhere),
        jax.jit(
            partial(JaxNetwork.gradients, network), static_argnames=("dense", "measured"), out_shardings=everywhere
        ),
        jax.jit(partial(JaxNetwork.optimizer_step, network), donate_argnums=0, out_shardings=everywhere),
        jax.jit(partial(JaxNetwork.evaluation, network), out_shardings=everywhere),
    )


_shared = lru_cache(_KEPT)(_compiled)
