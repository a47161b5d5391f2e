"""HashedNets (Chen et al. 2015): dense networks whose weights share values, which is which by a hash.

Each tensor that would be sparse has all its D positions and N values, as many as it would have at ``model.sparsity``:
position p computes with ξ(p)·values[h(p)]. Trained are exactly as many parameters as of the sparse sister. The N values
start as the D weights of a dense network would, with their variance.

h and ξ are hashes of the position, evaluated anew in each layer and forgotten; there is no index of D entries. What is
kept has N entries, and one weight in its dense form lives as long as its layer computes. The price is time: D hashes
forward, and as many or twice as many backward. As in the paper the hash knows of no balance: some values serve at more
positions than others, and a share of about exp(-1/density) at none (e⁻¹⁰ at sparsity 0.9, e⁻² at 0.5).
"""

from collections.abc import Iterable, Mapping

import attrs

from sparsecore.learning.parameters import Parameter, tied
from sparsecore.learning.protocols import Operations, Tensor
from sparsecore_models.baselines import check_all_weights, matched_sparsity, sparse_counts
from sparsecore_models.lenet import LeNet, as_sizes
from sparsecore_models.wrn import WideResNet


def _hash_seed() -> int:
    seed: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    return seed


@attrs.frozen(eq=False)
class HashedWideResNet:
    """A wide residual network whose 3x3 convolutions have fewer values than positions, shared by a hash.

    Attributes:
        depth: 6n+4 for n blocks a group.
        width: factor on the channels 16, 32, 64 of the groups.
        sparsity: of the sparse network that has as many values.
        hash_seed: of the hash, which belongs to the network and stays when the run's seed is another.
    """

    depth: int = 28
    width: int = 2
    sparsity: float = matched_sparsity()
    hash_seed: int = _hash_seed()

    def __attrs_post_init__(self) -> None:
        WideResNet(self.depth, self.width)  # refuses what is no depth or width

    @classmethod
    def from_sizes(cls, depth: int, width: int) -> "HashedWideResNet":
        """The network that 'hashed-wrn-DEPTH-WIDTH' names."""
        return cls(depth, width)

    def check_sparsity(self, sparsity: float) -> None:
        """Raise an :class:`InputError` where a run would have it pruned."""
        check_all_weights(sparsity)

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        """Those of the dense network; the 3x3 convolutions in the blocks as vectors of values."""
        dense = WideResNet(self.depth, self.width).parameters(image_shape, classes)
        return hashed(dense, self.sparsity, self.hash_seed)

    def forward(self, ops: Operations, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Logits of (batch, classes)."""
        return WideResNet(self.depth, self.width).forward(ops, parameters, images)


@attrs.frozen(eq=False)
class HashedLeNet:
    """A multilayer perceptron whose weight matrices have fewer values than positions, shared by a hash.

    Attributes:
        hidden: sizes of the hidden layers.
        sparsity: of the sparse network that has as many values.
        hash_seed: of the hash, which belongs to the network and stays when the run's seed is another.
    """

    hidden: tuple[int, ...] = attrs.field(default=(300, 100), converter=as_sizes)
    sparsity: float = matched_sparsity()
    hash_seed: int = _hash_seed()

    def __attrs_post_init__(self) -> None:
        LeNet(self.hidden)  # refuses what is no size

    @classmethod
    def from_sizes(cls, *hidden: int) -> "HashedLeNet":
        """The network that 'hashed-lenet-SIZE-SIZE' names."""
        return cls(hidden)

    def check_sparsity(self, sparsity: float) -> None:
        """Raise an :class:`InputError` where a run would have it pruned."""
        check_all_weights(sparsity)

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        """Those of the dense network; the weight matrices as vectors of values."""
        return hashed(LeNet(self.hidden).parameters(image_shape, classes), self.sparsity, self.hash_seed)

    def forward(self, ops: Operations, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Logits of (batch, classes)."""
        return LeNet(self.hidden).forward(ops, parameters, images)


def hashed(dense: Iterable[Parameter], sparsity: float, hash_seed: int) -> tuple[Parameter, ...]:
    """The parameters with all tensors that would be sparse tied, to as many values as they would have weights."""
    parameters = tuple(dense)
    counts = sparse_counts(parameters, sparsity)
    return tuple(tied(p, counts[p.name], hash_seed) if p.sparse else p for p in parameters)
