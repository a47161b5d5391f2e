"""The device that an experiment runs on, and how the network is computed there."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import torch

from sparsecore.errors import InputError
from sparsecore.learning.ranks import launch
from sparsecore_torch.experiment.compilation import Execution
from sparsecore_torch.experiment.data_parallel import SingleProcessStep


def device_of(name: str) -> torch.device:
    """Return the device that a name stands for.

    Args:
        name: 'cpu', 'cuda', a numbered device such as 'cuda:1', or 'auto', which is a CUDA device where there is one.
            Among several processes of one machine, 'cuda' is a device of its own for each.

    Raises:
        InputError: the name is none of these, or this machine has no such device.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", name):
        raise InputError(f"a device is auto, cpu, cuda or a numbered one such as cuda:1; given {name!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "cpu"
    device = _device_of_process(torch.device(name), count)
    if device.type == "cuda" and (device.index or 0) >= count:
        there = ", ".join(f"cuda:{index}" for index in range(count)) or "none"
        raise InputError(f"no CUDA device {name!r}; PyTorch finds: {there}")
    return device


def _device_of_process(device: torch.device, count: int) -> torch.device:
    """Return the device; where several processes of one machine train together, the one of this process's number."""
    process = launch()
    if device.type != "cuda" or device.index is not None or process.size == 1:
        return device
    if process.local_rank >= count:
        raise InputError(
            f"process {process.local_rank} of this machine, counted from 0, finds {count} CUDA devices; start one "
            "process a device"
        )
    return torch.device("cuda", process.local_rank)


@attrs.frozen(eq=False)
class DeviceConfig:
    """How a network is computed: the device, dtypes, memory format, compilation, and the ranks that share a step.

    Attributes:
        device: that holds all buffers.
        dtype: of parameters and optimizer state.
        activation_dtype: of activations, where autocast lowers them; otherwise ``dtype``.
        memory_format: of images.
        execution: how the network's forward pass is executed.
        parallel: how ranks share a training step.
    """

    device: torch.device
    dtype: torch.dtype
    activation_dtype: torch.dtype
    memory_format: torch.memory_format
    execution: Execution
    parallel: SingleProcessStep = SingleProcessStep()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute the network with the same results every time, under autocast where activations have another dtype.

        Within it cuDNN is deterministic and float32 is not rounded to TF32.
        """
        lowered = self.activation_dtype is not self.dtype
        dtype = self.activation_dtype if lowered else None
        with _deterministic_cudnn(), torch.autocast(self.device.type, dtype, enabled=lowered):
            yield


def _deterministic_cudnn() -> Any:
    # by default cuDNN may choose algorithms that add in any order, and rounds float32 to 10 bits (TF32)
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
