"""Sizes of static baselines, dense networks that are as large as another network is at some sparsity."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from sparsecore.engine.distributions import check_sparsity, uniform
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError
from sparsecore.learning.parameters import Parameter


def _check_sparsity(_: Any, __: Any, sparsity: float) -> None:
    check_sparsity(sparsity)


def matched_sparsity() -> Any:
    """The setting ``sparsity`` of a baseline: that of the sparse network of the same size.

    Returns:
        An attrs field in [0, 1), by default 0.9.
    """
    return attrs.field(default=0.9, validator=_check_sparsity)


def check_all_weights(sparsity: float) -> None:
    """Check that a run trains a baseline with all its weights.

    Args:
        sparsity: the run's sparsity, which is not the model's.

    Raises:
        InputError: it is not 0.
    """
    if sparsity != 0:
        raise InputError(
            "a thin or hashed network is as small as model.sparsity makes it, and is trained with all its weights, at "
            f"sparsity 0; given a sparsity of {sparsity}"
        )


def sparse_counts(parameters: Iterable[Parameter], sparsity: float) -> Mapping[str, int]:
    """The number of active weights of each sparse tensor at this sparsity, distributed uniformly.

    Args:
        parameters: the parameters of the network; those that are not sparse are left out.
        sparsity: in [0, 1).

    Returns:
        The numbers by name, at least 1 each.

    Raises:
        InputError: the sparsity is not in [0, 1).
    """
    layout = Layout.of({parameter.name: parameter.shape for parameter in parameters if parameter.sparse})
    return dict(zip(layout.names, uniform(layout, sparsity).tolist(), strict=True))


def sparse_size(parameters: Sequence[Parameter], sparsity: float) -> int:
    """The number of trained parameters of a network at this sparsity, including those of its dense tensors.

    Args:
        parameters: the parameters of the network.
        sparsity: in [0, 1).
    """
    dense = trained_size(parameter for parameter in parameters if not parameter.sparse)
    return dense + sum(sparse_counts(parameters, sparsity).values())


def trained_size(parameters: Iterable[Parameter]) -> int:
    """The number of trained parameters of a dense network.

    Args:
        parameters: its parameters; running statistics are not trained and do not count.
    """
    return sum(math.prod(parameter.shape) for parameter in parameters if parameter.trained)
