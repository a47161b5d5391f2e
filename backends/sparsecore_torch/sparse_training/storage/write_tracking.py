"""Tracks which tensors only the training and its optimizer have written to, so that most steps need no clearing.

An optimizer that keeps zero at zero leaves inactive weights and their state at zero if they were zero before the step
and their gradients are. So it is enough to know that nothing else has written to them. Torch counts the writes to each
tensor. Two kinds of writes are not counted, ``weight.data.add_(...)`` and those of other libraries' kernels. Therefore
a run of inactive entries of some tensors and of their state is compared with zero before and after every step, and each
tensor is cleared as a whole once in :data:`CLEARING_PERIOD` steps.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, final
from weakref import ref

import attrs
import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsecore.errors import InputError
from sparsecore_torch._torch_internals.tensors import write_count
from sparsecore_torch.sparse_training.storage.gradient_masks import BitMask
from sparsecore_torch.tensors import has_memory, have_equal_order, is_non_overlapping_and_dense

CLEARING_PERIOD = 256
"""Steps from one clearing of a whole tensor to the next."""

_SAMPLED = 8
"""The number of tensors whose runs are compared with zero in each step; they take turns."""

_LONGEST = 8
"""The number of entries of a run that are compared."""

_SHOWN = 5
"""The number of tensors that an error sentence names."""

Stamp = tuple[int, int]
"""The write count and the address of a tensor: what changes when torch writes to it or gives it other memory."""


@attrs.define(eq=False)
class _StateRecord:
    """The optimizer state of a tensor when its inactive entries were known to be zero.

    Attributes:
        parameter: the tensor.
        state: the dict with its state; None where it had none.
        size: of the dict.
        contents: the state of the parameter's shape, by key.
        counts: the write count of each of the contents.
        runs: views of inactive entries: of the parameter, then of each of the contents.
    """

    parameter: Tensor
    state: dict[str, Any] | None
    size: int
    contents: dict[str, Tensor]
    counts: list[int]
    runs: list[Tensor]

    def is_in_place(self, states: Mapping[Tensor, dict[str, Any]]) -> bool:
        """Return whether the optimizer keeps the state in the same tensors as then."""
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

    def current_counts(self) -> list[int]:
        """Return the write counts of the contents now."""
        return [write_count(content) for content in self.contents.values()]


@final
class WriteTracker:
    """Knows for each sparse tensor whether its inactive entries, and those of its state, must still be zero.

    Args:
        optimizer: trains the tensors.
        tensors: returns the dense tensors, or this rank's shards of them, by name.
        masks: the mask of each.
    """

    def __init__(
        self, optimizer: Optimizer, tensors: Callable[[], Mapping[str, Tensor]], masks: Mapping[str, BitMask]
    ) -> None:
        # parameters hold hooks that hold this, and an optimizer holds hooks that hold its training
        self._optimizer = ref(optimizer)
        self._tensors = tensors
        self._masks = masks
        self._names = list(masks)
        self._address = {name: _address_of(tensor) for name, tensor in tensors().items()}
        self._stamps: dict[str, Stamp] = {}
        self._records: dict[str, _StateRecord] = {}
        self._inactive_runs: dict[str, slice | None] = {}
        self._untouched: list[str] = []
        self._steps = 0

    # the weights

    def note(self, names: Iterable[str]) -> None:
        """Note that the inactive weights of tensors are zero now, because the training has written them.

        Args:
            names: of the tensors.
        """
        self._stamps.update(self._stamps_of(names))

    def forget(self) -> None:
        """Treat all tensors as written to by something else."""
        self._stamps = {}

    def changed(self, names: Iterable[str]) -> list[str]:
        """Find the tensors that have been written to since :meth:`note`.

        Args:
            names: of the tensors to look at.

        Returns:
            The names of those with another write count or address; writes that torch does not count are missed.
        """
        stamps = self._stamps
        return [name for name, stamp in self._stamps_of(names).items() if stamps.get(name) != stamp]

    @torch.no_grad()
    def check(self, names: Sequence[str]) -> None:
        """Check that the inactive weights of tensors are zero, and note it. Waits for the device once.

        Args:
            names: of the tensors.

        Raises:
            InputError: some are not.
        """
        if not names:
            return
        tensors = self._tensors()
        counts = torch.stack([_count_nonzero_inactive(tensors[name], self._masks[name]) for name in names]).tolist()
        foreign = {name: count for name, count in zip(names, counts, strict=True) if count}
        if foreign:
            raise InputError(_foreign_weights(foreign))
        self.note(names)

    def _stamps_of(self, names: Iterable[str]) -> dict[str, Stamp]:
        tensors, addresses = self._tensors(), self._address
        return {name: (write_count(tensors[name]), addresses[name](tensors[name])) for name in names}

    # the weights together with their state

    def masks_changed(self) -> None:
        """Forget the state of all tensors, as other entries are inactive now."""
        self._records, self._inactive_runs = {}, {}

    def note_state(self, name: str, parameter: Tensor) -> None:
        """Note that the inactive entries of a tensor's state are as they are to be; :meth:`note` is for its weights.

        Args:
            name: of the tensor.
            parameter: the tensor. On other devices than the CPU it is not tracked: to read an entry waits for them.
        """
        if parameter.device.type != "cpu":
            return
        if name not in self._inactive_runs:
            self._inactive_runs[name] = self._masks[name].inactive_run(_LONGEST)
        run = self._inactive_runs[name]
        state = self._states().get(parameter)
        contents = {
            key: content
            for key, content in (state or {}).items()
            if isinstance(content, Tensor) and content.shape == parameter.shape
        }
        tensors = [parameter.detach(), *contents.values()]
        is_alike = all(have_equal_order(one, parameter) and is_non_overlapping_and_dense(one) for one in tensors)
        if run is None or not is_alike:
            self._records.pop(name, None)
            return
        length = min(run.stop - run.start, _LONGEST)
        runs = [one.as_strided((length,), (1,), one.storage_offset() + run.start) for one in tensors]
        counts = [write_count(content) for content in contents.values()]
        self._records[name] = _StateRecord(parameter, state, len(state or ()), contents, counts, runs)

    @torch.no_grad()
    def is_disturbed(self) -> bool:
        """Look for a write since the last step that torch has not counted.

        Returns:
            True where a sampled tensor has a nonzero entry in its run of inactive weights; False proves nothing.
        """
        cleared = (name for name in self._cleared_after(self._steps + 1) if name in self._records)
        names = {*self._sampled_in(self._steps + 1), *cleared}
        return _any_nonzero([self._records[name].runs[0] for name in names])

    def before_step(self) -> None:
        """Find the tensors that nothing has written to since they were noted, nor to their state."""
        states, stamps = self._states(), self._stamps
        current = self._stamps_of(self._records)
        self._untouched = [
            name
            for name, record in self._records.items()
            if stamps.get(name) == current[name]
            and record.is_in_place(states)
            and record.current_counts() == record.counts
        ]

    @property
    def untouched(self) -> Sequence[str]:
        """The tensors that nothing had written to before the step that is about to be taken."""
        return self._untouched

    @torch.no_grad()
    def still_zero(self) -> frozenset[str]:
        """Decide, after a step, which tensors need no clearing.

        Returns:
            The names of those whose inactive entries and whose state must still be zero; all others are to be cleared.
        """
        self._steps += 1
        cleared = self._cleared_after(self._steps)
        states = self._states()
        names = [name for name in self._untouched if name not in cleared and self._records[name].is_in_place(states)]
        self._untouched = []  # a call without a step before it follows no step that was tracked
        sampled = self._sampled_in(self._steps).intersection(names)
        if _any_nonzero([run for name in sampled for run in self._records[name].runs]):
            return frozenset()
        self.note(names)
        for name in names:
            record = self._records[name]
            record.counts = record.current_counts()
        return frozenset(names)

    def _cleared_after(self, step: int) -> list[str]:
        """Return the tensors that are cleared as a whole after this step."""
        return self._names[-step % CLEARING_PERIOD :: CLEARING_PERIOD]

    def _sampled_in(self, step: int) -> set[str]:
        """Return the tensors whose runs are compared with zero in this step."""
        names, count = self._names, min(_SAMPLED, len(self._names))
        first = step * count % len(names)
        return {name for name in (*names[first:], *names)[:count] if name in self._records}

    def _states(self) -> Mapping[Tensor, dict[str, Any]]:
        optimizer = self._optimizer()
        return {} if optimizer is None else optimizer.state


def _address_of(tensor: Tensor) -> Callable[[Tensor], int]:
    """Return a function that returns the address of a tensor like this one; 0 where it has no memory of its own."""
    return Tensor.data_ptr if has_memory(tensor) else lambda _: 0


def _count_nonzero_inactive(tensor: Tensor, mask: BitMask) -> Tensor:
    return (tensor.detach() != 0).logical_and_(mask.active.logical_not_()).sum()


def _foreign_weights(counts: Mapping[str, int]) -> str:
    names = ", ".join(list(counts)[:_SHOWN]) + (" and others" if len(counts) > _SHOWN else "")
    return (
        f"{sum(counts.values())} weights of {names} are nonzero and not active: something other than the training has "
        "written them, as loading weights from another time in training does. training.adopt() makes the model's "
        "nonzero weights the active ones; training.load_state_dict() restores the topology that was saved with them; "
        "training.mask_(model) sets all inactive weights to zero"
    )


def _any_nonzero(runs: Sequence[Tensor]) -> bool:
    # for so few numbers a list takes less time than an operation of torch
    return any(any(run.tolist()) for run in runs)
