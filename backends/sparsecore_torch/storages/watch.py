"""Knows which tensors nothing but the optimizer has touched, so that after most steps there is nothing to be done.

An optimizer that keeps zero at zero leaves inactive weights and their state at zero, if they were zero before the step
and their gradients are. So it is enough to see that nothing else has written to them. Torch counts the writes to each
tensor. Two ways to write are not counted (``weight.data.add_(...)``, kernels of other libraries), which is why a
stretch of inactive entries of each tensor is looked at after every step, and each tensor as a whole in turn.
"""

from collections.abc import Mapping
from typing import Any, final
from weakref import ref

import attrs
import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsecore_torch.storages.bit_mask import BitMask, is_dense

TURNS = 16
"""Steps until the turn of a tensor comes again."""

_LONGEST = 64
"""Entries of a stretch."""


@attrs.define(eq=False)
class _Seen:
    """A tensor and its state, as they were when inactive entries were known to be zero.

    Attributes:
        parameter: the tensor.
        version: how often it had been written to.
        pointer: where its memory was.
        state: the dict with its state.
        size: of the dict.
        contents: the state of the parameter's shape: key, tensor and how often it had been written to.
        stretches: views of inactive entries.
    """

    parameter: Tensor
    version: int
    pointer: int
    state: dict[str, Any] | None
    size: int
    contents: list[tuple[str, Tensor, int]]
    stretches: list[Tensor]

    def is_as_seen(self, optimizer: Optimizer) -> bool:
        """Whether nothing has been written to since."""
        parameter = self.parameter
        return (
            parameter._version == self.version
            and parameter.data_ptr() == self.pointer
            and self.keeps_its_state(optimizer)
            and all(content._version == version for _, content, version in self.contents)
        )

    def keeps_its_state(self, optimizer: Optimizer) -> bool:
        """Whether its state is in the same tensors."""
        state = optimizer.state.get(self.parameter)
        return (
            state is self.state
            and len(state or ()) == self.size
            and all(state[key] is content for key, content, _ in self.contents)  # type: ignore[index]
        )

    def see(self) -> None:
        """Note the writes that there have been."""
        self.version = self.parameter._version
        self.contents = [(key, content, content._version) for key, content, _ in self.contents]


@final
class Watch:
    """Watches the sparse tensors of one optimizer.

    Args:
        optimizer: what trains them.
        masks: by name.
    """

    def __init__(self, optimizer: Optimizer, masks: Mapping[str, BitMask]) -> None:
        # the hooks of the parameters hold on to this, and the hooks of an optimizer to its training
        self._optimizer = ref(optimizer)
        self._masks = masks
        self._seen: dict[str, _Seen] = {}
        self._runs: dict[str, slice | None] = {}
        self._untouched: list[str] = []
        self._steps = 0

    def masks_changed(self) -> None:
        """Inactive entries are others now."""
        self._seen, self._runs = {}, {}

    def wrote(self, name: str) -> None:
        """The values of a tensor have been changed from here, and its inactive entries are zero as before."""
        if name in self._seen:
            self._seen[name].version = self._seen[name].parameter._version

    def see(self, name: str, parameter: Tensor) -> None:
        """The inactive entries of a tensor and of its state are what they are to be: from now on changes count."""
        if parameter.device.type != "cpu":  # to look at an entry there is to wait for the device
            return
        if name not in self._runs:
            self._runs[name] = self._masks[name].inactive_run()
        run = self._runs[name]
        optimizer = self._optimizer()
        state = None if optimizer is None else optimizer.state.get(parameter)
        contents = [
            (key, content, content._version)
            for key, content in (state or {}).items()
            if isinstance(content, Tensor) and content.shape == parameter.shape
        ]
        tensors = [parameter.detach(), *(content for _, content, _ in contents)]
        if run is None or not all(is_dense(one) and one.stride() == parameter.stride() for one in tensors):
            self._seen.pop(name, None)
            return
        length = min(run.stop - run.start, _LONGEST)
        stretches = [one.as_strided((length,), (1,), one.storage_offset() + run.start) for one in tensors]
        self._seen[name] = _Seen(
            parameter, parameter._version, parameter.data_ptr(), state, len(state or ()), contents, stretches
        )

    def knows(self, name: str) -> bool:
        """Whether the inactive entries of a tensor are zero, as nothing has written to it as far as torch counts."""
        seen = self._seen.get(name)
        return (
            seen is not None and seen.parameter._version == seen.version and seen.parameter.data_ptr() == seen.pointer
        )

    @torch.no_grad()
    def is_disturbed(self) -> bool:
        """Whether something has written into inactive weights since the last step that torch has not counted."""
        stretches = [seen.stretches[0] for seen in self._seen.values()]
        return bool(stretches) and bool(torch.cat(stretches).any())

    def before_step(self) -> None:
        """Note which tensors nothing has written to since they were seen."""
        optimizer = self._optimizer()
        if optimizer is not None:
            self._untouched = [name for name, seen in self._seen.items() if seen.is_as_seen(optimizer)]

    @torch.no_grad()
    def quiet(self) -> frozenset[str]:
        """The tensors, after a step, whose inactive entries are still zero; all others are to be looked after."""
        self._steps += 1
        turn = [name for number, name in enumerate(self._masks) if (number + self._steps) % TURNS == 0]
        optimizer = self._optimizer()
        names = [
            name
            for name in self._untouched
            if optimizer is not None and name not in turn and self._seen[name].keeps_its_state(optimizer)
        ]
        self._untouched = []  # what comes without a step before it is no step that was watched
        stretches = [stretch for name in names for stretch in self._seen[name].stretches]
        if stretches and bool(torch.cat(stretches).any()):
            return frozenset()
        for name in names:
            self._seen[name].see()
        return frozenset(names)
