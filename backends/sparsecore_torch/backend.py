"""The plugin."""

from collections.abc import Mapping
from types import MappingProxyType

import attrs
import torch

from sparsecore.errors import InputError
from sparsecore.learning import Learner, Task
from sparsecore.ranks import Ranks
from sparsecore_torch.arrays import TorchArrays
from sparsecore_torch.devices import device_of
from sparsecore_torch.distributed.ranks import launched_ranks
from sparsecore_torch.learning.compilation import COMPILED, EAGER, Execution

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
    """Trains on PyTorch, on the CPU or a CUDA device; see :class:`sparsecore.learning.Backend`.

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
        from sparsecore_torch.distributed.sharing import sharing_of
        from sparsecore_torch.learning.learner import TorchLearner
        from sparsecore_torch.learning.machine import Machine

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
