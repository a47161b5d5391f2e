"""Weights that have grown recently in a training: their ages, and the correction of their steps under Adam."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from sparsecore.engine.arrays import counting_of
from sparsecore.engine.groups import EngineGroups
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology
from sparsecore.engine.young_weights import YoungWeights
from sparsecore.errors import InputError
from sparsecore_torch.arrays import active_indices, as_tensor
from sparsecore_torch.sparse_training.optimizers.shares import OptimizerShare
from sparsecore_torch.sparse_training.optimizers.state import group_of
from sparsecore_torch.sparse_training.optimizers.young_steps import YoungEntries, takes_steps_of_adam
from sparsecore_torch.sparse_training.storage.compact import carrier
from sparsecore_torch.sparse_training.storage.storage import Storage

_WHOLE_NUMBERS = (torch.int32, torch.int64)
"""The dtypes of positions and ages in a state dict."""

_TOO_OLD = 2**40
"""A number of steps that no weight has taken."""

Choices = Mapping[str, YoungWeights]
"""What young weights get in each tensor in which that is not the optimizer's own step."""


def young_weight_choices(engines: EngineGroups, shares: Sequence[OptimizerShare]) -> Choices:
    """Return what young weights get in each tensor.

    Args:
        engines: of the training: what they were given holds for all tensors, else what the strategies of each say.
        shares: the optimizers, with the dense Parameters.

    Returns:
        By name, of the tensors whose optimizer takes the step of Adam; young weights of others take the optimizer's.

    Raises:
        InputError: the engines were given it, and an optimizer takes other steps.
    """
    by_group = [engine.young_weights() for engine in engines.engines]
    parts = (part for part, _ in engines.partition.places)
    chosen = {name: by_group[part] for name, part in zip(engines.layout.names, parts, strict=True)}
    is_given = engines.engines[0].given_young_weights is not None
    found: dict[str, YoungWeights] = {}
    for share in shares:
        known: dict[int, bool] = {}
        for one in share.tensors:
            young, group = chosen[one.name], group_of(share.stepping, one.parameter)
            if not young.changes_steps:
                continue
            if group not in known:
                known[group] = takes_steps_of_adam(share.stepping, group, one.parameter)
            if known[group]:
                found[one.name] = young
            elif is_given:
                raise InputError(
                    f"young={str(young)!r} corrects the steps of Adam, and {type(share.stepping).__name__} takes other "
                    f"ones for {one.name}, or it is sharded by fully_shard; leave young= out, or give 'none'"
                )
    return found


