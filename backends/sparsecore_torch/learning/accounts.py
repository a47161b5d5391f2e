"""The memory ledger of a network in training."""

from sparsecore.ledger import Bytes, Ledger
from sparsecore_torch.learning.network import Network
from sparsecore_torch.learning.optimizers import Descent
from sparsecore_torch.storages.dense_ledger import behind


def ledger(network: Network, descent: Descent) -> Ledger:
    """Bytes of all trained parameters; where they lie is told by the engine's own positions."""
    parameters = (network.values, network.dense)
    weights, positions = sum(map(len, parameters)), network.topology.positions
    states = list(descent.state().values())
    entries = sum(len(buffer) for buffer in states if buffer.shape)
    size = network.values.itemsize
    return Ledger(
        values=Bytes(weights * size, behind(parameters)),
        indices=Bytes(len(positions) * positions.itemsize, behind([positions])),
        gradients=Bytes(
            weights * size, behind(parameter.grad for parameter in parameters if parameter.grad is not None)
        ),
        optimizer_state=Bytes(entries * size, behind(states)),
    )
