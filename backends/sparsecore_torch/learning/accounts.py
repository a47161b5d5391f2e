"""The memory ledger of a network in training."""

from collections.abc import Iterable

from torch import Tensor

from sparsecore.ledger import Bytes, Ledger
from sparsecore_torch.learning.network import Network
from sparsecore_torch.learning.optimizers import Descent


def ledger(network: Network, descent: Descent) -> Ledger:
    """Bytes of all trained parameters; where they lie is told by the engine's own positions."""
    parameters = (network.values, network.dense)
    weights, positions = sum(map(len, parameters)), network.topology.positions
    states = list(descent.state().values())
    entries = sum(len(buffer) for buffer in states if buffer.shape)
    size = network.values.itemsize
    return Ledger(
        values=Bytes(weights * size, allocated(parameters)),
        indices=Bytes(len(positions) * positions.itemsize, allocated([positions])),
        gradients=Bytes(
            weights * size, allocated(parameter.grad for parameter in parameters if parameter.grad is not None)
        ),
        optimizer_state=Bytes(entries * size, allocated(states)),
    )


def allocated(tensors: Iterable[Tensor]) -> int:
    """The memory behind these tensors; what several are views of counts once."""
    storages = {storage.data_ptr(): storage for storage in (tensor.untyped_storage() for tensor in tensors)}
    return sum(storage.nbytes() for storage in storages.values())
