"""The record of a training in its state dict: its history, what its observers need, and which positions were active."""

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from sparsecore.engine.groups import GroupStates
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError
from sparsecore.observers.coverage import Coverage
from sparsecore.observers.history import History
from sparsecore.observers.observation import Subject, flat_settings
from sparsecore.observers.record import Record
from sparsecore.sparse_training.state_dict import SavedArrays


def observed_subject(identity: Mapping[str, Any], *, is_first_rank: bool = True) -> Subject:
    """Return what observers get to know of a training as a whole.

    Args:
        identity: of the training.
        is_first_rank: whether observers are called in this process.
    """
    settings = {name: fact for name, fact in identity.items() if name not in {"tensors", "strategies with memory"}}
    return Subject(flat_settings(settings), folder=None, name="", is_first_rank=is_first_rank)


def dump_record(record: Record, saved: SavedArrays) -> dict[str, Any]:
    """Return what a state dict has of the updates so far and of the observers; nothing of either if there is none.

    Args:
        record: of the training.
        saved: the arrays of the state dict.
    """
    observation, history = record.observation, record.history
    parts = {
        "history": _history(record, saved) if history.entries else None,
        "ever_active": None if observation.coverage is None else saved.pack(observation.coverage.dump()),
        "observers": observation.states() or None,
    }
    return {name: part for name, part in parts.items() if part is not None}


def _history(record: Record, saved: SavedArrays) -> dict[str, Any]:
    entries = record.history.dump().items()
    return {name: saved.pack(content) if isinstance(content, np.ndarray) else content for name, content in entries}


@attrs.frozen(eq=False)
class SavedRecord:
    """The record in a state dict.

    Attributes:
        history: the updates; empty where the state dict has none.
        ever_active: the positions that were ever active; None where the state dict does not have them.
        observers: the states of observers by name.
    """

    history: History
    ever_active: Coverage | None
    observers: Mapping[str, Mapping[str, str]]

    def put(self, record: Record, state: GroupStates) -> None:
        """Go on from here.

        Args:
            record: of the training.
            state: in the same state dict.
        """
        record.history = self.history
        record.observation.restore(state.topology, state.clock, self.observers, self.ever_active)


def load_record(saved: Mapping[str, Any], layout: Layout, arrays: SavedArrays) -> SavedRecord:
    """Return the record in a state dict.

    Args:
        saved: the state dict, also one that has no record.
        layout: the sparse tensors.
        arrays: those of the state dict.

    Raises:
        InputError: it is damaged.
    """
    try:
        history = {name: arrays.unpack(content) for name, content in saved.get("history", {}).items()}
        observers = {
            str(name): {str(key): str(value) for key, value in state.items()}
            for name, state in saved.get("observers", {}).items()
        }
        bits = arrays.unpack(saved["ever_active"]) if "ever_active" in saved else None
        coverage = None if bits is None else Coverage.load(bits, layout.size)
    except AttributeError as error:
        raise InputError(f"the state dict of sparse training is damaged: {error!r}") from error
    loaded = History.load(history, len(layout)) if "history" in saved else History(len(layout))
    return SavedRecord(loaded, coverage, observers)