@final
class YoungSteps:
    """Corrects the steps of young weights, right after the optimizers have taken them.

    Ages are exchanged as marks, one a weight: one more than the number of steps since it grew, or 0 if it is not young.

    Args:
        choices: what young weights get.
        shares: the optimizers.
        stores: the storage of the tensors of each.
        topology: the active positions.
        marks: (N,), int64; None if no weight is young.
    """

    def __init__(
        self,
        choices: Choices,
        shares: Sequence[OptimizerShare],
        stores: Sequence[Storage | None],
        topology: Topology,
        marks: Tensor | None = None,
    ) -> None:
        self._choices = choices
        self._holders = {
            one.name: (index, share.stepping, store)
            for index, (share, store) in enumerate(zip(shares, stores, strict=True))
            for one in share.tensors
            if store is not None
        }
        self._entries: dict[str, YoungEntries] = {}
        self._topology = topology
        if marks is not None:
            self.load(marks, topology)

    @property
    def is_active(self) -> bool:
        """Whether young weights of any tensor get something."""
        return bool(self._choices)

    def before_step(self, optimizer: int) -> None:
        """Note the counts of steps.

        Args:
            optimizer: the index of the optimizer that is about to take a step.
        """
        for entries in self._entries_of(optimizer):
            entries.before_step()

    def after_step(self, optimizer: int) -> None:
        """Correct the steps of young weights.

        Args:
            optimizer: the index of the optimizer that has taken a step.
        """
        for entries in self._entries_of(optimizer):
            entries.correct()

    def marks(self) -> Tensor:
        """Return the marks of all weights, (N,), int64."""
        topology = self._topology
        marks = torch.zeros(topology.size, dtype=torch.int64, device=as_tensor(topology.positions).device)
        for name, entries in self._entries.items():
            own = active_indices(topology, topology.layout.index(name))
            marks[topology.slots(name)].index_copy_(0, torch.searchsorted(own, entries.places), entries.ages + 1)
        return marks

    def load(self, marks: Tensor, topology: Topology) -> None:
        """Take up marks, when the storage has their topology.

        Args:
            marks: (N,), int64.
            topology: the N active positions.
        """
        self._topology, self._entries = topology, {}
        if not self.is_active:
            return
        is_young, counting = marks > 0, counting_of(topology.arrays)
        # a device is waited for twice, however many tensors there are
        counts = counting.count_each(is_young, topology.bounds)
        oldest = int(marks.max()) - 1
        for name, young in self._choices.items():
            tensor, own = topology.layout.index(name), topology.slots(name)
            if not counts[tensor]:
                continue
            chosen = as_tensor(counting.nonzero(is_young[own], int(counts[tensor])))
            _, optimizer, store = self._holders[name]
            places = active_indices(topology, tensor)[chosen]
            parameter, indices = store.stepped_entries(name, places)
            group = group_of(optimizer, parameter)
            self._entries[name] = YoungEntries(
                optimizer, group, parameter, young, places, indices, marks[own][chosen] - 1, oldest
            )
            self._entries[name].drop_mature()

    def carry(self, reallocation: Reallocation) -> None:
        """Follow the weights to another topology, where those that have grown are young."""
        if self.is_active:
            marks = as_tensor(reallocation.carry(self.marks()))
            marks[as_tensor(reallocation.grown_slots)] = 1
            self.load(marks, reallocation.after)

    def adopt(self, topology: Topology) -> None:
        """Follow the weights to a topology that the training has been given, where new ones are young.

        Args:
            topology: the other one.
        """
        if self.is_active:
            carry, is_new = carrier(self._topology, topology)
            self.load(carry(self.marks()).masked_fill_(is_new, 1), topology)

    def dump(self) -> dict[str, Any]:
        """Return what a state dict has: what young weights get, their positions, and their ages."""
        marks = self.marks()
        return {
            "choices": {name: str(one) for name, one in self._choices.items()},
            "positions": as_tensor(self._topology.positions)[marks > 0].detach().cpu(),
            "ages": marks[marks > 0].sub_(1).cpu(),
        }

    def loaded(self, saved: Mapping[str, Any] | None, topology: Topology) -> Tensor:
        """Return the marks in a state dict; nothing changes.

        Args:
            saved: of :meth:`dump`; None of a version without young weights.
            topology: that it was saved with.

        Raises:
            InputError: it is damaged, or young weights get something else here.
        """
        active = as_tensor(topology.positions)
        marks = torch.zeros(topology.size, dtype=torch.int64, device=active.device)
        if saved is None:
            return marks
        try:
            there, here = dict(saved["choices"]), {name: str(one) for name, one in self._choices.items()}
            if any(saved[name].dtype not in _WHOLE_NUMBERS or saved[name].ndim != 1 for name in ("positions", "ages")):
                raise TypeError("positions and ages are vectors of whole numbers")
            positions, ages = saved["positions"].to(marks), saved["ages"].to(marks)
            slots = torch.searchsorted(active, positions.to(active)).clamp_(max=topology.size - 1)
            is_sound = (
                ages.shape == positions.shape
                and bool((active[slots] == positions).all() and (slots.diff() > 0).all())
                and bool(((ages >= 0) & (ages < _TOO_OLD)).all())
            )
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(f"the state dict is damaged: its young weights cannot be read ({error!r})") from error
        if not is_sound:
            raise InputError("the state dict is damaged: its young weights are not active, or not of an age")
        for name in [*there, *here]:
            if there.get(name) != here.get(name):
                raise InputError(
                    f"the state dict is of a training in which young weights of {name} get {there.get(name, 'none')}, "
                    f"and here they get {here.get(name, 'none')}; sparsify takes it as young="
                )
        return marks.index_copy_(0, slots, ages + 1)

    def _entries_of(self, optimizer: int) -> list[YoungEntries]:
        return [entries for name, entries in self._entries.items() if self._holders[name][0] == optimizer]
