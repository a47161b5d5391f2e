"""Thin dense networks: with fewer channels in place of fewer weights, a baseline of Mostafa & Wang.

A thin network has at most as many trained parameters as its sister has at sparsity ``model.sparsity``: weights, batch
norm, biases, all that the optimizer moves. Channels are given out one at a time, to the layer that has the smallest
share of its sister's, for as long as there is one that can have another; so all layers are thinner by about the same
factor, the square root of the density, and what is too little for a channel of a large layer goes to the others.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import attrs

from sparsecore.errors import InputError
from sparsecore.learning.parameters import Parameter
from sparsecore.learning.protocols import Operations, Tensor
from sparsecore_models.baselines import check_all_weights, matched_sparsity, sparse_size, trained_size
from sparsecore_models.lenet import LeNet, as_sizes
from sparsecore_models.wrn import WideResNet

Widths: TypeAlias = Sequence[int]
"""Channels or units of each layer whose number is free."""


@attrs.frozen(eq=False)
class ThinWideResNet:
    """A wide residual network with fewer channels: the parameters of a sparse one, all of them in use.

    Attributes:
        depth: 6n+4 for n blocks a group.
        width: of the sister, a factor on the channels 16, 32, 64 of the groups.
        sparsity: of the sister that it is as large as.
    """

    depth: int = 28
    width: int = 2
    sparsity: float = matched_sparsity()

    def __attrs_post_init__(self) -> None:
        WideResNet(self.depth, self.width)  # refuses what is no depth or width

    @classmethod
    def from_sizes(cls, depth: int, width: int) -> "ThinWideResNet":
        """The network that 'thin-wrn-DEPTH-WIDTH' names."""
        return cls(depth, width)

    def check_sparsity(self, sparsity: float) -> None:
        """Raise an :class:`InputError` where a run would have it pruned."""
        check_all_weights(sparsity)

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        """Those of the sister with fewer channels in the first convolution and in the three groups."""
        sister = self._sister
        return thinned(lambda some: sister.parameters_of(some, image_shape, classes), sister.channels, self.sparsity)

    def forward(self, ops: Operations, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Logits of (batch, classes)."""
        return self._sister.forward(ops, parameters, images)

    @property
    def _sister(self) -> WideResNet:
        return WideResNet(self.depth, self.width)


@attrs.frozen(eq=False)
class ThinLeNet:
    """A multilayer perceptron with smaller hidden layers: the parameters of a sparse one, all of them in use.

    Attributes:
        hidden: sizes of the sister's hidden layers.
        sparsity: of the sister that it is as large as.
    """

    hidden: tuple[int, ...] = attrs.field(default=(300, 100), converter=as_sizes)
    sparsity: float = matched_sparsity()

    def __attrs_post_init__(self) -> None:
        LeNet(self.hidden)  # refuses what is no size

    @classmethod
    def from_sizes(cls, *hidden: int) -> "ThinLeNet":
        """The network that 'thin-lenet-SIZE-SIZE' names."""
        return cls(hidden)

    def check_sparsity(self, sparsity: float) -> None:
        """Raise an :class:`InputError` where a run would have it pruned."""
        check_all_weights(sparsity)

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        """Those of the sister with fewer units in the hidden layers."""
        return thinned(lambda some: LeNet(some).parameters(image_shape, classes), self.hidden, self.sparsity)

    def forward(self, ops: Operations, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Logits of (batch, classes)."""
        return LeNet(self.hidden).forward(ops, parameters, images)


def thinned(
    network: Callable[[Widths], tuple[Parameter, ...]], widths: Widths, sparsity: float
) -> tuple[Parameter, ...]:
    """The parameters of a network with fewer channels, no more than with these widths at this sparsity.

    Raises:
        InputError: one channel a layer is too many already.
    """
    most = sparse_size(network(widths), sparsity)
    thin = [1] * len(widths)
    if trained_size(network(thin)) > most:
        raise InputError(
            f"at sparsity {sparsity} the network has {most:,} parameters, and with one channel a layer it would have "
            f"{trained_size(network(thin)):,}: a lower model.sparsity is needed"
        )
    growing = list(range(len(widths)))
    while growing:
        layer = min(growing, key=lambda layer: (thin[layer] + 0.5) / widths[layer])
        wider = [count + (other == layer) for other, count in enumerate(thin)]
        if wider[layer] <= widths[layer] and trained_size(network(wider)) <= most:
            thin = wider
        else:
            growing.remove(layer)
    return network(thin)
