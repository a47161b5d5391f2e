"""All that the kernels compute, by the function of torch's or the name of a tensor's method."""

from types import MappingProxyType

from sparsecore_torch.sparse_training.regions.lowering import Lowerings
from sparsecore_torch.sparse_training.regions.lowerings import (
    arithmetic,
    layers,
    normalization,
    pointwise,
    pooling,
    shapes,
)

LOWERINGS: Lowerings = MappingProxyType(
    {
        **arithmetic.LOWERINGS,
        **layers.LOWERINGS,
        **normalization.LOWERINGS,
        **pointwise.LOWERINGS,
        **pooling.LOWERINGS,
        **shapes.LOWERINGS,
    }
)
"""The lowerings of all kinds of functions."""
