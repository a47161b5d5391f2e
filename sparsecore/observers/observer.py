"""Observers of a training: what they receive, and when."""

from collections.abc import Mapping
from pathlib import Path

import attrs

from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Topology

Setting = bool | int | float | str
"""The value of a setting, as trackers store them."""


@attrs.frozen(eq=False)
class ObservationStart:
    """What an observer receives before everything else, at the beginning of a training or where it goes on.

    Attributes:
        topology: the active positions.
        clock: the steps and updates that are finished: zero where the training begins, those of the checkpoint where
            it goes on. Whatever was logged of later steps belongs to steps that are taken again.
        metrics: of the topology, by name: ``sparsity`` and ``density/NAME`` of each tensor.
        settings: of the training, by dotted name, such as 'strategy.target'.
        folder: of the run; None for a training of a user's own model.
        name: a name for the run in a tracker.
        saved: what :meth:`Observer.state` returned when the checkpoint was written; empty where there is none.
    """

    topology: Topology
    clock: Clock
    metrics: Mapping[str, float]
    settings: Mapping[str, Setting]
    folder: Path | None
    name: str
    saved: Mapping[str, str]

    @property
    def is_resumed(self) -> bool:
        """Whether the training goes on from a checkpoint."""
        return self.clock.step > 0


@attrs.frozen(eq=False)
class ObservedUpdate:
    """What an observer receives after each update.

    Attributes:
        reallocation: what was pruned and grown, counted in weights whatever the units are.
        clock: the time after it, which counts it.
        metrics: by name: those of the topology after it; ``pruned`` and ``grown``, numbers of weights; ``overlap``, the
            number of positions that are active before and after it, divided by those that are so before or after it;
            ``itop_rate``, where the observer asks for it; and what the strategies reported before it, such as
            ``dpr.threshold``.
    """

    reallocation: Reallocation
    clock: Clock
    metrics: Mapping[str, float]


class Observer:
    """Receives what happens in a training, for logs and plots; each method does nothing by default.

    Where several ranks train together, only the first one calls its observers. An observer must not change what it is
    given. One that raises an error in ``started`` stops the training; one that raises an error later is left out from
    then on, with a :class:`sparsecore.errors.ObserverWarning`, and the training goes on.

    Attributes:
        itop: whether it asks for ``itop_rate``, the share of positions that were ever active (Liu et al., 2021, "Do we
            actually need dense over-parameterization?"), for which a bit a position is kept in memory and in
            checkpoints.
    """

    itop: bool = False

    def started(self, start: ObservationStart) -> None:
        """Called before the first step that is observed, and again where a checkpoint has been loaded since.

        Args:
            start: the state that the training begins with or goes on from.
        """

    def reallocated(self, update: ObservedUpdate) -> None:
        """Called after each update.

        Args:
            update: what was pruned and grown, and its metrics.
        """

    def measured(self, step: int, metrics: Mapping[str, float]) -> None:
        """Called at the end of each epoch of ``sparsecore train``.

        Args:
            step: the number of finished optimizer steps.
            metrics: by name: ``epoch``, ``learning_rate``, losses in nats per image, and accuracies in 0..1.
        """

    def state(self) -> Mapping[str, str]:
        """Return what a checkpoint keeps for :meth:`started`, such as the id of a run in a tracker."""
        return {}

    def ended(self) -> None:
        """Called at the end of a training for which it was started, also where that or this observer has failed."""
