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
from sparsecore_torch.sparse_training.optimizers.probe import stand_in
from sparsecore_torch.sparse_training.optimizers.profile import OptimizerProfile, StateEntry, put_fresh
from sparsecore_torch.sparse_training.optimizers.state import OptimizerStates, group_of, profile_of
from sparsecore_torch.sparse_training.storage.compact_weights import TOPOLOGY, VALUES, CompactWeights


@final
class OptimizerFingerprint:
    """Writes the fingerprint of the topology into the optimizer's state dict, and reads it when one is loaded.

    Attributes:
        has_loaded: whether the optimizer has loaded a state since :meth:`carried`.

    Args:
        optimizer: trains the values of compact storage.
        topology: the active positions.
    """

    def __init__(self, optimizer: Optimizer, topology: Topology) -> None:
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
        state[TOPOLOGY] = torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)

    def _take(self, _: Optimizer, state: Mapping[str, Any]) -> None:
        saved = state.get(TOPOLOGY)
        self.has_loaded = True
        self._loaded = bytes(saved.tolist()).hex() if isinstance(saved, Tensor) else None


@attrs.frozen(eq=False)
class CompactGroup:
    """The param group of the sparse tensors.

    Attributes:
        optimizer: whose group it is.
        index: of the group.
        slots: the index in the group of each tensor's Parameter.
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
        identities = [id(parameter) for parameter in optimizer.param_groups[index]["params"]]
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
        parameters = self.parameters
        for slot in self.slots:
            self.optimizer.state.pop(parameters[slot], None)
        rest = [parameter for slot, parameter in enumerate(parameters) if slot not in self.slots]
        rest.insert(min(self.slots), values)
        parameters[:] = rest  # the same list, as some optimizers hold on to it
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
        parameters = self.parameters
        parameters[:] = [parameter for parameter in parameters if parameter is not values]
        for slot, index in sorted((slot, index) for index, slot in enumerate(self.slots)):
            parameters.insert(slot, dense[index])
        self.optimizer.state.pop(values, None)
        for parameter, state in zip(dense, states, strict=True):
            if state:
                self.optimizer.state[parameter] = dict(state)


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
            carry: carries one entry for each weight, from (N before,) to (N after,).
            is_new: True for each new weight, whose state is that of a fresh one; (N after,).
            values: of the weights after, (N after,).
        """
        self.states.renew({VALUES: self.values})
        for key, content, entry in self._entries():
            carried = in_place(content, carry(content))
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
