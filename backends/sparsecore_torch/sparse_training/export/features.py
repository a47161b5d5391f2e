"""Values in the graph of a traced model: their channels, and which of these are constant."""

from collections.abc import Callable
from math import prod
from typing import Any

import attrs
import torch
from torch import Tensor, nn

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


class Space:
    """Channels that are cut together, with all tensors that have them.

    Args:
        size: the number of channels.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.is_fixed = False
        self._joined: Space | None = None

    @property
    def root(self) -> "Space":
        """The space that stands for all that were joined."""
        return self if self._joined is None else self._joined.root

    def join(self, other: "Space") -> None:
        """Make two spaces of the same size one."""
        one, two = self.root, other.root
        if one is not two:
            two._joined = one
            one.is_fixed |= two.is_fixed


@attrs.frozen(eq=False)
class Feature:
    """What is known of a value in the graph.

    Attributes:
        space: its channels; None for an input of the model, and for what is computed from one without layers.
        axis: the dimension of the channels.
        repeat: how many consecutive entries along it belong to a channel, as after flattening an image.
        constants: for each channel its value where it is the same for all inputs and pixels, else NaN; float64.
    """

    space: Space | None
    axis: int = 1
    repeat: int = 1
    constants: Tensor = attrs.field(factory=lambda: torch.zeros(0, dtype=torch.float64))

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "Feature":
        """Return the feature after a function of each entry."""
        if self.space is None:
            return self
        results = function(self.constants.clone())
        return attrs.evolve(
            self, constants=torch.where(self.constants.isnan() | ~results.isfinite(), torch.nan, results)
        )


INPUT = Feature(None)
"""A value without channels that could be cut."""


@attrs.frozen(eq=False)
class LayerUse:
    """A layer in the graph.

    Attributes:
        module: the layer, whose weights for constant channels are in its bias.
        before: the feature that it reads.
        after: the feature that it makes.
    """

    module: Layer
    before: Feature
    after: Feature

    @property
    def reads(self) -> Tensor:
        """Which of its output channels read which of its input channels, bool, (out, in)."""
        weight = self.module.weight.detach()
        return (weight.reshape(len(weight), -1, self.before.repeat * prod(weight.shape[2:])) != 0).any(2)


def fix(feature: Feature) -> None:
    """Keep all channels of a feature."""
    if feature.space is not None:
        feature.space.root.is_fixed = True


def shape_of(node: Any) -> tuple[int, ...]:
    """Return the shape of a node's value for the example."""
    return tuple(node.meta["tensor_meta"].shape)
