"""Makes the storage of a training's weights: by its name, and one for each optimizer."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import attrs
from torch import Tensor, nn

from sparsecore.engine.partition import Partition
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore_torch.arrays import as_tensor
from sparsecore_torch.sparse_training.optimizers.shares import OptimizerShare
from sparsecore_torch.sparse_training.optimizers.wrapped import check_replaceable, check_wrappers
from sparsecore_torch.sparse_training.storage.compact import CompactStorage
from sparsecore_torch.sparse_training.storage.joined import JoinedStorage
from sparsecore_torch.sparse_training.storage.masked import MaskedStorage
from sparsecore_torch.sparse_training.storage.storage import Storage
from sparsecore_torch.tensors import is_sharded

MakeStorage = Callable[[nn.Module, OptimizerShare, Topology, Tensor], Storage]
"""Makes a storage from the model with its wrappers, an optimizer and its tensors, topology and N values."""


def _masked(_: nn.Module, share: OptimizerShare, topology: Topology, values: Tensor) -> Storage:
    check_wrappers(share.layers, [one.parameter for one in share.tensors])
    return MaskedStorage(share.tensors, share.stepping, topology, values)


def _compact(model: nn.Module, share: OptimizerShare, topology: Topology, values: Tensor) -> Storage:
    if any(is_sharded(one.parameter) for one in share.tensors):
        raise InputError("the compact storage takes no parameters that fully_shard has sharded; the masked one does")
    check_replaceable(share.layers, share.tensors)
    return CompactStorage(model, share.tensors, share.stepping, topology, values)


IN_PLACE = frozenset({"masked"})
"""The storages that write into the model's own Parameters."""

STORAGES: Mapping[str, MakeStorage] = MappingProxyType({"masked": _masked, "compact": _compact})
"""The storages by name; each refuses before it changes anything."""


@attrs.frozen(eq=False)
class Stored:
    """The storage of a training.

    Attributes:
        whole: of all sparse tensors.
        stores: of the tensors of each optimizer; None for one that trains none.
    """

    whole: Storage
    stores: tuple[Storage | None, ...]


def stored(
    make: MakeStorage, model: nn.Module, shares: Sequence[OptimizerShare], topology: Topology, values: Tensor
) -> Stored:
    """Make the storage of a training.

    Args:
        make: makes the storage of one optimizer's tensors.
        model: with its wrappers.
        shares: the optimizers.
        topology: the N active positions.
        values: (N,).

    Raises:
        InputError: a module or an optimizer cannot work so.
    """
    if len(shares) == 1:
        single = make(model, shares[0], topology, values)
        return Stored(single, (single,))
    holding = [share for share in shares if share.tensors]
    partition = Partition.of(topology.layout, [[one.name for one in share.tensors] for share in holding])
    parts = zip(holding, partition.split(topology), partition.split_vector(values, topology), strict=True)
    storages = [make(model, share, own, as_tensor(entries)) for share, own, entries in parts]
    others = [share.stepping for share in shares if not share.tensors]
    by_share = dict(zip(map(id, holding), storages, strict=True))
    whole = JoinedStorage(storages, partition, topology, others)
    return Stored(whole, tuple(by_share.get(id(share)) for share in shares))
