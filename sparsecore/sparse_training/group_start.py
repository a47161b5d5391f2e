"""The engines of a training and the state that it starts with, where strategy and sparsity differ between tensors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from sparsecore.engine.engine import Engine
from sparsecore.engine.groups import EngineGroups, GroupStates
from sparsecore.engine.partition import Partition
from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Layout, Topology
from sparsecore.sparse_training.groups import Group
from sparsecore.sparse_training.start import DEFAULT_SPARSITY, Request, Start, is_drawn, start_topology

Stack = Mapping[str, object]
"""Strategies by name, bottom first."""

MakeEngine = Callable[[Layout, Stack], Engine]
"""Makes an engine for some of the sparse tensors."""


@attrs.frozen(eq=False)
class StartingGroup:
    """The tensors of one engine.

    Attributes:
        label: of the group.
        engine: for these tensors.
        stack: its strategies.
        sparsities: the groups of tensors with one sparsity each, which they begin with.
    """

    label: str
    engine: Engine
    stack: Stack
    sparsities: tuple[Group[float | None], ...]

    @property
    def sparsity(self) -> float | None:
        """The sparsity of all tensors together, where it is known."""
        given = [one.setting for one in self.sparsities]
        if len(given) == 1:
            return given[0]
        sizes = dict(zip(self.engine.layout.names, self.engine.layout.sizes, strict=True))
        inactive = sum((one.setting or 0.0) * sizes[name] for one in self.sparsities for name in one.tensors)
        return inactive / self.engine.layout.size


def starting_groups(
    layout: Layout, stacks: Sequence[Group[Stack]], sparsities: Sequence[Group[float | None]], make: MakeEngine
) -> tuple[StartingGroup, ...]:
    """Return the engines of a training: one for each strategy.

    A strategy that becomes sparser ends at one sparsity, so that it has an engine for each sparsity.

    Args:
        layout: all sparse tensors.
        stacks: the strategies of each group of tensors.
        sparsities: the sparsity of each group of tensors.
        make: makes an engine.

    Raises:
        PluginError: a strategy cannot be registered.
        InputError: tensors are not made of whole units.
    """
    return tuple(group for stack in stacks for group in _groups_of_stack(layout, stack, sparsities, make))


def _groups_of_stack(
    layout: Layout, stack: Group[Stack], sparsities: Sequence[Group[float | None]], make: MakeEngine
) -> Iterator[StartingGroup]:
    within = [
        attrs.evolve(one, tensors=tuple(name for name in one.tensors if name in stack.tensors)) for one in sparsities
    ]
    within = [one for one in within if one.tensors]
    engine = make(_part(layout, stack.tensors), stack.setting)
    if len(within) == 1 or not engine.becomes_sparser:
        yield StartingGroup(stack.label or _label(within), engine, stack.setting, tuple(within))
        return
    for one in within:
        label = ", ".join(filter(None, (stack.label, one.label)))
        yield StartingGroup(label, make(_part(layout, one.tensors), stack.setting), stack.setting, (one,))


def _label(sparsities: Sequence[Group[Any]]) -> str:
    return sparsities[0].label if len(sparsities) == 1 else ""


def _part(layout: Layout, names: Sequence[str]) -> Layout:
    chosen = set(names)
    return Layout.of({name: shape for name, shape in zip(layout.names, layout.shapes, strict=True) if name in chosen})


def group_states(
    start: Start, groups: Sequence[StartingGroup], request: Request, make: MakeEngine, clock: Clock
) -> tuple[EngineGroups, GroupStates]:
    """Return the engines and their state before the first step.

    Args:
        start: see :func:`sparsecore.sparse_training.start.start_topology`.
        groups: of :func:`starting_groups`.
        request: what else is known, with an engine for all sparse tensors.
        make: makes an engine.
        clock: the time of the start.

    Raises:
        InputError: the start does not fit the model, a sparsity or a strategy.
    """
    partition = Partition.of(request.engine.layout, [one.engine.layout.names for one in groups])
    engines = EngineGroups(partition, tuple(one.engine for one in groups), tuple(one.label for one in groups))
    topologies = [] if is_drawn(start) else list(partition.split(start_topology(start, request)))
    for one in groups if is_drawn(start) else ():  # a comprehension would be a call of its own, in which warnings count
        topologies.append(_drawn(start, one, request, make))
    states = [
        group.engine.start_at(topology, sparsity=_end(start, group), clock=clock, values=request.values)
        for group, topology in zip(groups, topologies, strict=True)
    ]
    return engines, engines.join(states)


def _end(start: Start, group: StartingGroup) -> float | None:
    """The sparsity that strategies that become sparser end at; None for that of the start."""
    return DEFAULT_SPARSITY if group.sparsity is None and is_drawn(start) else group.sparsity


def _drawn(start: Start, group: StartingGroup, request: Request, make: MakeEngine) -> Topology:
    """Return positions that are drawn, or those of the largest weights: each sparsity by itself."""
    partition = Partition.of(group.engine.layout, [one.tensors for one in group.sparsities])
    engines = [group.engine] if partition.is_whole else [make(own, group.stack) for own in partition.parts]
    topologies = []
    for engine, one in zip(engines, group.sparsities, strict=True):
        own = attrs.evolve(request, engine=engine, sparsity=one.setting)
        topologies.append(start_topology(start, own))
        if own.counts is None:  # else the number of weights is exact, in all tensors together
            engine.warn_of_other_sparsity(topologies[-1], own.wanted_sparsity, stacklevel=4)
    return partition.join(topologies)


def requested_sparsity(
    sparsities: Sequence[Group[float | None]], start: object, state: GroupStates
) -> float | Mapping[str, float]:
    """Return the sparsity that identifies a training: one number, or where it was given by group one a tensor.

    Args:
        sparsities: the sparsity of each group of tensors.
        start: as for ``sparsify``.
        state: before the first step.
    """
    if len(sparsities) == 1 and not sparsities[0].label:
        given = sparsities[0].setting
        if given is not None:
            return given
        return DEFAULT_SPARSITY if is_drawn(start) else state.topology.sparsity
    by_tensor = {name: one.setting for one in sparsities for name in one.tensors}
    return {name: float(by_tensor[name] or 0.0) for name in state.topology.layout.names}
