"""The parts that a sparse training consists of, and the reasons why it can no longer be used."""

from collections.abc import Callable, Mapping, Sequence

import attrs
from torch import Tensor, nn

from sparsecore.engine.groups import EngineGroups
from sparsecore.engine.topology import Topology
from sparsecore.learning.ranks import Ranks
from sparsecore_torch.sparse_training.checks import Claim
from sparsecore_torch.sparse_training.kernels.choice import Routes
from sparsecore_torch.sparse_training.model.selection import Selection
from sparsecore_torch.sparse_training.optimizers.shares import OptimizerShare
from sparsecore_torch.sparse_training.storage.storage import Storage
from sparsecore_torch.sparse_training.storages import Stored
from sparsecore_torch.sparse_training.young_weights import Choices


@attrs.frozen(eq=False)
class TrainingParts:
    """The parts of a sparse training.

    Attributes:
        model: without wrappers.
        shares: the optimizers, with the sparse tensors that each trains; weights may move when all have stepped.
        selection: the sparse tensors.
        claims: on these tensors, so that no other training uses them.
        engines: decide which weights move, one for each group of tensors.
        store: makes a storage of the plain model, from the optimizers, a topology and its values.
        stored: keeps the weights.
        routes: which layers run through the sparse kernels.
        ranks: the processes that train together.
        sparsity: the requested sparsity, where it was given by group that of each tensor.
        young: what weights get that have grown recently, by tensor.
        learning_rates: return the learning rates that the strategies of each group get, those of its first tensor.
    """

    model: nn.Module
    shares: tuple[OptimizerShare, ...]
    selection: Selection
    claims: Sequence[Claim]
    engines: EngineGroups
    store: Callable[[Sequence[OptimizerShare], Topology, Tensor], Stored]
    stored: Stored
    routes: Routes
    ranks: Ranks
    sparsity: float | Mapping[str, float]
    young: Choices
    learning_rates: Sequence[Callable[[], float | None]]

    @property
    def storage(self) -> Storage:
        """Keeps the weights of all sparse tensors."""
        return self.stored.whole


@attrs.frozen
class End:
    """Why a training can no longer be used.

    Attributes:
        title: a word or two for ``repr``.
        sentence: the message of the error that every use raises.
    """

    title: str
    sentence: str


SQUASHED = End("ended", "this sparse training has ended with squash(); sparsify the model again to continue")
COPIED = End(
    "a copy",
    "this is a copy of a sparse training, and trains nothing: a copy of a model is a plain model. To train the "
    "copy, call sparsify for it and load the state dicts of model, optimizer and training",
)
