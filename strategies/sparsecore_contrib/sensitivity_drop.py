"""A piece to stack on other strategies: drop by weight and gradient (Nowak et al. 2023, "Fantastic weights")."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar, Literal

import attrs

from sparsecore.strategy import (
    Array,
    Clock,
    Cosine,
    Schedule,
    Topology,
    as_schedule,
    check_fraction,
    fraction_rounded_up,
    hookimpl,
    smallest_of_each,
)

_EPSILON = 1e-8
"""What the authors add to the number that a score is divided by."""


@attrs.frozen(eq=False)
class SensitivityDrop:
    """Drop the fraction of each tensor's weights with the lowest score; other strategies decide where as many grow.

    The score is made of a weight w and its gradient g in the latest step. The paper (arXiv:2306.12230) compares these
    criteria in dynamic sparse training, in which they had been used to prune trained or untrained networks.

    The authors' code adds 1 to the scores of 'sensitivity' and 'reciprocal' and 1e-5 to those of 'snip', so that masked
    weights come first when all entries are sorted; in float32 this makes equal what differs by less. Here only active
    weights are sorted, and nothing is added. As there, the number of weights to drop is rounded up; one weight of a
    tensor always stays.

    Attributes:
        criterion: 'snip', |w·g|, by how much the loss changes when the weight becomes zero (Lee et al. 2019);
            'sensitivity', |g| / |w|; or 'reciprocal', |w| / |g|.
        drop_fraction: a number that may change over the run; the paper's falls from 0.5 along a cosine.
    """

    tuning: ClassVar = {"criterion": ["snip", "sensitivity", "reciprocal"], "drop_fraction.start": (0.1, 0.6)}

    criterion: Literal["snip", "sensitivity", "reciprocal"] = attrs.field(
        default="snip", validator=attrs.validators.in_(("snip", "sensitivity", "reciprocal"))
    )
    drop_fraction: Schedule = attrs.field(default=Cosine(0.5), converter=as_schedule, validator=check_fraction)

    @hookimpl
    def prune(self, topology: Topology, values: Array, weight_gradient: Array, clock: Clock) -> Array:
        """Keep all but the fraction with the lowest scores.

        Returns:
            bool, (N,).
        """
        scores = _CRITERIA[self.criterion](abs(values), abs(weight_gradient))
        dropped = fraction_rounded_up(self.drop_fraction(clock), topology.counts)
        return topology.all_but(smallest_of_each(topology, scores, dropped))


_CRITERIA: Mapping[str, Callable[[Array, Array], Array]] = MappingProxyType(
    {
        "snip": lambda weights, gradients: weights * gradients,
        "sensitivity": lambda weights, gradients: gradients / (weights + _EPSILON),
        "reciprocal": lambda weights, gradients: weights / (gradients + _EPSILON),
    }
)
"""The scores, of |w| and |g|, each (N,)."""
