"""Replaces dense Parameters by the N values in the optimizer, and gathers, carries and scatters their state."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import attrs
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore_torch.arrays import active_indices
from sparsecore_torch.sparse_training.model.parameters import NamedParameter
from sparsecore_torch.sparse_training.optimizers.profile import StateEntry, put_fresh
from sparsecore_torch.sparse_training.optimizers.state import OptimizerStates
from sparsecore_torch.sparse_training.storage.compact_weights import VALUES, CompactWeights


@final
class OptimizerFingerprint:
    """Writes the fingerprint of the topology into the optimizer's state dict, and reads it when one is loaded.

    Attributes:
        has_loaded: whether the optimizer has loaded a state since :meth:`carried`.

    Args:
        optimizer: trains the values of compact storage.
        topology: the active positions.
        name: of the fingerprint in the state dict.
    """

    def __init__(self, optimizer: Optimizer, topology: Topology, name: str) -> None:
        self._name = name
        self._optimizer = optimizer
        self._state_of = topology
        self._loaded: str | None = None
        self.has_loaded = False
        self._handles: list[RemovableHandle] = [
            optimizer.register_state_dict_post_hook(self._add),
            optimizer.register_load_state_dict_pre_hook(self._take),
        ]

    def carried(self, topology: Topology) -> None:
        """Note that the state belongs to a topology now.

        Args:
            topology: that the state has been carried to, or that it was loaded for and checked against.
        """
        self._state_of, self._loaded, self.has_loaded = topology, None, False

    def check(self, topology: Topology) -> None:
        """Check that the state that the optimizer has loaded belongs to this topology.

        Raises:
            InputError: it belongs to another one.
        """
        if self._loaded is not None and self._loaded != topology.sha256():
            raise InputError(
                "the optimizer has loaded a state that belongs to another topology than that of the training: in "
                "compact storage, load state dicts of model, optimizer and training that belong together, in any order"
            )

    def add_state_dict_hook(self, hook: Callable[[Optimizer, dict[str, Any]], None]) -> None:
        """Add a hook that changes the optimizer's state dicts, fingerprint included, until :meth:`end`."""
        self._handles.append(self._optimizer.register_state_dict_post_hook(hook))

    def end(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()

    def _add(self, _: Optimizer, state: dict[str, Any]) -> None:
        digest = self._loaded or self._state_of.sha256()
        state[self._name] = torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)

    def _take(self, _: Optimizer, state: Mapping[str, Any]) -> None:
        saved = state.get(self._name)
        self.has_loaded = True
        self._loaded = bytes(saved.tolist()).hex() if isinstance(saved, Tensor) else None


@attrs.frozen(eq=False)
class CompactState:
    """The optimizer's state of the N values.

    Attributes:
        optimizer: that trains the values.
        weights: the values.
        states: what the optimizer keeps for them.
    """

    optimizer: Optimizer
    weights: CompactWeights
    states: OptimizerStates

    @classmethod
    def of(cls, optimizer: Optimizer, weights: CompactWeights) -> "CompactState":
        """Return the state of the values.

        Args:
            optimizer: that holds the values as a Parameter.
            weights: the values.

        Raises:
            InputError: it cannot be found out what the optimizer keeps for each weight.
        """
        return cls(optimizer, weights, OptimizerStates(optimizer, {VALUES: weights.values}))

    @property
    def values(self) -> nn.Parameter:
        """The N values."""
        return self.weights.values

    def carry(self, carry: Callable[[Tensor], Tensor], is_new: Tensor, values: Tensor) -> None:
        """Carry the state to another topology.

        Args:
            carry: carries one entry for each weight, from (N before,) to (N after,), zero for each new one.
            is_new: True for each new weight, whose state is that of a fresh one; (N after,).
            values: of the weights after, (N after,).
        """
        self.states.renew({VALUES: self.values})
        for key, content, entry in self._entries():
            carried = in_place(content, carry(content))
            if entry.follows_weight or entry.fresh:  # others are zero already
                put_fresh(carried, entry, is_new, values.to(carried.device))
            self._content[key] = carried

    def scattered(self, topology: Topology) -> list[dict[str, Any]]:
        """Return the state of each dense tensor; inactive weights have that of fresh ones.

        Args:
            topology: the positions of the values.

        Returns:
            State by name, in the order of the layout; numbers such as the count of steps are copied to each.
        """
        self.states.renew({VALUES: self.values})
        entries = {key: (content, entry) for key, content, entry in self._entries()}
        return [
            {
                key: _scattered(*entries[key], index, topology) if key in entries else copy.deepcopy(content)
                for key, content in self._content.items()
            }
            for index in range(len(topology.layout))
        ]

    @property
    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = self.optimizer.state.get(self.values, {})
        return content

    def _entries(self) -> list[tuple[str, Tensor, StateEntry]]:
        known = [(content, entry) for content, entry in self.states.entries(VALUES, self.values)]
        return [
            (key, content, entry) for key, content in self._content.items() for one, entry in known if content is one
        ]


def _scattered(content: Tensor, entry: StateEntry, index: int, topology: Topology) -> Tensor:
    slots = content[topology.bounds[index] : topology.bounds[index + 1]]
    dense = content.new_full(topology.layout.shapes[index], entry.fresh or 0.0)
    dense.view(-1).index_copy_(0, active_indices(topology, index), slots)
    return dense


def gathered_state(
    optimizer: Optimizer, tensors: Sequence[NamedParameter], gather: Callable[[Sequence[Tensor]], Tensor]
) -> dict[str, Any]:
    """Gather the state of the N values from that of dense Parameters.

    Args:
        optimizer: with state that :meth:`CompactGroup.of` has checked.
        tensors: the dense Parameters.
        gather: from dense tensors, one for each Parameter, to their N active entries.

    Returns:
        State by name; empty where there is none. A Parameter without any, among others that have some, gets that of
        fresh weights.
    """
    parameters = {one.name: one.parameter for one in tensors}
    states = OptimizerStates(optimizer, parameters)
    contents = {name: dict(optimizer.state.get(parameter, {})) for name, parameter in parameters.items()}
    known = next(((name, content) for name, content in contents.items() if content), None)
    if known is None:
        return {}
    first, gathered = known[0], dict(known[1])
    for key, content in known[1].items():
        entry = states.profile(first).entries.get(key)
        if entry is not None and _has_shape(content, parameters[first].shape):
            parts = [
                contents[name][key] if key in contents[name] else _fresh(content, entry, parameter)
                for name, parameter in parameters.items()
            ]
            gathered[key] = gather(parts)
    return gathered


def _fresh(like: Tensor, entry: StateEntry, parameter: Tensor) -> Tensor:
    if entry.follows_weight:
        return parameter.detach().to(like.dtype)
    return like.new_tensor(entry.fresh or 0.0).expand(parameter.shape)


def in_place(tensor: Tensor, entries: Tensor) -> Tensor:
    """Write entries into a tensor if their number is the same.

    Args:
        tensor: changed in place.
        entries: the new entries.

    Returns:
        The tensor, or the entries if their number differs.
    """
    return tensor.copy_(entries) if tensor.shape == entries.shape else entries


def _has_shape(content: Any, shape: torch.Size) -> bool:
    return isinstance(content, Tensor) and content.shape == shape
