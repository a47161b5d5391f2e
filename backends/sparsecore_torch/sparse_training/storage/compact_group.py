"""The param group of the sparse tensors in compact storage: one Parameter of values takes the place of many."""

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

import attrs
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsecore.errors import InputError
from sparsecore_torch.sparse_training.model.parameters import NamedParameter
from sparsecore_torch.sparse_training.optimizers.probe import stand_in
from sparsecore_torch.sparse_training.optimizers.profile import OptimizerProfile, StateEntry
from sparsecore_torch.sparse_training.optimizers.state import group_of, profile_of


@attrs.frozen(eq=False)
class CompactGroup:
    """The param group of the sparse tensors.

    Attributes:
        optimizer: whose group it is.
        index: of the group.
        slots: the index of each tensor's Parameter among those of the group, all of them dense.
    """

    optimizer: Optimizer
    index: int
    slots: tuple[int, ...]

    @classmethod
    def of(cls, optimizer: Optimizer, tensors: Sequence[NamedParameter]) -> "CompactGroup":
        """Find the group that holds all sparse tensors; nothing is changed.

        Args:
            optimizer: that trains them.
            tensors: the sparse tensors.

        Raises:
            InputError: there are several, or the optimizer does not work entry by entry.
        """
        groups = {one.name: group_of(optimizer, one.parameter) for one in tensors}
        if len(set(groups.values())) > 1:
            listed = "; ".join(f"group {group}: {_names(groups, group)}" for group in sorted(set(groups.values())))
            raise InputError(
                "compact storage trains all sparse tensors as one, so that they must be in one param group of the "
                f"optimizer; they are in {len(set(groups.values()))} ({listed})"
            )
        index = groups[tensors[0].name]
        entries = _check_entry_by_entry(optimizer, index, tensors)
        _check_state(optimizer, tensors, entries)
        identities = [id(parameter) for parameter in _order(optimizer, index)]
        return cls(optimizer, index, tuple(identities.index(id(one.parameter)) for one in tensors))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The group's own list."""
        parameters: list[nn.Parameter] = self.optimizer.param_groups[self.index]["params"]
        return parameters

    def insert_values(self, values: nn.Parameter, state: Mapping[str, Any]) -> None:
        """Replace all dense Parameters by the values, which take the slot of the first.

        Args:
            values: (N,).
            state: what the optimizer keeps for them, by name.
        """
        order = _order(self.optimizer, self.index)
        for slot in self.slots:
            self.optimizer.state.pop(order[slot], None)
            order[slot] = values
        self._take_up(order, [values])
        _VALUES[self.optimizer] = (*_VALUES.get(self.optimizer, ()), ref(values))
        if state:
            self.optimizer.state[values] = dict(state)

    def restore_dense(
        self, values: nn.Parameter, dense: Sequence[nn.Parameter], states: Sequence[Mapping[str, Any]]
    ) -> None:
        """Replace the values by dense Parameters in their slots.

        Args:
            values: (N,).
            dense: one for each tensor.
            states: what the optimizer keeps for each of them, by name.
        """
        order = _order(self.optimizer, self.index)
        for slot, parameter in zip(self.slots, dense, strict=True):
            order[slot] = parameter
        self._take_up(order, dense)
        self.optimizer.state.pop(values, None)
        for parameter, state in zip(dense, states, strict=True):
            if state:
                self.optimizer.state[parameter] = dict(state)

    def _take_up(self, order: Sequence[nn.Parameter | None], placed: Sequence[nn.Parameter]) -> None:
        """Let the group hold the Parameters of its slots, each once.

        Args:
            order: the Parameter of each slot.
            placed: those that are new in it.
        """
        parameters = self.parameters
        held = {id(one) for one in (*parameters, *placed)}
        distinct = {id(one): one for one in order if one is not None and id(one) in held}
        parameters[:] = distinct.values()  # the same list, as some optimizers hold on to it
        orders = {**orders_of(self.optimizer), self.index: tuple(None if one is None else ref(one) for one in order)}
        if len({id(one) for one in order}) == len(order):  # all are dense again
            del orders[self.index]
        restore_orders(self.optimizer, orders)


Orders = Mapping[int, tuple["ref[nn.Parameter] | None", ...]]
"""The Parameter of each slot of the param groups that hold values of compact storage, by the index of the group.

A slot is the place of a Parameter in the group when all are dense. So several trainings may end in any order. The
references are weak, because hooks of a Parameter may keep the optimizer alive.
"""

_ORDERS: WeakKeyDictionary[Optimizer, Orders] = WeakKeyDictionary()


def orders_of(optimizer: Optimizer) -> Orders:
    """Return the slots of an optimizer's param groups, for :func:`restore_orders`."""
    return _ORDERS.get(optimizer, {})


def restore_orders(optimizer: Optimizer, orders: Orders) -> None:
    """Take up other slots.

    Args:
        optimizer: whose groups they are of.
        orders: of :func:`orders_of`.
    """
    _ORDERS.pop(optimizer, None)
    if orders:
        _ORDERS[optimizer] = orders


