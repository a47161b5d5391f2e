"""How an experiment starts from another run: on that run's topology, with the values of a moment of its life."""

from typing import Any, Literal

import attrs

from sparsecore.errors import InputError

_optional_epoch: Any = attrs.validators.optional(attrs.validators.ge(1))


def _check_share(_: object, attribute: "attrs.Attribute[Any]", share: float) -> None:
    if not 0 <= share < 1:
        raise InputError(f"{attribute.name} is a share of all weights in [0, 1); given {share}")


@attrs.frozen
class StartSettings:
    """Where a run starts, if not on a topology and with values of its own.

    Attributes:
        run: the folder of a finished run, on whose last topology this one starts.
        values: 'original', those that the run itself began with, and would have begun with where it was not active;
            'fresh', others, drawn for this run and its seed; 'trained', those that the run ended with; 'rewound',
            those of an earlier epoch's end, where this run goes on with its own schedules and batches.
        epoch: the epoch of 'rewound', among those that the run has kept.
        prune: share of the run's weights that are taken away first, those of smallest |w| at its end, over the whole
            network; every tensor keeps its largest.
    """

    run: str | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.min_len(1)))
    values: Literal["original", "fresh", "trained", "rewound"] | None = None
    epoch: int | None = attrs.field(default=None, validator=_optional_epoch)
    prune: float = attrs.field(default=0.0, validator=_check_share)

    def __attrs_post_init__(self) -> None:
        if self.run is None:
            self._refuse_without_run()
        elif self.values is None:
            raise InputError(
                "a run that starts from another one says with which values: 'original', 'fresh', 'trained' or "
                "'rewound'; given no values"
            )
        if (self.epoch is None) == (self.values == "rewound"):
            raise InputError(
                "an epoch belongs to values = 'rewound', and those need it; "
                f"given values = {self.values!r} and epoch = {self.epoch}"
            )

    def _refuse_without_run(self) -> None:
        if (self.values, self.epoch, self.prune) != (None, None, 0.0):
            raise InputError(
                "where a run starts from is given by run, the folder of a finished one; given other settings without it"
            )


@attrs.frozen
class KeepSettings:
    """What a run keeps besides its latest state.

    Attributes:
        epochs: at whose ends the state is kept, in ``epoch-N.safetensors``.
    """

    epochs: tuple[int, ...] = attrs.field(default=(), validator=attrs.validators.deep_iterable(attrs.validators.ge(1)))

    def check_within(self, epochs: int) -> None:
        """Raise an :class:`InputError` if a run of so many epochs never comes to one of them."""
        beyond = [epoch for epoch in self.epochs if epoch > epochs]
        if beyond:
            raise InputError(f"keep.epochs has {beyond[0]}, and the run has {epochs} epochs")
