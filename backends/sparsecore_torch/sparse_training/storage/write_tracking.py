"""Knows which tensors nothing but the optimizer has touched, so that after most steps there is nothing to be done.

An optimizer that keeps zero at zero leaves inactive weights and their state at zero, if they were zero before the step
and their gradients are. So it is enough to see that nothing else has written to them. Torch counts the writes to each
tensor. Two ways to write are not counted (``weight.data.add_(...)``, kernels of other libraries), which is why a
stretch of inactive entries of some tensors and of their state is looked at before and after every step, and each tensor
is made zero as a whole in turn.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, final
from weakref import ref

import attrs
import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsecore.errors import InputError
from sparsecore_torch.sparse_training.storage.gradient_masks import BitMask
from sparsecore_torch.tensors import has_memory, is_non_overlapping_and_dense

_SHOWN = 5


@final
class ForeignWrites:
    """Finds what was written into inactive positions, such as the weights of another topology.

    torch counts the writes into each tensor, so that a tensor that only the training has written to is not looked at.
    Writes through ``.data`` are not counted; they are found where all tensors are looked at.

    Args:
        tensors: gives the dense tensors, or this rank's shards of them, by name.
        masks: the mask of each.
    """

    def __init__(self, tensors: Callable[[], Mapping[str, Tensor]], masks: Mapping[str, BitMask]) -> None:
        self._tensors = tensors
        self._masks = masks
        self._address = {name: _address_of(tensor) for name, tensor in tensors().items()}
        self._known: dict[str, tuple[int, int]] = {}

    def note(self, names: Iterable[str]) -> None:
        """The tensors of these names, as they are now, have been written by the training."""
        self._known.update(self._stamps(names))

    def forget(self) -> None:
        """All tensors count as changed from now on."""
        self._known = {}

    def changed(self, names: Iterable[str]) -> list[str]:
        """Those of the tensors that have been written to since :meth:`note`, as far as torch counts."""
        return [name for name, stamp in self._stamps(names).items() if self._known.get(name) != stamp]

    @torch.no_grad()
    def check(self, names: Sequence[str]) -> None:
        """Raise an :class:`InputError` if weights of these tensors are nonzero and not active."""
        if not names:
            return
        tensors = self._tensors()
        counts = torch.stack([_strangers(tensors[name], self._masks[name]) for name in names]).tolist()
        strange = {name: count for name, count in zip(names, counts, strict=True) if count}
        if strange:
            raise InputError(_sentence(strange))
        self.note(names)

    def _stamps(self, names: Iterable[str]) -> dict[str, tuple[int, int]]:
        """What changes when torch writes into a tensor, or gives it other memory."""
        tensors = self._tensors()
        return {name: (tensors[name]._version, self._address[name](tensors[name])) for name in names}


def _address_of(tensor: Tensor) -> Callable[[Tensor], int]:
    """What tells the address of a tensor's memory, or of one like it; 0 where it has none of its own."""
    return Tensor.data_ptr if has_memory(tensor) else lambda _: 0


def _strangers(tensor: Tensor, mask: BitMask) -> Tensor:
    """How many inactive entries are not zero."""
    return (tensor.detach() != 0).logical_and_(mask.active.logical_not_()).sum()


def _sentence(strange: Mapping[str, int]) -> str:
    names = ", ".join(list(strange)[:_SHOWN]) + (" and others" if len(strange) > _SHOWN else "")
    return (
        f"{sum(strange.values())} weights of {names} are nonzero and not active: something other than the training has "
        "written them, as loading weights of another moment does. training.adopt() makes the model's nonzero weights "
        "the active ones; training.load_state_dict() takes up the topology that was saved with them; "
        "training.mask_(model) makes all inactive weights zero"
    )


TURNS = 256
"""Steps until the turn of a tensor comes again."""

_LOOKED_AT = 8
"""Tensors whose stretches are looked at in each step, one after the other."""

_LONGEST = 8
"""Entries of a stretch."""


