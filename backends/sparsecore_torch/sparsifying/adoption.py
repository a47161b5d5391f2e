"""The nonzero weights of a model as the topology of its training, after weights of another moment have been loaded."""

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sparsecore.engine import Engine
from sparsecore.errors import InputError
from sparsecore.memory import vectors_of
from sparsecore.randomness import Randomness
from sparsecore.state import State
from sparsecore.topology import Topology

Positions = NDArray[np.int64]


def adopted(engine: Engine, state: State, nonzero: Tensor) -> State:
    """The state whose active weights are the nonzero ones, filled up with some that are active now.

    Args:
        engine: of the training.
        state: as it is now.
        nonzero: the positions of the nonzero weights, ascending, int64.

    Raises:
        InputError: there are too many, or a strategy has a memory of each weight.
    """
    now, grouping = state.topology, engine.grouping
    there = grouping.units_with(now.at(now.arrays.cast(nonzero, now.layout.position_dtype)))
    units = grouping.units(now)
    if there.size > units.size or grouping.weights(there).size > now.size:
        raise InputError(
            f"the model has {len(nonzero)} nonzero weights in its sparse tensors, and the training {now.size} in all; "
            "an average, or a network that is not sparse, can be masked by training.mask_(model)"
        )
    positions = _filled(there, units, _groups(engine, units), engine.random.within("adopt", state.clock.step))
    topology = grouping.weights(units.at(units.arrays.from_numpy(positions.astype(units.layout.position_dtype))))
    if topology.size != now.size:
        raise InputError(
            f"the units of the model's nonzero weights have {topology.size} weights, and those of the training "
            f"{now.size}; load the state dict of the training that was saved with them"
        )
    if topology.sha256() == now.sha256():
        return state
    _check_memories(state.memories)
    return attrs.evolve(state, topology=topology)


def _check_memories(memories: Mapping[str, Any]) -> None:
    for plugin, memory in memories.items():
        if vectors_of(memory):
            raise InputError(
                f"the strategy {plugin} remembers something of each weight, which nonzero weights do not tell; load "
                "the state dict of the training that was saved with the model's: training.load_state_dict()"
            )


def _groups(engine: Engine, units: Topology) -> list[int]:
    """Into how many groups of consecutive positions each tensor is cut, within which counts are kept if possible."""
    rows = [shape[0] for shape in units.layout.shapes]
    for strategy in engine.strategies.values():
        multiples = getattr(getattr(strategy, "declares", None), "start_multiples", None)
        if multiples is not None:
            rows = [int(count) for count in multiples(units.layout)]
    return rows


def _filled(there: Topology, now: Topology, groups: list[int], random: Randomness) -> Positions:
    """As many positions as there are now: all of ``there``, and some of the others that are active now.

    Each tensor, and each group of consecutive positions within it, keeps its number as far as ``there`` lets it; which
    positions stay is drawn.
    """
    layout = now.layout
    missing = now.size - there.size
    quotas = _shares(now.counts - there.counts, missing, random.generator("tensors"))
    parts: list[Positions] = []
    for tensor, name in enumerate(layout.names):
        taken, active, width = there.local(name), now.local(name), max(1, layout.sizes[tensor] // groups[tensor])
        generator = random.generator("groups", name)
        spare = generator.permutation(np.setdiff1d(active, taken, assume_unique=True))
        spare = spare[np.argsort(spare // width, kind="stable")]
        count = layout.sizes[tensor] // width + 1
        wanted = np.bincount(active // width, minlength=count) - np.bincount(taken // width, minlength=count)
        quota = _shares(wanted, int(quotas[tensor]), generator)
        rank_in_group = np.arange(len(spare)) - np.searchsorted(spare // width, spare // width)
        kept = spare[rank_in_group < quota[spare // width]]
        parts.append(np.union1d(taken, kept) + layout.offsets[tensor])
    return np.concatenate(parts)


def _shares(wanted: NDArray[Any], total: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """So many in all, in no place more than wanted."""
    tickets = np.repeat(np.arange(len(wanted)), np.maximum(wanted, 0))
    chosen = generator.choice(tickets, total, replace=False)
    return np.bincount(chosen, minlength=len(wanted))
