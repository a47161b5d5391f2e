"""What static baselines have in common: they are as large as another network would be at some sparsity."""

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
    """The setting ``sparsity`` of a baseline: of the network that it is to be as large as, in [0, 1)."""
    return attrs.field(default=0.9, validator=_check_sparsity)


def check_all_weights(sparsity: float) -> None:
    """Raise an :class:`InputError` where a run would take weights from a baseline that is small already."""
    if sparsity != 0:
        raise InputError(
            "a thin or hashed network is as small as model.sparsity makes it, and is trained with all its weights, at "
            f"sparsity 0; given a sparsity of {sparsity}"
        )


def sparse_counts(parameters: Iterable[Parameter], sparsity: float) -> Mapping[str, int]:
    """How many weights each sparse tensor has at this sparsity, as uniform starts have it."""
    layout = Layout.of({parameter.name: parameter.shape for parameter in parameters if parameter.sparse})
    return dict(zip(layout.names, uniform(layout, sparsity).tolist(), strict=True))


def sparse_size(parameters: Sequence[Parameter], sparsity: float) -> int:
    """How many trained parameters a network has at this sparsity, those of its dense tensors among them."""
    dense = trained_size(parameter for parameter in parameters if not parameter.sparse)
    return dense + sum(sparse_counts(parameters, sparsity).values())


def trained_size(parameters: Iterable[Parameter]) -> int:
    """How many trained parameters there are where all exist."""
    return sum(math.prod(parameter.shape) for parameter in parameters if parameter.trained)
