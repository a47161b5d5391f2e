"""The profile of an optimizer, which says what it keeps for a parameter, and helpers to read and fill state."""

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from sparsecore_torch.sparse_training.optimizers.copies import values_of


@attrs.frozen
class StateEntry:
    """How one tensor in an optimizer's state, of the parameter's shape, belongs to the weights.

    Attributes:
        is_entrywise: each entry depends on its weight and that weight's gradient, and on no others.
        fresh: the entry of a weight that has had neither value nor gradient; None where that is no one number, as in a
            preconditioner: such a tensor belongs to the parameter as a whole.
        follows_weight: a fresh entry is the value of the weight instead, as in copies of the weights.
        inactive: the entry that an inactive weight is to have; zero, unless that would mean something else to the
            optimizer.
        is_plain: it is a plain tensor, not one of a class that stores other numbers than it stands for.
        is_nested: it is in a list or dict within the parameter's state.
    """

    is_entrywise: bool
    fresh: float | None
    follows_weight: bool = False
    inactive: float = 0.0
    is_plain: bool = True
    is_nested: bool = False

    @property
    def is_zeroed(self) -> bool:
        """Whether plain zeros are what inactive weights are to have."""
        return self.is_plain and self.inactive == 0.0

    @property
    def is_kept_apart(self) -> bool:
        """Whether the entry of an inactive weight differs from that of a new one."""
        return self.follows_weight or self.fresh not in (None, self.inactive)


@attrs.frozen
class OptimizerProfile:
    """The effect of an optimizer on a parameter of a certain shape and dtype.

    Attributes:
        is_entrywise: it changes each weight by this weight, its gradient and its state alone.
        keeps_zero: a weight stays zero, and so does its state, if both and its gradient are zero.
        entries: the state of the parameter's shape, by path and key.
        others: the keys of all other state; None where all other state belongs to parameters as a whole.
        steps: the weights after each step of the trial, flat; to be compared with a trial on another shape.
    """

    is_entrywise: bool
    keeps_zero: bool
    entries: Mapping[str, StateEntry]
    others: frozenset[str] | None
    steps: Sequence[Tensor] = attrs.field(repr=False, eq=False)

    def knows(self, key: str) -> bool:
        """Return whether the profile says how some state belongs to the weights.

        Args:
            key: path and key of the state, as by :func:`flat`.
        """
        return key in self.entries or self.others is None or key in self.others


def labelled_states(layers: Sequence[Any], parameter: Tensor) -> Iterator[tuple[str, dict[str, Any]]]:
    """Iterate over the state that an optimizer, its wrappers and its parts keep for a parameter, each dict once.

    Args:
        layers: the optimizer that takes the step first.
        parameter: whose state it is.

    Yields:
        A label, which is empty for the first of the layers, and the dict.
    """
    seen: list[Any] = []
    for number, layer in enumerate(layers):
        state = getattr(layer, "state", {}).get(parameter)
        if isinstance(state, dict) and not any(state is one for one in seen):
            seen.append(state)
            yield f"{type(layer).__name__}." if number else "", state


def flat(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a state by key, that of dicts, lists and deques included.

    Args:
        state: of one parameter, nested to any depth.

    Returns:
        By key; what is in another one has the key ``key[inner key]``, a list or deque itself has none.
    """
    found: dict[str, Any] = {}
    for key, content in state.items():
        inner = _items(content)
        if inner is None:
            found[key] = content
        else:
            found.update(flat({f"{key}[{one}]": within for one, within in inner.items()}))
    return found


def first_of(key: str) -> str:
    """Return the key of a sequence's first element from that of any element: sequences may grow as steps go by.

    Args:
        key: as by :func:`flat`; one that names no element of a sequence is returned as it is.
    """
    return _ELEMENT.sub("[0]", key)


_ELEMENT = re.compile(r"\[\d+\]")


def is_nested(key: str) -> bool:
    """Return whether a key of :func:`flat` is that of an element of a dict, list or deque."""
    return key.endswith("]")


def _items(content: Any) -> Mapping[Any, Any] | None:
    if isinstance(content, Mapping):
        return content
    return dict(enumerate(content)) if isinstance(content, list | tuple | deque) else None


def fill(content: Tensor, where: Tensor, fresh: float | Tensor) -> None:
    """Replace entries of a tensor in an optimizer's state, in place.

    Args:
        content: the tensor; it may be of a class that stores other numbers than it stands for.
        where: True for the entries to replace, bool, of the same shape.
        fresh: their new values.
    """
    values = values_of(content)
    fresh = torch.as_tensor(fresh, dtype=values.dtype, device=values.device)
    content.detach().copy_(torch.where(where, fresh, values))


def put_fresh(content: Tensor, entry: StateEntry, where: Tensor, weights: Tensor) -> None:
    """Give entries of a tensor in an optimizer's state the values that new weights have.

    Args:
        content: the tensor, of the shape of ``where`` and ``weights``; changed in place.
        entry: how it belongs to the weights.
        where: True for the weights in question.
        weights: the values of the weights.
    """
    fill(content, where, weights if entry.follows_weight else entry.fresh or 0.0)
