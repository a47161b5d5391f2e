"""A piece to stack on other strategies: drop the weights that change their outputs least (Wanda; Sun et al. 2024)."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import attrs
import numpy as np

from sparsecore.strategy import (
    Array,
    Clock,
    InputNorms,
    Piecewise,
    Schedule,
    Topology,
    as_schedule,
    check_fraction,
    count_in_groups,
    first_of_each_group,
    fraction_of,
    hookimpl,
    smallest_of_each,
)


@attrs.frozen(eq=False)
class WandaDrop:
    """Drop the fraction of the weights with the smallest |w|·‖x‖; other strategies decide where as many grow.

    ‖x‖ is the ℓ2 norm of the weight's input over the examples of the latest step: of a convolution that of its input
    channel over all pixels, for all kernel positions. In the paper it is that over a calibration set, and the pruned
    network is not trained.

    Attributes:
        drop_fraction: a number that may change over the run.
        scope: whether it is the fraction of the weights of each 'output' (the paper's) or of each 'tensor', rounded
            down.
    """

    drop_fraction: Schedule = attrs.field(default=Piecewise({0: 0.3}), converter=as_schedule, validator=check_fraction)
    scope: Literal["output", "tensor"] = attrs.field(
        default="output", validator=attrs.validators.in_(("output", "tensor"))
    )

    @hookimpl
    def prune(self, topology: Topology, values: Array, input_norms: InputNorms, clock: Clock) -> Array:
        """Keep all but the fraction with the smallest |w|·‖x‖.

        Returns:
            bool, (N,).
        """
        names = topology.layout.names
        scores = [_scores(topology, values, name, input_norms(name)) for name in names]
        return _SCOPES[self.scope](topology, topology.arrays.concatenate(scores), self.drop_fraction(clock))


def _scores(topology: Topology, values: Array, name: str, norms: Array) -> Array:
    """Return |w|·‖x‖ of the weights of a tensor."""
    layout, slots = topology.layout, topology.slots(name)
    outputs, inputs, kernel = _sides(layout.shapes[layout.index(name)])
    local = topology.positions[slots] - layout.offsets[layout.index(name)]
    groups = len(norms) // inputs
    group = local // (inputs * kernel) // (outputs // groups)
    return abs(values[slots]) * topology.arrays.take(norms, group * inputs + local // kernel % inputs)


def _sides(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the numbers of outputs, of inputs (of a group) and of kernel positions; a vector is one output."""
    return (1, shape[0], 1) if len(shape) == 1 else (shape[0], shape[1], math.prod(shape[2:]))


def _tensor(topology: Topology, scores: Array, fraction: float) -> Array:
    return topology.all_but(smallest_of_each(topology, scores, fraction_of(fraction, topology.counts)))


def _output(topology: Topology, scores: Array, fraction: float) -> Array:
    arrays, layout = topology.arrays, topology.layout
    survives = []
    for name, shape, offset in zip(layout.names, layout.shapes, layout.offsets, strict=False):
        slots, (_, inputs, kernel) = topology.slots(name), _sides(shape)
        outputs = (topology.positions[slots] - offset) // (inputs * kernel)
        # how many are dropped of each possible number of weights, so that the backend looks it up exactly
        dropped = fraction_of(fraction, np.arange(1 + min(inputs * kernel, len(outputs))))
        most = arrays.take(arrays.from_numpy(dropped.copy()), count_in_groups(outputs, outputs, arrays))
        order = arrays.argsort(scores[slots])
        goes = first_of_each_group(arrays.take(outputs, order), arrays.take(most, order), arrays)
        survives.append(arrays.put(goes, order, ~goes))
    return arrays.concatenate(survives)


_SCOPES: Mapping[str, Callable[[Topology, Array, float], Array]] = MappingProxyType(
    {"output": _output, "tensor": _tensor}
)
"""Functions that return which weights survive."""
