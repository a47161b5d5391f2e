"""An experiment: everything that decides a run, as one frozen value."""

from collections.abc import Mapping
from typing import Any

import attrs

from sparsecore.distributions import check_sparsity
from sparsecore.errors import InputError
from sparsecore.experiment.chosen import Chosen
from sparsecore.experiment.rules import rule_table, split_training
from sparsecore.experiment.start import KeepSettings, StartSettings
from sparsecore.experiment.structure import structure, unstructure
from sparsecore.optimizers import Optimizer
from sparsecore.schedules import Piecewise, Schedule, as_schedule
from sparsecore.units import SingleWeights, Units, as_units

_at_least_1: Any = attrs.validators.ge(1)
_at_least_0: Any = attrs.validators.ge(0)


@attrs.frozen
class DataSettings:
    """How the images of a data set are used.

    Attributes:
        dir: the folder with its files; where it is None they are downloaded.
        held_out: take so many training images out of training and test on them instead of the test images.
        limit: keep so many training images, the first of the engine's order.
        crop: pixels reflected at each side before a random crop; 0 for no crop.
        flip: whether images are mirrored left to right at random.
    """

    dir: str | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.min_len(1)))
    held_out: int | None = attrs.field(default=None, validator=attrs.validators.optional(_at_least_1))
    limit: int | None = attrs.field(default=None, validator=attrs.validators.optional(_at_least_1))
    crop: int = attrs.field(default=0, validator=_at_least_0)
    flip: bool = False


@attrs.frozen
class Training:
    """How long the optimizer runs, and its step lengths.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        learning_rate: η, constant or scheduled.
    """

    epochs: int = attrs.field(default=10, validator=_at_least_1)
    batch_size: int = attrs.field(default=100, validator=_at_least_1)
    learning_rate: Schedule = attrs.field(default=Piecewise({0: 0.1}), converter=as_schedule)

    def __attrs_post_init__(self) -> None:
        if self.learning_rate.lowest < 0:
            raise InputError(f"the learning rate must be at least 0; it falls to {self.learning_rate.lowest}")


@attrs.frozen
class ReallocationSettings:
    """What holds for every strategy.

    Attributes:
        regrow_pruned: whether what was just pruned may grow again in the same update.
        units: what is pruned and grown as one: 'weights', 'kernels', or blocks such as '4x4'.
    """

    regrow_pruned: bool = False
    units: Units = attrs.field(default=SingleWeights(), converter=as_units)


DEFAULT_SPARSITY = 0.9


@attrs.frozen
class _General:
    sparsity: float | None = None
    seed: int = attrs.field(default=0, validator=_at_least_0)


SECTIONS = ("model", "data", "backend", "strategy", "training", "reallocation", "start", "keep")


@attrs.frozen(eq=False)
class Experiment:
    """Everything that decides a run.

    Attributes:
        sparsity: the share of the sparse tensors' positions that stay inactive, in [0, 1); None where that is decided
            by the run that this one starts from.
        seed: of every draw.
        model: the network.
        dataset: where the images come from.
        data: how they are used.
        backend: what computes.
        strategies: the stack, bottom first.
        training: how long the optimizer runs, and its step lengths.
        optimizer: the update rule.
        reallocation: what holds for every strategy.
        start: from which run it starts, if from one.
        keep: what it keeps besides its latest state.
    """

    sparsity: float | None
    seed: int
    model: Chosen
    dataset: Chosen
    data: DataSettings
    backend: Chosen
    strategies: tuple[Chosen, ...]
    training: Training
    optimizer: Optimizer
    reallocation: ReallocationSettings
    start: StartSettings
    keep: KeepSettings

    @classmethod
    def of(cls, tables: Mapping[str, Any]) -> "Experiment":
        """The experiment from plain tables, as read from TOML.

        Raises:
            InputError: an unknown key or plugin, a wrong type, a value out of range.
        """
        general = {key: value for key, value in tables.items() if key not in SECTIONS}
        strange = set(general) - {field.name for field in attrs.fields(_General)}
        if strange:
            known = [field.name for field in attrs.fields(_General)] + list(SECTIONS)
            raise InputError(f"no setting named {', '.join(map(repr, sorted(strange)))}; known: {', '.join(known)}")
        top = structure(general, _General, "experiment")
        use, source = split_data(tables.get("data", {}))
        loop, optimizer = split_training(tables.get("training", {}), Training)
        training = structure(loop, Training, "training")
        start = structure(tables.get("start", {}), StartSettings, "start")
        keep = structure(tables.get("keep", {}), KeepSettings, "keep")
        keep.check_within(training.epochs)
        return cls(
            sparsity=_sparsity(top.sparsity, start),
            seed=top.seed,
            model=Chosen.of("model", tables.get("model", {})),
            dataset=Chosen.of("dataset", source),
            data=structure(use, DataSettings, "data"),
            backend=Chosen.of("backend", tables.get("backend", {})),
            strategies=_stack(tables.get("strategy", ())),
            training=training,
            optimizer=optimizer,
            reallocation=structure(tables.get("reallocation", {}), ReallocationSettings, "reallocation"),
            start=start,
            keep=keep,
        )

    def tables(self) -> dict[str, Any]:
        """Plain tables that :meth:`of` reads back, complete with what was left at its default."""
        return {
            **({} if self.sparsity is None else {"sparsity": self.sparsity}),
            "seed": self.seed,
            "model": self.model.table(),
            "data": {**self.dataset.table(), **unstructure(self.data)},
            "backend": self.backend.table(),
            "training": {**unstructure(self.training), **rule_table(self.optimizer)},
            "reallocation": unstructure(self.reallocation),
            **({} if self.start == StartSettings() else {"start": unstructure(self.start)}),
            **({} if self.keep == KeepSettings() else {"keep": unstructure(self.keep)}),
            "strategy": [strategy.table() for strategy in self.strategies],
        }


def _sparsity(given: float | None, start: StartSettings) -> float | None:
    if given is not None:
        return check_sparsity(given)
    return DEFAULT_SPARSITY if start.run is None else None


def split_data(table: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What says how images are used, and what belongs to the data set's plugin."""
    own = {field.name for field in attrs.fields(DataSettings)}
    use = {key: value for key, value in table.items() if key in own}
    return use, {key: value for key, value in table.items() if key not in own}


def _stack(tables: Any) -> tuple[Chosen, ...]:
    names = [table.get("name") for table in tables]
    if not names:
        raise InputError("an experiment needs at least one strategy; 'static' is the one that never reallocates")
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"the strategy {', '.join(twice)} is stacked twice")
    return tuple(Chosen.of("strategy", table) for table in tables)
