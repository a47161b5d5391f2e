"""HashedNets (Chen et al. 2015): dense networks whose weights share values by a hash.

Each sparse tensor of the original network has all its D positions here, and N values, as many as it would have at
``model.sparsity``: position p computes with ξ(p)·values[h(p)]. Both networks train equally many parameters. The values
are initialized as the weights of the dense network are.

h and ξ are hashes of the position, evaluated again for each use: no index of D entries is stored, and a dense weight
exists only while its layer computes. The price is time: D hashes forward, and as many or twice as many backward. As in
the paper, the hash is not balanced: some values are used at more positions than others, and a fraction of about
exp(-1/density) at none (e⁻¹⁰ at sparsity 0.9, e⁻² at 0.5).
"""

from collections.abc import Iterable, Mapping

import attrs

from sparsecore.engine.randomness import Seed, as_seed
from sparsecore.learning.parameters import Parameter, tied
from sparsecore.learning.protocols import Operations, Tensor
from sparsecore_models.baselines import check_all_weights, matched_sparsity, sparse_counts
from sparsecore_models.lenet import LeNet, as_sizes
from sparsecore_models.wrn import WideResNet


@attrs.frozen
class HashedWideResNet:
    """A wide residual network whose 3x3 convolutions have fewer values than positions, shared by a hash.

    Attributes:
        depth: 6n+4 for n blocks per group.
        width: the factor of the channels 16, 32, 64 of the groups.
        sparsity: the sparsity of the sparse network that has as many values.
        hash_seed: the seed of the hash, which is independent of the run's.

    Raises:
        InputError: there is no wide residual network of this depth or width, or no such seed.
    """

    depth: int = 28
    width: int = 2
    sparsity: float = matched_sparsity()
    hash_seed: Seed = attrs.field(default=Seed(0), converter=as_seed)

    def __attrs_post_init__(self) -> None:
        WideResNet(self.depth, self.width)  # checks depth and width

    @classmethod
    def from_sizes(cls, depth: int, width: int) -> "HashedWideResNet":
        """The network named 'hashed-wrn-DEPTH-WIDTH'.

        Args:
            depth: 6n+4 for n blocks per group.
            width: the factor of the channels.

        Raises:
            InputError: there is no wide residual network of this depth or width.
        """
        return cls(depth, width)

    def check_sparsity(self, sparsity: float) -> None:
        """Check that the run keeps all values: the network is as small as :attr:`sparsity` makes it.

        Args:
            sparsity: the run's.

        Raises:
            InputError: it is not 0.
        """
        check_all_weights(sparsity)

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        """The parameters of the dense network, with the 3x3 convolutions in the blocks as vectors of values.

        Args:
            image_shape: height, width and channels of the images.
            classes: the number of classes.

        Returns:
            The parameters of :class:`WideResNet` by the same names; tied ones are (count,).
        """
        dense = WideResNet(self.depth, self.width).parameters(image_shape, classes)
        return tie_sparse_parameters(dense, self.sparsity, self.hash_seed)

    def forward(self, ops: Operations, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Logits of (batch, classes)."""
        return WideResNet(self.depth, self.width).forward(ops, parameters, images)


@attrs.frozen
class HashedLeNet:
    """A multilayer perceptron whose weight matrices have fewer values than positions, shared by a hash.

    Attributes:
        hidden: sizes of the hidden layers.
        sparsity: the sparsity of the sparse network that has as many values.
        hash_seed: the seed of the hash, which is independent of the run's.

    Raises:
        InputError: a hidden layer has no unit, or there is no such seed.
    """

    hidden: tuple[int, ...] = attrs.field(default=(300, 100), converter=as_sizes)
    sparsity: float = matched_sparsity()
    hash_seed: Seed = attrs.field(default=Seed(0), converter=as_seed)

    def __attrs_post_init__(self) -> None:
        LeNet(self.hidden)  # checks the sizes

    @classmethod
    def from_sizes(cls, *hidden: int) -> "HashedLeNet":
        """The network named 'hashed-lenet-SIZE-SIZE'.

        Args:
            hidden: units of each hidden layer, from the input on; none for a linear classifier.

        Raises:
            InputError: a hidden layer has no unit.
        """
        return cls(hidden)

    def check_sparsity(self, sparsity: float) -> None:
        """Check that the run keeps all values: the network is as small as :attr:`sparsity` makes it.

        Args:
            sparsity: the run's.

        Raises:
            InputError: it is not 0.
        """
        check_all_weights(sparsity)

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        """The parameters of the dense network, with the weight matrices as vectors of values.

        Args:
            image_shape: height, width and channels of the images.
            classes: the number of classes.

        Returns:
            The parameters of :class:`LeNet` by the same names; tied ones are (count,).
        """
        return tie_sparse_parameters(LeNet(self.hidden).parameters(image_shape, classes), self.sparsity, self.hash_seed)

    def forward(self, ops: Operations, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Logits of (batch, classes)."""
        return LeNet(self.hidden).forward(ops, parameters, images)


def tie_sparse_parameters(dense: Iterable[Parameter], sparsity: float, hash_seed: int) -> tuple[Parameter, ...]:
    """Tie the sparse parameters of a network to as many values as they have weights at a sparsity.

    Args:
        dense: the parameters of the network.
        sparsity: the sparsity, in [0, 1).
        hash_seed: the seed of the hash, 0 or more.

    Returns:
        The parameters in the same order; tied ones are (count,), the others are unchanged.
    """
    parameters = tuple(dense)
    counts = sparse_counts(parameters, sparsity)
    return tuple(tied(p, counts[p.name], hash_seed) if p.sparse else p for p in parameters)