_VALUES: WeakKeyDictionary[Optimizer, tuple["ref[nn.Parameter]", ...]] = WeakKeyDictionary()
"""The values of compact storage that an optimizer trains, or has trained."""


def check_alone(optimizer: Optimizer) -> None:
    """Check that an optimizer trains the values of one training alone.

    Raises:
        InputError: it trains those of several.
    """
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    values = [one for one in _VALUES.get(optimizer, ()) if id(one()) in held]
    if len(values) > 1:
        raise InputError(
            f"{len(values)} trainings in compact storage share this {type(optimizer).__name__}, and its state dict can "
            "be that of a dense model for one alone; give each an optimizer of its own, or take storage='masked'"
        )


def _order(optimizer: Optimizer, index: int) -> list[Any]:
    """Return the Parameter of each slot; None where it no longer exists. Those that have been added since come last."""
    now: list[nn.Parameter] = optimizer.param_groups[index]["params"]
    known = [None if one is None else one() for one in orders_of(optimizer).get(index, ())]
    inside = {id(one) for one in known}
    return [*known, *(one for one in now if id(one) not in inside)]


def _check_entry_by_entry(
    optimizer: Optimizer, group: int, tensors: Sequence[NamedParameter]
) -> Mapping[str, StateEntry]:
    """Check that the optimizer treats entries alike in the tensors and in one long vector.

    Returns:
        What it keeps for each weight, by key.
    """
    found: Mapping[str, StateEntry] = {}
    tried: set[Any] = set()
    for one in tensors:
        kind = stand_in(tuple(one.parameter.shape))
        if kind in tried:
            continue
        tried.add(kind)
        shaped = profile_of(optimizer, group, one.name, one.parameter)
        if not _is_entry_by_entry(shaped):
            raise _by_shape(optimizer, one)
        try:
            flat = profile_of(optimizer, group, one.name, one.parameter, flat_shape=True)
        except InputError as error:  # it takes no vectors
            raise _by_shape(optimizer, one) from error
        if not _is_entry_by_entry(flat):
            raise _by_shape(optimizer, one)
        if not all(step.isfinite().all() for step in shaped.steps):
            raise InputError(
                f"{type(optimizer).__name__} makes weights of {one.name} that are not finite, whatever the storage, in "
                f"{str(one.parameter.dtype).removeprefix('torch.')}: an eps such as 1e-8 is zero in float16, so that "
                "Adam divides by zero; take eps=1e-7 or a greater one there"
            )
        if shaped.entries.keys() != flat.entries.keys() or not _alike(shaped.steps, flat.steps):
            raise InputError(
                f"{type(optimizer).__name__} treats the vector of compact storage in another way than a tensor of the "
                f"shape of {one.name}; take storage='masked', or an optimizer such as SGD, Adam or AdamW"
            )
        found = shaped.entries
    return found


def _is_entry_by_entry(profile: OptimizerProfile) -> bool:
    entries = profile.entries.values()
    return profile.is_entrywise and all(entry.is_entrywise and not entry.is_nested for entry in entries)


def _by_shape(optimizer: Optimizer, one: NamedParameter) -> InputError:
    return InputError(
        f"{type(optimizer).__name__} depends on the shapes of tensors, which compact storage does not have: what it "
        f"does to one weight of {one.name} depends on others; take storage='masked', or an optimizer such as SGD, Adam "
        "or AdamW"
    )


def _alike(steps: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether two trials led to the same weights up to rounding, which depends on the position in fused kernels."""
    tolerance = {torch.bfloat16: 0.1, torch.float16: 0.02}
    return all(
        torch.allclose(one.float(), other.float(), rtol=tolerance.get(one.dtype, 1e-3), atol=1e-6)
        for one, other in zip(steps, others, strict=True)
    )


def _check_state(optimizer: Optimizer, tensors: Sequence[NamedParameter], entries: Mapping[str, StateEntry]) -> None:
    """Check that the existing state can become that of one vector."""
    first: dict[str, tuple[str, Any]] = {}
    for one in tensors:
        for key, content in optimizer.state.get(one.parameter, {}).items():
            if key in entries and _has_shape(content, one.parameter.shape):
                continue
            if isinstance(content, Tensor) and content.numel() != 1:
                raise InputError(
                    f"the optimizer's state {key!r} of {one.name} has the shape {tuple(content.shape)}; compact "
                    f"storage takes single numbers, and tensors of the Parameter's shape {tuple(one.parameter.shape)} "
                    "with one entry a weight"
                )
            name, other = first.setdefault(key, (one.name, content))
            if other != content:
                raise InputError(
                    f"the optimizer's state {key!r} is {_shown(other)} for {name} and {_shown(content)} for "
                    f"{one.name}; compact storage trains them as one, so that it must be the same"
                )


def _has_shape(content: Any, shape: torch.Size) -> bool:
    return isinstance(content, Tensor) and content.shape == shape


def _shown(content: Any) -> Any:
    return content.item() if isinstance(content, Tensor) else content


def _names(groups: Mapping[str, int], index: int) -> str:
    return ", ".join(name for name, group in groups.items() if group == index)
