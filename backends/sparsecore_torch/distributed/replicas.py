"""What of a model every rank holds a copy of."""

from torch import Tensor, nn
from torch.optim import Optimizer


def replicated(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The trained parameters that must be equal on all ranks, by what they are: "the values of 'conv1.weight'".

    Buffers may differ, as batch norm's statistics do. Left out is also what belongs to one rank by design: the shards
    of ``fully_shard``, and what DistributedDataParallel was told to ignore.
    """
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    ignored = frozenset(getattr(model, "_ddp_params_and_buffers_to_ignore", ()))
    return {
        f"the values of {name!r}": parameter
        for name, parameter in model.named_parameters()
        if id(parameter) in trained and name not in ignored and type(parameter.data) is Tensor
    }