@attrs.define(eq=False)
class _Seen:
    """A tensor and its state, as they were when inactive entries were known to be zero.

    Attributes:
        parameter: the tensor.
        pointer: where its memory was.
        state: the dict with its state.
        size: of the dict.
        contents: the state of the parameter's shape, by key.
        versions: how often the parameter, and then each content, had been written to.
        stretches: views of inactive entries: of the parameter, then of each content.
    """

    parameter: Tensor
    pointer: int
    state: dict[str, Any] | None
    size: int
    contents: dict[str, Tensor]
    versions: list[int]
    stretches: list[Tensor]

    def is_unwritten(self) -> bool:
        """Whether nothing has been written to the parameter since, as far as torch counts."""
        return self.parameter._version == self.versions[0] and self.parameter.data_ptr() == self.pointer

    def is_as_seen(self, states: Mapping[Tensor, dict[str, Any]]) -> bool:
        """Whether nothing has been written to since, the state included."""
        return self.is_unwritten() and self.keeps_its_state(states) and self._count() == self.versions

    def keeps_its_state(self, states: Mapping[Tensor, dict[str, Any]]) -> bool:
        """Whether its state is in the same tensors."""
        state = states.get(self.parameter)
        if state is not self.state:
            return False
        if state is None:
            return True
        # a loop in place of all(): this runs for each tensor, twice a step
        for key, content in self.contents.items():
            if state.get(key) is not content:
                return False
        return len(state) == self.size

    def see(self) -> None:
        """Note the writes that there have been."""
        self.versions = self._count()

    def _count(self) -> list[int]:
        return [self.parameter._version, *[content._version for content in self.contents.values()]]


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
        self._names = list(masks)
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
            self._seen[name].versions[0] = self._seen[name].parameter._version

    def see(self, name: str, parameter: Tensor) -> None:
        """The inactive entries of a tensor and of its state are what they are to be: from now on changes count."""
        if parameter.device.type != "cpu":  # to look at an entry there is to wait for the device
            return
        if name not in self._runs:
            self._runs[name] = self._masks[name].inactive_run()
        run = self._runs[name]
        state = self._states().get(parameter)
        contents = {
            key: content
            for key, content in (state or {}).items()
            if isinstance(content, Tensor) and content.shape == parameter.shape
        }
        tensors = [parameter.detach(), *contents.values()]
        if run is None or not all(
            is_non_overlapping_and_dense(one) and one.stride() == parameter.stride() for one in tensors
        ):
            self._seen.pop(name, None)
            return
        length = min(run.stop - run.start, _LONGEST)
        stretches = [one.as_strided((length,), (1,), one.storage_offset() + run.start) for one in tensors]
        versions = [one._version for one in tensors]
        self._seen[name] = _Seen(
            parameter, parameter.data_ptr(), state, len(state or ()), contents, versions, stretches
        )

    def knows(self, name: str) -> bool:
        """Whether the inactive entries of a tensor are zero, as nothing has written to it as far as torch counts."""
        seen = self._seen.get(name)
        return seen is not None and seen.is_unwritten()

    @torch.no_grad()
    def is_disturbed(self) -> bool:
        """Whether something has written into inactive weights since the last step that torch has not counted."""
        turn = self._turn(self._steps + 1)
        looked_at = {*self._looked_at(self._steps + 1), *(name for name in turn if name in self._seen)}
        return _any_nonzero([self._seen[name].stretches[0] for name in looked_at])

    def before_step(self) -> None:
        """Note which tensors nothing has written to since they were seen."""
        states = self._states()
        self._untouched = [name for name, seen in self._seen.items() if seen.is_as_seen(states)]

    @property
    def untouched(self) -> Sequence[str]:
        """The tensors that nothing had written to before the step that is about to be taken."""
        return self._untouched

    @torch.no_grad()
    def quiet(self) -> frozenset[str]:
        """The tensors, after a step, whose inactive entries are still zero; all others are to be looked after."""
        self._steps += 1
        turn = self._turn(self._steps)
        states = self._states()
        names = [name for name in self._untouched if name not in turn and self._seen[name].keeps_its_state(states)]
        self._untouched = []  # what comes without a step before it is no step that was watched
        looked_at = self._looked_at(self._steps).intersection(names)
        if _any_nonzero([stretch for name in looked_at for stretch in self._seen[name].stretches]):
            return frozenset()
        for name in names:
            self._seen[name].see()
        return frozenset(names)

    def _turn(self, step: int) -> list[str]:
        """The tensors that are made zero as a whole after this step."""
        return self._names[-step % TURNS :: TURNS]

    def _looked_at(self, step: int) -> set[str]:
        """The tensors that have a turn to be looked at in this step."""
        names, count = self._names, min(_LOOKED_AT, len(self._names))
        first = step * count % len(names)
        return {name for name in (*names[first:], *names)[:count] if name in self._seen}

    def _states(self) -> Mapping[Tensor, dict[str, Any]]:
        optimizer = self._optimizer()
        return {} if optimizer is None else optimizer.state


def _any_nonzero(stretches: Sequence[Tensor]) -> bool:
    # of so few numbers a list takes less time than an operation of torch
    return any(any(stretch.tolist()) for stretch in stretches)
