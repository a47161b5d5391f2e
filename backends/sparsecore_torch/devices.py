"""Devices by name."""

import re

import torch

from sparsecore.errors import InputError
from sparsecore.launch import launch


def device_of(name: str) -> torch.device:
    """The device that 'auto', 'cpu', 'cuda' or 'cuda:1' names; 'auto' is a CUDA device where there is one.

    Raises:
        InputError: it is none of these, or this machine has no such device.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", name):
        raise InputError(f"a device is auto, cpu, cuda or a numbered one such as cuda:1; given {name!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "cpu"
    device = _local(torch.device(name), count)
    if device.type == "cuda" and (device.index or 0) >= count:
        there = ", ".join(f"cuda:{index}" for index in range(count)) or "none"
        raise InputError(f"no CUDA device {name!r}; PyTorch finds: {there}")
    return device


def _local(device: torch.device, count: int) -> torch.device:
    """The device; where processes of one machine train together, each takes one of its own."""
    process = launch()
    if device.type != "cuda" or device.index is not None or process.size == 1:
        return device
    if process.local_rank >= count:
        raise InputError(
            f"process {process.local_rank} of this machine, counted from 0, finds {count} CUDA devices; start one "
            "process a device"
        )
    return torch.device("cuda", process.local_rank)
