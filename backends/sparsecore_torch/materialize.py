"""Between N_i values and the dense tensor that a layer computes with; nothing here is recorded by autograd."""

from collections.abc import Sequence

import torch
from torch import Tensor


def scatter(values: Tensor, positions: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """The dense tensor with the values at their positions and zero elsewhere.

    Args:
        values: N_i numbers.
        positions: N_i positions within the tensor, row-major; int32 or int64.
        shape: of the dense tensor.
        dtype: of the dense tensor; that of the values unless given.
    """
    dense = torch.zeros(tuple(shape), dtype=dtype or values.dtype, device=values.device)
    # index_copy_ takes nothing but int64
    dense.view(-1).index_copy_(0, positions.long(), values.detach().to(dense.dtype))
    return dense


def gather(dense: Tensor, positions: Tensor) -> Tensor:
    """The N_i entries of a dense tensor at these positions, row-major; the shape, strides and dtype are anyone's."""
    return dense.reshape(-1).index_select(0, positions)
