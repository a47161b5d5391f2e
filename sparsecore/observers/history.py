"""The history of a training's updates, as numbers by tensor: small enough for summaries, plots and checkpoints."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Counts, constant
from sparsecore.engine.reallocation import Reallocation
from sparsecore.errors import InputError

MOST_ENTRIES = 512
"""The number of entries at which neighbours are merged, so that a history stays small however long a training is."""

_BEFORE_UPDATES: Mapping[str, float] = MappingProxyType({"pruned": 0.0, "grown": 0.0, "overlap": 1.0})


@attrs.frozen(eq=False)
class Entry:
    """One update, or several consecutive ones together.

    Attributes:
        step: the number of optimizer steps before the last of them.
        updates: how many updates they are.
        pruned: weights pruned in each tensor, summed over them; int64, (tensors,).
        grown: weights grown in each tensor, likewise.
        active: active weights of each tensor after the last of them, likewise.
        overlap: the mean of their overlaps, each in [0, 1].
    """

    step: int
    updates: int
    pruned: Counts
    grown: Counts
    active: Counts
    overlap: float

    def merged(self, later: "Entry") -> "Entry":
        """Return this entry and the one that follows it as one."""
        updates = self.updates + later.updates
        return Entry(
            step=later.step,
            updates=updates,
            pruned=constant(self.pruned + later.pruned),
            grown=constant(self.grown + later.grown),
            active=later.active,
            overlap=(self.overlap * self.updates + later.overlap * later.updates) / updates,
        )


@attrs.frozen(eq=False)
class History:
    """The updates of a training so far.

    Attributes:
        tensors: the number of sparse tensors.
        entries: in order; each has ``stride`` updates, except that the last one may have fewer.
        stride: the number of updates of an entry, a power of two.
        latest: the metrics of the last update: ``pruned``, ``grown``, ``overlap``, and what strategies reported.
    """

    tensors: int
    entries: tuple[Entry, ...] = ()
    stride: int = 1
    latest: Mapping[str, float] = _BEFORE_UPDATES

    def after(self, reallocation: Reallocation, step: int, metrics: Mapping[str, float]) -> "History":
        """Return the history with one more update.

        Args:
            reallocation: the update.
            step: the number of optimizer steps before it.
            metrics: its metrics, of :func:`sparsecore.observers.metrics.update_metrics`.
        """
        entry = Entry(
            step=step,
            updates=1,
            pruned=reallocation.pruned,
            grown=reallocation.grown,
            active=reallocation.after.counts,
            overlap=metrics["overlap"],
        )
        entries, stride = self.entries, self.stride
        if entries and entries[-1].updates < stride:
            entries, entry = entries[:-1], entries[-1].merged(entry)
        elif len(entries) == MOST_ENTRIES:
            pairs = zip(entries[::2], entries[1::2], strict=True)
            entries, stride = tuple(first.merged(second) for first, second in pairs), 2 * stride
        return History(self.tensors, (*entries, entry), stride, dict(metrics))

    def dump(self) -> dict[str, Any]:
        """Return the history as numbers, dicts and NumPy arrays, which :meth:`load` reads.

        Returns:
            'step' and 'updates', int64, (entries,); 'pruned', 'grown' and 'active', int64, (entries, tensors);
            'overlap', float64, (entries,); 'stride' and 'latest' as they are.
        """
        columns = {name: [getattr(entry, name) for entry in self.entries] for name in (*_NUMBERS, *_COUNTS)}
        shapes = {**dict.fromkeys(_NUMBERS, (-1,)), **dict.fromkeys(_COUNTS, (-1, self.tensors))}
        return {
            "stride": self.stride,
            "latest": dict(self.latest),
            **{name: np.asarray(column, np.int64).reshape(shapes[name]) for name, column in columns.items()},
            "overlap": np.asarray([entry.overlap for entry in self.entries], np.float64),
        }

    @classmethod
    def load(cls, saved: Mapping[str, Any], tensors: int) -> "History":
        """Return the history that :meth:`dump` has written.

        Args:
            saved: what it wrote; arrays of any kind that NumPy reads.
            tensors: the number of sparse tensors.

        Raises:
            InputError: it is damaged, or of another number of tensors.
        """
        try:
            columns = {name: np.asarray(saved[name]) for name in (*_NUMBERS, *_COUNTS, "overlap")}
            stride, latest = saved["stride"], {str(name): float(value) for name, value in saved["latest"].items()}
            error = _error(columns, tensors, stride) or _latest_error(latest)
        except (KeyError, TypeError, ValueError, AttributeError) as failure:
            error = repr(failure)
        if error:
            raise InputError(f"the history of updates is damaged: {error}")
        return cls(tensors, tuple(_entry(columns, row) for row in range(len(columns["step"]))), stride, latest)


_NUMBERS = ("step", "updates")
_COUNTS = ("pruned", "grown", "active")


def _error(columns: Mapping[str, NDArray[Any]], tensors: int, stride: Any) -> str | None:
    """Return why these columns are not those of a history; None where they are."""
    entries = len(columns["step"])
    for name, column in columns.items():
        shape = (entries, tensors) if name in _COUNTS else (entries,)
        if column.shape != shape or column.dtype.kind not in ("f" if name == "overlap" else "iu"):
            return f"{name!r} has the shape {column.shape} and the dtype {column.dtype}; expected {shape}"
        if not (column >= 0).all():
            return f"{name!r} has numbers below 0"
    if entries > MOST_ENTRIES or (np.diff(columns["step"]) < 0).any():
        return f"its {entries} entries are too many or not in order"
    if not isinstance(stride, int) or not ((columns["updates"] >= 1) & (columns["updates"] <= stride)).all():
        return f"its entries do not have {stride!r} updates each"
    return None


def _latest_error(latest: Mapping[str, float]) -> str | None:
    missing = _BEFORE_UPDATES.keys() - latest.keys()
    return f"its last update has no {', '.join(sorted(missing))}" if missing else None


def _entry(columns: Mapping[str, NDArray[Any]], row: int) -> Entry:
    pruned, grown, active = (constant(columns[name][row].astype(np.int64)) for name in _COUNTS)
    step, updates = (int(columns[name][row]) for name in _NUMBERS)
    return Entry(step, updates, pruned, grown, active, float(columns["overlap"][row]))
