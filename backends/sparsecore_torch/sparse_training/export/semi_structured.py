"""Export of linear layers with 2:4 sparsity to the sparse matrix units of NVIDIA GPUs."""

import torch
from torch import Tensor, nn

from sparsecore.errors import InputError
from sparsecore_torch.sparse_training.export.plain import squashed_copy
from sparsecore_torch.sparse_training.model.parameters import named_parameters
from sparsecore_torch.sparse_training.training import SparseTraining


def to_semi_structured(training: SparseTraining) -> nn.Module:
    """Return a plain copy of the model whose sparse linear layers use the sparse matrix units of a GPU (2:4 sparsity).

    The weights become tensors of ``torch.sparse.to_sparse_semi_structured``, which needs a CUDA device of compute
    capability 8.0 or newer, and a dtype and sides that torch can handle there. A model has 2:4 sparsity from the
    strategy ``srigl`` with ``group=4``, ``start="uniform"`` and a sparsity of 0.5. Convolutions and other layers stay
    dense with their zeros.

    Args:
        training: on a CUDA device; it is not changed.

    Raises:
        InputError: no sparse tensor is the weight of a linear layer, one has more than two nonzero weights among four
            consecutive inputs of an output, the device is none of CUDA, or torch cannot convert a weight; the sentence
            names it.
    """
    model = squashed_copy(training)
    names = set(training.topology.layout.names)
    layers = [
        (one.name, module)
        for one in named_parameters(model)
        for module, attribute in one.holders
        if one.name in names and isinstance(module, nn.Linear) and attribute == "weight"
    ]
    if not layers:
        raise InputError("no sparse tensor of this training is the weight of a linear layer, which 2:4 sparsity is for")
    for name, module in layers:
        check_two_of_four(name, module.weight)
    converted = [_converted(name, module.weight.detach()) for name, module in layers]
    for (_, module), weight in zip(layers, converted, strict=True):
        module.weight = nn.Parameter(weight, requires_grad=False)
    return model


def check_two_of_four(name: str, weight: Tensor) -> None:
    """Check that at most two of each four consecutive inputs of an output have a nonzero weight.

    Args:
        name: of the tensor, for the message.
        weight: (out, in).

    Raises:
        InputError: in some group there are more, or four does not divide the number of inputs.
    """
    out, inputs = weight.shape
    if inputs % 4:
        raise InputError(f"{name!r} has {inputs} inputs, which are no groups of four, so that it has no 2:4 sparsity")
    counts = (weight.detach().reshape(out, inputs // 4, 4) != 0).sum(2)
    fuller = int((counts > 2).sum())
    if fuller:
        raise InputError(
            f"{name!r} has more than two nonzero weights in {fuller:,} of {counts.numel():,} groups of four inputs; "
            "the strategy 'srigl' with group=4, start='uniform' and sparsity=0.5 trains with two in each"
        )


def _converted(name: str, weight: Tensor) -> Tensor:
    if weight.device.type != "cuda":
        raise InputError(
            f"{name!r} is on the device {str(weight.device)!r}; 2:4 sparsity is computed by GPUs of NVIDIA, so move "
            "the model to 'cuda' before sparsify"
        )
    try:
        return torch.sparse.to_sparse_semi_structured(weight)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"torch cannot convert {name!r} to its semi-structured form: {error}") from error
