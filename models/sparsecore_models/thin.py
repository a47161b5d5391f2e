"""Thin dense networks: fewer channels in place of fewer weights, a baseline of Mostafa & Wang (2019).

A thin network has at most as many trained parameters (weights, batch norm, biases) as the original network has at
sparsity ``model.sparsity``. Channels are added one at a time to the layer with the smallest fraction of its original
channels, as long as any layer can have another one; so all layers are thinner by about the same factor, the square root
of the density.
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
"""The channels or units of each layer that may be thinner."""


@attrs.frozen
class ThinWideResNet:
    """A dense wide residual network with fewer channels, as large as the original one is at a sparsity.

    Attributes:
        depth: 6n+4 for n blocks per group.
        width: the factor of the original channels 16, 32, 64 of the groups.
        sparsity: the sparsity of the sparse network of the same size.

    Raises:
        InputError: there is no wide residual network of this depth or width.
    """

    depth: int = 28
    width: int = 2
    sparsity: float = matched_sparsity()

    def __attrs_post_init__(self) -> None:
        WideResNet(self.depth, self.width)  # checks depth and width

    @classmethod
    def from_sizes(cls, depth: int, width: int) -> "ThinWideResNet":
        """The network named 'thin-wrn-DEPTH-WIDTH'.

        Args:
            depth: 6n+4 for n blocks per group.
            width: the factor of the original channels.

        Raises:
            InputError: there is no wide residual network of this depth or width.
        """
        return cls(depth, width)

    def check_sparsity(self, sparsity: float) -> None:
        """Check that the run keeps all weights: the network is as small as :attr:`sparsity` makes it.

        Args:
            sparsity: the run's.

        Raises:
            InputError: it is not 0.
        """
        check_all_weights(sparsity)

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        """The original parameters with fewer channels in the first convolution and in the three groups.

        Args:
            image_shape: height, width and channels of the images.
            classes: the number of classes.

        Raises:
            InputError: with one channel a layer the network is too large already.
        """
        original = self._original
        return thinned(
            lambda some: original.parameters_of(some, image_shape, classes), original.channels, self.sparsity
        )

    def forward(self, ops: Operations, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Logits of (batch, classes)."""
        return self._original.forward(ops, parameters, images)

    @property
    def _original(self) -> WideResNet:
        return WideResNet(self.depth, self.width)


@attrs.frozen
class ThinLeNet:
    """A dense multilayer perceptron with smaller hidden layers, as large as the original one is at a sparsity.

    Attributes:
        hidden: sizes of the original hidden layers.
        sparsity: the sparsity of the sparse network of the same size.

    Raises:
        InputError: a hidden layer has no unit.
    """

    hidden: tuple[int, ...] = attrs.field(default=(300, 100), converter=as_sizes)
    sparsity: float = matched_sparsity()

    def __attrs_post_init__(self) -> None:
        LeNet(self.hidden)  # checks the sizes

    @classmethod
    def from_sizes(cls, *hidden: int) -> "ThinLeNet":
        """The network named 'thin-lenet-SIZE-SIZE'.

        Args:
            hidden: units of each hidden layer of the original, from the input on.

        Raises:
            InputError: a hidden layer has no unit.
        """
        return cls(hidden)

    def check_sparsity(self, sparsity: float) -> None:
        """Check that the run keeps all weights: the network is as small as :attr:`sparsity` makes it.

        Args:
            sparsity: the run's.

        Raises:
            InputError: it is not 0.
        """
        check_all_weights(sparsity)

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        """The original parameters with fewer units in the hidden layers.

        Args:
            image_shape: height, width and channels of the images.
            classes: the number of classes.

        Raises:
            InputError: with one unit a layer the network is too large already.
        """
        return thinned(lambda some: LeNet(some).parameters(image_shape, classes), self.hidden, self.sparsity)

    def forward(self, ops: Operations, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Logits of (batch, classes)."""
        return LeNet(self.hidden).forward(ops, parameters, images)


def thinned(
    network: Callable[[Widths], tuple[Parameter, ...]], widths: Widths, sparsity: float
) -> tuple[Parameter, ...]:
    """The parameters of a network with fewer channels, at most as many as the original one has at a sparsity.

    Args:
        network: the parameters for given channels.
        widths: the original channels.
        sparsity: the sparsity, in [0, 1).

    Returns:
        The parameters of the widest network that adding one channel at a time arrives at.

    Raises:
        InputError: one channel per layer is too many already.
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
