"""What computes: a device, the numbers on it, how images lie there, and whether the network is compiled."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import torch

from sparsecore_torch.experiment.compilation import Execution
from sparsecore_torch.experiment.data_parallel import Sharing, Unshared


@attrs.frozen(eq=False)
class Machine:
    """See the module.

    Attributes:
        device: where all buffers lie.
        dtype: of parameters and optimizer state.
        computed: of activations, where autocast lowers them; otherwise as ``dtype``.
        memory_format: of images.
        execution: how the network's forward pass is carried out.
        sharing: how ranks share a training step.
    """

    device: torch.device
    dtype: torch.dtype
    computed: torch.dtype
    memory_format: torch.memory_format
    execution: Execution
    sharing: Sharing = Unshared()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """While the network is computed: the same results every time, in full precision or as autocast has it."""
        lowered = self.computed is not self.dtype
        with _cudnn(), torch.autocast(self.device.type, self.computed if lowered else None, enabled=lowered):
            yield


def _cudnn() -> Any:
    # by default cuDNN may choose algorithms that add in any order, and rounds float32 to 10 bits (TF32)
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
