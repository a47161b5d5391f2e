"""The plugin."""

import re
from collections.abc import Mapping
from types import MappingProxyType

import attrs
import torch

from sparsecore.errors import InputError
from sparsecore.learning.protocols import Learner, Task
from sparsecore.learning.ranks import Ranks, launch
from sparsecore_torch.arrays import TorchArrays
from sparsecore_torch.distributed.ranks import launched_ranks
from sparsecore_torch.experiment.compilation import COMPILED, EAGER, Execution


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


_DTYPES: Mapping[str, tuple[torch.dtype, torch.dtype]] = MappingProxyType(
    {
        "float32": (torch.float32, torch.float32),
        "float64": (torch.float64, torch.float64),
        "bfloat16": (torch.float32, torch.bfloat16),
    }
)
"""Of parameters, and of activations."""

_EXECUTIONS: Mapping[bool, Execution] = MappingProxyType({False: EAGER, True: COMPILED})
_FORMATS = MappingProxyType({False: torch.contiguous_format, True: torch.channels_last})


def _check_dtype(_: object, __: object, dtype: str) -> None:
    if dtype not in _DTYPES:
        raise InputError(f"the torch backend computes in {', '.join(_DTYPES)}; given {dtype!r}")


def _check_device(_: object, __: object, device: str) -> None:
    device_of(device)


@attrs.frozen(eq=False)
class TorchBackend:
    """Trains on PyTorch, on the CPU or a CUDA device; see :class:`sparsecore.learning.protocols.Backend`.

    Attributes:
        device: 'auto' (CUDA where there is a device), 'cpu', 'cuda', or a numbered device such as 'cuda:1'.
        dtype: 'float32', 'float64', or 'bfloat16': parameters in float32 and activations as autocast has them.
            As an attribute of the backend it is the dtype of values.
        compile: whether the network is compiled by ``torch.compile``, which needs a C++ compiler on the CPU.
        channels_last: whether the channels of a pixel lie together, or all pixels of a channel.
    """

    device: str = attrs.field(default="auto", validator=_check_device)
    _dtype: str = attrs.field(default="float32", validator=_check_dtype)
    compile: bool = False
    channels_last: bool = True

    @property
    def dtype(self) -> str:
        """The dtype of values, as NumPy names it."""
        return str(_DTYPES[self._dtype][0]).removeprefix("torch.")

    @property
    def arrays(self) -> TorchArrays:
        """The array verbs."""
        return TorchArrays(device_of(self.device))

    @property
    def ranks(self) -> Ranks:
        """The processes that a launcher such as torchrun has started, or this one alone."""
        return launched_ranks(device_of(self.device))

    def learner(self, task: Task) -> Learner:
        """A network ready to train."""
        from sparsecore_torch.experiment.data_parallel import sharing_of
        from sparsecore_torch.experiment.device import Machine
        from sparsecore_torch.experiment.learner import TorchLearner

        parameters, activations = _DTYPES[self._dtype]
        machine = Machine(
            device=device_of(self.device),
            dtype=parameters,
            computed=activations,
            memory_format=_FORMATS[self.channels_last],
            execution=_EXECUTIONS[self.compile],
            sharing=sharing_of(self.ranks),
        )
        return TorchLearner(task, machine)
