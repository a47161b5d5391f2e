"""The plugin ``--backend torch``."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import attrs
import torch

from sparsecore.errors import InputError
from sparsecore.learning.protocols import Learner, Task
from sparsecore.learning.ranks import Ranks
from sparsecore_torch.arrays import TorchArrays
from sparsecore_torch.distributed.ranks import launched_ranks
from sparsecore_torch.experiment.compilation import COMPILED, EAGER, Execution
from sparsecore_torch.experiment.data_parallel import parallel_step
from sparsecore_torch.experiment.device import DeviceConfig, device_of

_DTYPES: Mapping[str, tuple[torch.dtype, torch.dtype]] = MappingProxyType(
    {
        "float32": (torch.float32, torch.float32),
        "float64": (torch.float64, torch.float64),
        "bfloat16": (torch.float32, torch.bfloat16),
    }
)
"""The dtypes of parameters and of activations, by the setting ``dtype``."""

_EXECUTIONS: Mapping[bool, Execution] = MappingProxyType({False: EAGER, True: COMPILED})
_FORMATS = MappingProxyType({False: torch.contiguous_format, True: torch.channels_last})


def _check_dtype(_: object, __: object, dtype: str) -> None:
    if dtype not in _DTYPES:
        raise InputError(f"the torch backend computes in {', '.join(_DTYPES)}; given {dtype!r}")


def _check_device(_: object, __: object, device: str) -> None:
    device_of(device)


@attrs.frozen(eq=False)
class TorchBackend:
    """Trains with PyTorch on the CPU or a CUDA device; a plugin of :class:`sparsecore.learning.protocols.Backend`.

    Attributes:
        device: 'auto' (CUDA where there is a device), 'cpu', 'cuda', or a numbered device such as 'cuda:1'.
        dtype: 'float32', 'float64', or 'bfloat16': parameters in float32 and activations as autocast has them.
            As an attribute of the backend it is the dtype of values.
        compile: whether the network is compiled by ``torch.compile``, which needs a C++ compiler on the CPU.
        channels_last: whether images are stored with the channels of a pixel together, or with all pixels of a
            channel together.
    """

    corrects_young_weights: ClassVar[bool] = True

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
        """The array operations."""
        return TorchArrays(device_of(self.device))

    @property
    def ranks(self) -> Ranks:
        """The processes that a launcher such as torchrun has started, or this one alone."""
        return launched_ranks(device_of(self.device))

    def foreign(self, kind: str, name: str, options: Mapping[str, Any]) -> Any | None:
        """Return a plugin that wraps a module or a data set of PyTorch; None where the name selects another plugin.

        Args:
            kind: 'model', 'dataset' or another kind of plugin.
            name: 'torchvision:NAME', 'timm:NAME', 'package.module:Object', 'file.py:Object' or an installed name.
            options: of the object.

        Raises:
            InputError: there is no such object, or it does not take the options.
        """
        from sparsecore_torch.experiment.foreign import foreign

        return foreign(kind, name, options)

    def learner(self, task: Task) -> Learner:
        """Make a network ready to train; where several ranks train together, all must call this.

        Args:
            task: the network, its start values, the data and the optimizer.

        Raises:
            InputError: this machine does not have the device.
        """
        from sparsecore_torch.experiment.learner import TorchLearner
        from sparsecore_torch.experiment.module_learner import ModuleLearner
        from sparsecore_torch.experiment.module_model import ModuleModel

        parameters, activations = _DTYPES[self._dtype]
        config = DeviceConfig(
            device=device_of(self.device),
            dtype=parameters,
            activation_dtype=activations,
            memory_format=_FORMATS[self.channels_last],
            execution=_EXECUTIONS[self.compile],
            parallel=parallel_step(self.ranks),
        )
        return (
            ModuleLearner(task, task.model, config)
            if isinstance(task.model, ModuleModel)
            else TorchLearner(task, config)
        )
