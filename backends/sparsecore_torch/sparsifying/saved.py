"""Sparse training as a state dict of plain things, which ``torch.load(weights_only=True)`` reads."""

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from numpy.typing import NDArray

from sparsecore.engine import Engine
from sparsecore.errors import InputError
from sparsecore.grouping import trouble_with_units
from sparsecore.memory import dump_memory, load_memory, trouble_with_memory
from sparsecore.soundness import trouble_with_positions, trouble_with_topology
from sparsecore.state import State
from sparsecore.topology import Topology
from sparsecore.words import kind

_FORMAT = "sparsecore sparse training 1"

Counts = tuple[int, ...]


def dump(engine: Engine, state: State, sparsity: float, start: Counts) -> dict[str, Any]:
    """The state, the sparsity that was asked for, and the weights that each tensor had at the start."""
    return {
        "format": _FORMAT,
        **_identity(engine, state, sparsity),
        "weights": state.topology.size,
        "positions": state.topology.positions.detach().cpu(),
        "start": list(start),
        "clock": {"step": state.clock.step, "updates": state.clock.updates},
        "memories": {plugin: _dump_memory(memory, engine) for plugin, memory in state.memories.items()},
    }


def load(saved: Mapping[str, Any], engine: Engine, like: State, sparsity: float) -> tuple[State, Counts]:
    """The state that :func:`dump` wrote, and the weights at the start.

    Args:
        saved: what was written.
        engine: of the same layout and seed.
        like: a state of this engine, for the types of the memories and what else is not saved.
        sparsity: what was asked for here.

    Raises:
        InputError: it is none, or of another training; the sentence tells the first difference.
    """
    _check_same(saved, _identity(engine, like, sparsity))
    try:
        topology = _load_topology(saved["positions"].cpu().numpy(), saved["weights"], like.topology, engine)
        memories = {
            plugin: _load_memory(saved["memories"][plugin], memory, engine, topology)
            for plugin, memory in like.memories.items()
        }
        step, updates = (_count(saved["clock"][name], name) for name in ("step", "updates"))
        start = tuple(_count(weights, "start") for weights in saved["start"])
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise _damaged(repr(error)) from error
    if len(start) != len(like.topology.layout):
        raise _damaged(f"it holds {len(start)} numbers of weights at the start; there are {len(like.topology.layout)}")
    return State(topology, memories, attrs.evolve(like.clock, step=step, updates=updates)), start


def _identity(engine: Engine, state: State, sparsity: float) -> dict[str, Any]:
    """What must be the same when it is loaded again, as it can be told."""
    layout = engine.layout
    return {
        "tensors": {name: list(shape) for name, shape in zip(layout.names, layout.shapes, strict=True)},
        "sparsity": float(sparsity),
        "seed": engine.random.seed,
        "units": str(engine.units),
        "strategies with memory": sorted(state.memories),
    }


def _check_same(saved: Mapping[str, Any], own: dict[str, Any]) -> None:
    if not isinstance(saved, Mapping) or saved.get("format") != _FORMAT:
        raise InputError(f"this is no state dict of sparse training: expected one with the format {_FORMAT!r}")
    difference = _difference(saved.get("tensors"), own.pop("tensors"))
    for fact, here in own.items():
        if difference is None and saved.get(fact) != here:
            difference = f"{fact}: {saved.get(fact)} there, {here} here"
    if difference is not None:
        raise InputError(f"the state dict is of another training; the first difference is in {difference}")


def _difference(there: Any, here: Mapping[str, list[int]]) -> str | None:
    """Where two networks differ first."""
    if not isinstance(there, Mapping):
        return f"the tensors: {there!r} there"
    for name in [*there, *here]:
        if there.get(name) != here.get(name):
            shapes = [tensors.get(name, "none") for tensors in (there, here)]
            return f"the tensor {name!r}: {shapes[0]} there, {shapes[1]} here"
    return "the order of the tensors" if list(there) != list(here) else None


def _count(saved: Any, name: str) -> int:
    if not isinstance(saved, int) or saved < 0:
        raise _damaged(f"{name!r} is {saved!r}; expected a whole number of at least 0")
    return saved


def _load_topology(positions: NDArray[Any], weights: int, like: Topology, engine: Engine) -> Topology:
    if positions.shape != (weights,):
        raise _damaged(f"it holds {kind(positions)}; expected {weights} positions")
    on_backend = like.arrays.from_numpy(positions)
    trouble = (
        trouble_with_positions(on_backend, like)
        or trouble_with_topology(like.at(on_backend), like.layout)
        or trouble_with_units(like.at(on_backend), engine.grouping)
    )
    if trouble:
        raise _damaged(f"it holds {trouble}")
    return like.at(on_backend)


def _dump_memory(memory: Any, engine: Engine) -> dict[str, Any]:
    scalars, vectors = dump_memory(memory, engine.arrays)
    return {"scalars": scalars, "vectors": {name: torch.tensor(vector) for name, vector in vectors.items()}}


def _load_memory(saved: Mapping[str, Any], like: Any, engine: Engine, topology: Topology) -> Any:
    vectors = {name: vector.cpu().numpy() for name, vector in saved["vectors"].items()}
    memory = load_memory(like, saved["scalars"], vectors, engine.arrays)
    units = engine.grouping.units(topology)
    trouble = trouble_with_memory(memory, units.size, len(units.layout), units.layout.size)
    if trouble:
        raise _damaged(f"a memory has {trouble}")
    return memory


def _damaged(what: str) -> InputError:
    return InputError(f"the state dict of sparse training is damaged: {what}")
