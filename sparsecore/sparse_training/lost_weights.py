"""The warning before weights that look trained sparsely become zero."""

import warnings
from collections.abc import Mapping
from typing import Final

from sparsecore.errors import LostWeightsWarning, listed

MANY_ZEROS: Final = 0.1
"""From this share of exact zeros on, a tensor looks sparse."""

_SHOWN = 8
"""The number of tensors that the sentence names."""


def warn_of_loss(lost: Mapping[str, tuple[int, int]], advice: str, stacklevel: int) -> None:
    """Warn if nonzero weights are lost to a newly drawn topology.

    Args:
        lost: of each tensor that looks sparse, the number of nonzero weights that become zero, and of all nonzero ones.
        advice: how these weights stay active, a clause without a full stop.
        stacklevel: as of ``warnings.warn``, counted from the caller of this function.
    """
    gone, nonzero = (sum(numbers) for numbers in zip((0, 0), *lost.values(), strict=True))
    if gone:
        warnings.warn(
            f"{listed(list(lost), _SHOWN, 'more tensors')} hold many exact zeros, as after sparse training, but "
            f"sparsify draws new positions: {gone} of {nonzero} nonzero weights become zero. To keep these weights "
            f"active, give start='nonzero'; {advice}. If these weights may be lost, ignore this "
            "sparsecore.errors.LostWeightsWarning with warnings.filterwarnings",
            LostWeightsWarning,
            stacklevel=stacklevel + 1,
        )
