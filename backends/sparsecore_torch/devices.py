"""Devices by name."""

import re

import torch

from sparsecore.errors import InputError


def device_of(name: str) -> torch.device:
    """The device that 'auto', 'cpu', 'cuda' or 'cuda:1' names; 'auto' is a CUDA device where there is one.

    Raises:
        InputError: it is none of these, or this machine has no such device.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", name):
        raise InputError(f"a device is auto, cpu, cuda or a numbered one such as cuda:1; given {name!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        there = ", ".join(f"cuda:{index}" for index in range(count)) or "none"
        raise InputError(f"no CUDA device {name!r}; PyTorch finds: {there}")
    return device
