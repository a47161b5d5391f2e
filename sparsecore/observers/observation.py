"""The observation of a training: what is measured for its observers, and how they are called."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError, ObserverWarning, printable
from sparsecore.observers.coverage import Coverage
from sparsecore.observers.metrics import topology_metrics
from sparsecore.observers.observer import ObservationStart, ObservedUpdate, Observer, Setting


@attrs.frozen(eq=False)
class Subject:
    """What is the same at every start of an observation.

    Attributes:
        settings: of the training, by dotted name.
        folder: of the run; None for a training of a user's own model.
        name: a name for the run in a tracker.
        is_first_rank: whether observers are called in this process.
    """

    settings: Mapping[str, Setting]
    folder: Path | None
    name: str
    is_first_rank: bool = True


class Observation:
    """The observers of a training, and the coverage where one of them asks for it.

    Args:
        subject: what is observed.

    Attributes:
        coverage: the positions that were ever active; None while no observer has asked for the ITOP rate.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._waiting: dict[str, Observer] = {}
        self._started: dict[str, Observer] = {}
        self._saved: dict[str, Mapping[str, str]] = {}
        self._start: tuple[Topology, Clock] | None = None
        self.coverage: Coverage | None = None

    def observe(self, observer: Observer, topology: Topology, clock: Clock) -> None:
        """Add an observer, which is called from the next step on.

        Args:
            observer: the observer.
            topology: the active positions now.
            clock: the time now.

        Raises:
            InputError: it is no observer, or observes this training already.
        """
        if not isinstance(observer, Observer):
            raise InputError(
                f"an observer is an instance of a class that is derived from sparsecore.observers.Observer; given "
                f"{observer!r}"
            )
        if any(observer is one for one in (*self._waiting.values(), *self._started.values())):
            raise InputError(f"{type(observer).__name__} observes this training already")
        if observer.itop and self.coverage is None:
            self.coverage = Coverage(topology.layout.size)
            self.coverage.add_topology(topology)
        self._waiting[self._new_name(type(observer).__name__)] = observer
        self._start = (topology, clock)

    def _new_name(self, kind: str) -> str:
        """Return the name under which checkpoints keep the state of another observer of this class."""
        known, number = self._waiting.keys() | self._started.keys(), 1
        while (name := kind if number == 1 else f"{kind} {number}") in known:
            number += 1
        return name

    def restore(
        self, topology: Topology, clock: Clock, saved: Mapping[str, Mapping[str, str]], coverage: Coverage | None
    ) -> None:
        """Go on from a checkpoint: all observers are started again before the next step.

        Args:
            topology: the active positions of the checkpoint.
            clock: its time.
            saved: of :meth:`states`.
            coverage: the coverage of the checkpoint; None where it has none.
        """
        if coverage is None and self.coverage is not None:
            coverage = Coverage(topology.layout.size)
            coverage.add_topology(topology)
        self.coverage = coverage
        self._saved = {**self.states(), **saved}
        self._waiting, self._started = {**self._started, **self._waiting}, {}
        self._start = (topology, clock)

    def states(self) -> dict[str, dict[str, str]]:
        """Return what a checkpoint keeps of the observers, by their names in this observation."""
        states = {name: dict(self._saved.get(name, {})) for name in self._waiting}

        def collect(name: str, observer: Observer) -> None:
            states[name] = dict(observer.state())

        self._tell(collect)
        return {name: state for name, state in states.items() if state}

    def begin(self) -> None:
        """Start the observers that have not been started since they were added, or since a checkpoint was loaded.

        Raises:
            InputError: one of them cannot be started; it is left out from then on.
        """
        if self._start is None:
            return
        (topology, clock), self._start = self._start, None
        waiting, self._waiting = self._waiting, {}
        if not self._subject.is_first_rank:
            return
        subject, metrics = self._subject, {**topology_metrics(topology), **self.itop()}
        for name, observer in waiting.items():
            saved = self._saved.get(name, {})
            start = ObservationStart(topology, clock, metrics, subject.settings, subject.folder, subject.name, saved)
            try:
                observer.started(start)
            except Exception as error:
                self._waiting = {other: each for other, each in waiting.items() if other not in (*self._started, name)}
                self._start = (topology, clock) if self._waiting else None
                raise InputError(f"the observer {name} cannot be started: {_described(error)}") from error
            self._started[name] = observer

    def updated(self, reallocation: Reallocation, clock: Clock, metrics: Mapping[str, float]) -> None:
        """Tell the observers of an update.

        Args:
            reallocation: the update.
            clock: the time after it.
            metrics: of :func:`sparsecore.observers.metrics.update_metrics`.
        """
        if self.coverage is not None:
            self.coverage.add(reallocation.after.arrays.to_numpy(reallocation.grown_positions))
        if not self._started:
            return
        named = {**topology_metrics(reallocation.after), **metrics, **self.itop()}
        update = ObservedUpdate(reallocation, clock, named)
        self._tell(lambda _, observer: observer.reallocated(update))

    def moved(self, topology: Topology) -> None:
        """Take note of weights that were moved by something other than an update; observers are not called.

        Args:
            topology: the active positions now.
        """
        if self.coverage is not None:
            self.coverage.add_topology(topology)

    def measured(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tell the observers what was measured at the end of an epoch.

        Args:
            step: the number of finished optimizer steps.
            metrics: numbers by name.
        """
        self._tell(lambda _, observer: observer.measured(step, metrics))

    def end(self) -> None:
        """Tell all observers that the training has ended; they are called no more."""
        self._start, self._waiting = None, {}
        self._tell(lambda _, observer: observer.ended())
        self._started = {}

    def itop(self) -> dict[str, float]:
        """Return ``itop_rate`` where it is measured, and nothing where it is not."""
        return {} if self.coverage is None else {"itop_rate": self.coverage.rate}

    def _tell(self, call: Callable[[str, Observer], None]) -> None:
        """Call all observers; one that raises an error is left out from then on."""
        failed: dict[str, Exception] = {}
        for name, observer in self._started.items():
            try:
                call(name, observer)
            except Exception as error:
                failed[name] = error
                with suppress(Exception):
                    observer.ended()
        for name in failed:
            del self._started[name]
        for name, failure in failed.items():  # at the end, since a warning may be an error
            warnings.warn(
                f"the observer {name} has failed, and is no longer called; the training goes on: {_described(failure)}",
                ObserverWarning,
                stacklevel=2,
            )


def flat_settings(tables: Any, prefix: str = "") -> dict[str, Setting]:
    """Return nested settings by dotted name.

    Args:
        tables: dicts and lists of numbers, texts and bools.
        prefix: the name of the whole, with a dot at its end.
    """
    entries: Iterable[tuple[Any, Any]] = tables.items() if isinstance(tables, Mapping) else enumerate(tables)
    flat: dict[str, Setting] = {}
    for key, value in entries:
        if isinstance(value, Mapping) or (isinstance(value, list | tuple) and not _is_row(value)):
            flat |= flat_settings(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat


def _is_row(values: Iterable[Any]) -> bool:
    """Whether a list has plain values alone, and is itself the value of a setting."""
    return not any(isinstance(value, Mapping | list | tuple) for value in values)


def _described(error: Exception) -> str:
    return printable(f"{type(error).__name__}: {error}")
