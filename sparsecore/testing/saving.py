"""A moment of a run, saved as a checkpoint is and taken up again."""

import json
from collections.abc import Mapping
from typing import Any

import attrs
from numpy.typing import NDArray

from sparsecore.arrays import Arrays
from sparsecore.engine import Engine
from sparsecore.run.checkpoint import Checkpoint, from_checkpoint, to_checkpoint
from sparsecore.state import State
from sparsecore.testing.runs import Moment
from sparsecore.topology import Topology


class _Held:
    """The part of a learner that a checkpoint asks for: it holds the values."""

    def __init__(self, values: Any, arrays: Arrays) -> None:
        self.values, self._arrays = values, arrays

    def state(self) -> dict[str, NDArray[Any]]:
        """The values."""
        return {"values": self._arrays.to_numpy(self.values).copy()}

    def dense(self) -> dict[str, NDArray[Any]]:
        """No others."""
        return {}

    def load_state(self, topology: Topology, state: Mapping[str, NDArray[Any]]) -> None:  # noqa: ARG002
        """Take up the values."""
        self.values = self._arrays.from_numpy(state["values"])


@attrs.frozen
class Saved:
    """The contents of a checkpoint's file: scalars as JSON, arrays as safetensors."""

    facts: str
    arrays: bytes


def saved(moment: Moment) -> Saved:
    """The moment as a run would save it."""
    from safetensors.numpy import save

    learner: Any = _Held(moment.values, moment.state.topology.arrays)
    checkpoint = to_checkpoint(moment.state, learner, {})
    return Saved(json.dumps(checkpoint.facts, sort_keys=True, allow_nan=False), save(dict(checkpoint.arrays)))


def resumed(algorithm: Engine, start: State, content: Saved) -> Moment:
    """The moment that was saved, in another engine.

    Args:
        algorithm: of the same strategies, which have seen no run.
        start: its state at the start of the run.
        content: what was saved.
    """
    from safetensors.numpy import load

    learner: Any = _Held(None, algorithm.arrays)
    state = from_checkpoint(Checkpoint(json.loads(content.facts), load(content.arrays)), start, learner)
    return Moment(state, learner.values)
