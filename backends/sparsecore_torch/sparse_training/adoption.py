"""Makes the nonzero weights of a model the active ones of a training, as after loading weights from another time."""

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sparsecore.engine.engine import Engine
from sparsecore.engine.groups import EngineGroups, GroupStates
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.state import State, vectors_of
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore_torch.arrays import as_tensor

Positions = NDArray[np.int64]


def adopted_by_groups(engines: EngineGroups, state: GroupStates, nonzero: Tensor) -> GroupStates:
    """Return the state whose active weights are the nonzero ones, filled up with some that are active now.

    Args:
        engines: of the training.
        state: the present one.
        nonzero: the positions of the nonzero weights, ascending, int64.

    Raises:
        InputError: there are too many in a group, a strategy keeps a vector with one entry a weight, or one decides
            which weights the model computes with.
    """
    now = state.topology
    parts = engines.partition.split(now.at(now.arrays.cast(nonzero, now.layout.position_dtype)))
    columns = zip(engines.engines, state.states, parts, strict=True)
    states = tuple(adopted(engine, own, as_tensor(part.positions)) for engine, own, part in columns)
    if all(one is own for one, own in zip(states, state.states, strict=True)):
        return state
    topology = engines.partition.join([one.topology for one in states])
    return attrs.evolve(state, states=states, topology=topology)


def adopted(engine: Engine, state: State, nonzero: Tensor) -> State:
    """Return the state of one group, as :func:`adopted_by_groups` does for all.

    Args:
        engine: of the group.
        state: the present one.
        nonzero: the positions of its nonzero weights, ascending.

    Raises:
        InputError: as :func:`adopted_by_groups` does.
    """
    now, unit_map = state.topology, engine.unit_map
    there = unit_map.units_containing(now.at(now.arrays.cast(nonzero, now.layout.position_dtype)))
    units = unit_map.units(now)
    if there.size > units.size or unit_map.weights(there).size > now.size:
        raise InputError(
            f"the model has {len(nonzero)} nonzero weights in its sparse tensors, and the training {now.size} in all; "
            "an average, or a network that is not sparse, can be masked by training.mask_(model)"
        )
    positions = _filled(there, units, _groups(engine, units), engine.random.child("adopt", state.clock.step))
    topology = unit_map.weights(units.at(units.arrays.from_numpy(positions.astype(units.layout.position_dtype))))
    if topology.size != now.size:
        raise InputError(
            f"the units of the model's nonzero weights have {topology.size} weights, and those of the training "
            f"{now.size}; load the state dict of the training that was saved with them"
        )
    if topology.sha256() == now.sha256():
        return state
    if engine.has_silent_weights:
        raise InputError(
            "a strategy decides which weights the model computes with, and nonzero weights do not tell the others; "
            "load the state dict of the training that was saved with the model's: training.load_state_dict()"
        )
    _check_strategy_states(state.strategy_states)
    return attrs.evolve(state, topology=topology)


def _check_strategy_states(strategy_states: Mapping[str, Any]) -> None:
    for plugin, strategy_state in strategy_states.items():
        if vectors_of(strategy_state):
            raise InputError(
                f"the strategy {plugin} remembers something of each weight, which nonzero weights do not tell; load "
                "the state dict of the training that was saved with the model's: training.load_state_dict()"
            )


def _groups(engine: Engine, units: Topology) -> list[int]:
    """Return the number of groups of consecutive positions of each tensor, within which counts are kept if possible."""
    rows = [shape[0] for shape in units.layout.shapes]
    for strategy in engine.strategies.values():
        multiples = getattr(getattr(strategy, "declares", None), "start_multiples", None)
        if multiples is not None:
            rows = [int(count) for count in multiples(units.layout)]
    return rows


def _filled(there: Topology, now: Topology, groups: list[int], random: Randomness) -> Positions:
    """As many positions as are active now: all of ``there``, and some of the others that are active now.

    Each tensor, and each group of consecutive positions in it, keeps its number of positions as far as ``there``
    permits; which of the others stay is drawn.
    """
    layout = now.layout
    missing = now.size - there.size
    quotas = _shares(now.counts - there.counts, missing, random.generator("tensors"))
    parts: list[Positions] = []
    for tensor, name in enumerate(layout.names):
        present, active, width = there.local(name), now.local(name), max(1, layout.sizes[tensor] // groups[tensor])
        generator = random.generator("groups", name)
        spare = generator.permutation(np.setdiff1d(active, present, assume_unique=True))
        spare = spare[np.argsort(spare // width, kind="stable")]
        count = layout.sizes[tensor] // width + 1
        wanted = np.bincount(active // width, minlength=count) - np.bincount(present // width, minlength=count)
        quota = _shares(wanted, int(quotas[tensor]), generator)
        rank_in_group = np.arange(len(spare)) - np.searchsorted(spare // width, spare // width)
        kept = spare[rank_in_group < quota[spare // width]]
        parts.append(np.union1d(present, kept) + layout.offsets[tensor])
    return np.concatenate(parts)


def _shares(wanted: NDArray[Any], total: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw ``total`` of the wanted numbers: counts of this sum, none larger than wanted."""
    tickets = np.repeat(np.arange(len(wanted)), np.maximum(wanted, 0))
    chosen = generator.choice(tickets, total, replace=False)
    return np.bincount(chosen, minlength=len(wanted))
