"""The memory ledger of dense parameters in training."""

from collections.abc import Iterable, Sequence

from torch import Tensor
from torch.optim import Optimizer

from sparsecore.ledger import Bytes, Ledger
from sparsecore_torch.storages.shards import local


def ledger_of(optimizer: Optimizer, indices: Sequence[Tensor]) -> Ledger:
    """All that the optimizer trains, dense; ``indices`` are what says where weights are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    states = [
        content
        for parameter in parameters
        for content in optimizer.state.get(parameter, {}).values()
        if isinstance(content, Tensor)
    ]
    return Ledger(
        values=Bytes(_entries(parameters), behind(parameters)),
        indices=Bytes(_entries(indices), behind(indices)),
        gradients=Bytes(_entries(trained), behind(gradients)),
        optimizer_state=Bytes(_entries(states), behind(states)),
    )


def behind(tensors: Iterable[Tensor]) -> int:
    """Bytes of the memory behind the tensors, shared memory once; of sharded ones, of this rank."""
    storages = (local(tensor).untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _entries(tensors: Iterable[Tensor]) -> int:
    return sum(local(tensor).numel() * tensor.element_size() for tensor in tensors)
