"""An experiment: everything that decides a run, as one frozen value."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from sparsecore.engine.arrays import Arrays
from sparsecore.engine.distributions import check_sparsity
from sparsecore.engine.engine import Engine
from sparsecore.engine.randomness import Seed, as_seed
from sparsecore.engine.reallocation import RegrowPruned
from sparsecore.engine.schedules import Piecewise, Schedule, as_schedule
from sparsecore.engine.topology import Layout
from sparsecore.engine.units import SingleWeights, Units, as_units
from sparsecore.engine.update import regrow_pruned_of
from sparsecore.engine.young_weights import YOUNG_WEIGHTS, as_young_weights
from sparsecore.errors import InputError
from sparsecore.experiment.conversion import structure, unstructure
from sparsecore.experiment.plugin_choice import PluginChoice
from sparsecore.experiment.start_settings import StartSettings
from sparsecore.learning.optimizers import Adam, AdamW, Optimizer, Sgd

DEFAULT_OPTIMIZER = "sgd"

OPTIMIZERS: Mapping[str, type[Optimizer]] = {"sgd": Sgd, "adam": Adam, "adamw": AdamW}

_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "sgd": {"learning_rate": 0.1, "weight_decay": 5e-4},
    "adam": {"learning_rate": 1e-3},
    "adamw": {"learning_rate": 1e-3, "weight_decay": 1e-2},
}
"""Defaults that depend on the optimizer."""


def split_training(table: Mapping[str, Any], loop: type) -> tuple[dict[str, Any], Optimizer]:
    """Split the table ``training`` into the settings of the training loop and those of the optimizer.

    Args:
        table: the table.
        loop: the attrs class of the loop's settings.

    Returns:
        The loop's settings, with the optimizer's default learning rate if there is none, and the optimizer.

    Raises:
        InputError: no rule has this name, a key is neither the loop's nor this rule's, a wrong value.
    """
    name = table.get("optimizer", DEFAULT_OPTIMIZER)
    if not isinstance(name, str) or name not in OPTIMIZERS:
        raise InputError(f"training.optimizer: one of {', '.join(map(repr, OPTIMIZERS))} was expected, given {name!r}")
    rule, loops, rules = OPTIMIZERS[name], _keys(loop), _keys(OPTIMIZERS[name])
    strange = table.keys() - {"optimizer", *loops, *rules}
    if strange:
        known = ", ".join(["optimizer", *loops, *rules])
        raise InputError(
            f"training: no key named {', '.join(map(repr, sorted(strange)))} with the optimizer {name}; known: {known}"
        )
    complete = {**_DEFAULTS[name], **table}
    options = {key: complete[key] for key in rules if key in complete}
    return {key: complete[key] for key in loops if key in complete}, structure(options, rule, "training")


def rule_table(optimizer: Optimizer) -> dict[str, Any]:
    """Return the optimizer's part of the table ``training``.

    Args:
        optimizer: the update rule.

    Returns:
        Its name under 'optimizer' and all its hyperparameters, from which :func:`split_training` makes it again.
    """
    names = {rule: name for name, rule in OPTIMIZERS.items()}
    return {"optimizer": names[type(optimizer)], **unstructure(optimizer)}


def _keys(cls: type) -> list[str]:
    return [field.name for field in attrs.fields(cls)]


@attrs.frozen
class KeepSettings:
    """The states that a run keeps besides its latest one.

    Attributes:
        epochs: the epochs at whose ends the state is kept, in ``epoch-N.safetensors``.
    """

    epochs: tuple[int, ...] = attrs.field(default=(), validator=attrs.validators.deep_iterable(attrs.validators.ge(1)))

    def check_within(self, epochs: int) -> None:
        """Check that a run reaches all epochs at whose ends it is to keep its state.

        Args:
            epochs: the number of epochs of the run.

        Raises:
            InputError: one of the epochs is beyond the last.
        """
        beyond = [epoch for epoch in self.epochs if epoch > epochs]
        if beyond:
            raise InputError(f"keep.epochs has {beyond[0]}, and the run has {epochs} epochs")


_at_least_1: Any = attrs.validators.ge(1)
_at_least_0: Any = attrs.validators.ge(0)


@attrs.frozen
class DataSettings:
    """How the images of a data set are used.

    Attributes:
        dir: the folder with its files; None to download them.
        held_out: the number of training images that replace the test images and are not trained on.
        limit: the number of training images that are kept, the first of a random order.
        crop: the pixels that are reflected at each side before a random crop; 0 for no crop.
        flip: whether images are mirrored left to right at random.
    """

    dir: str | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.min_len(1)))
    held_out: int | None = attrs.field(default=None, validator=attrs.validators.optional(_at_least_1))
    limit: int | None = attrs.field(default=None, validator=attrs.validators.optional(_at_least_1))
    crop: int = attrs.field(default=0, validator=_at_least_0)
    flip: bool = False


@attrs.frozen
class Training:
    """The training loop.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step.
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
    """Settings that all strategies share.

    Attributes:
        regrow_pruned: whether positions may grow again in the update that pruned them: False, True, or 'keep', with
            their value and optimizer state; None for what the strategies are made for.
        units: the unit of pruning and growth: 'weights', 'kernels', or blocks such as '4x4'.
        young: which steps of Adam weights take that have grown recently: 'none', 'own-steps' or 'damped'; None for what
            the strategies say.
    """

    regrow_pruned: RegrowPruned | None = None
    units: Units = attrs.field(default=SingleWeights(), converter=as_units)
    young: str | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.in_(YOUNG_WEIGHTS))
    )

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Check that the optimizer takes steps that can be corrected, where the settings ask for that.

        Raises:
            InputError: it has no bias correction.
        """
        if self.young not in (None, "none") and not optimizer.has_bias_correction:
            raise InputError(
                f"reallocation.young = {self.young!r} is of optimizers with a bias correction, adam and adamw; with "
                f"{type(optimizer).__name__.lower()} leave it out"
            )


DEFAULT_SPARSITY = 0.9


@attrs.frozen
class _General:
    sparsity: float | None = None
    seed: Seed = attrs.field(default=Seed(0), converter=as_seed)


SECTIONS = ("model", "data", "backend", "strategy", "training", "reallocation", "start", "keep")


@attrs.frozen(eq=False)
class Experiment:
    """Everything that determines a run.

    Attributes:
        sparsity: the fraction of inactive positions in the sparse tensors, in [0, 1); None for that of the active
            weights that the run starts with.
        seed: the seed of all random numbers.
        model: the network.
        dataset: the data set.
        data: how its images are used.
        backend: the backend.
        strategies: the stack of strategies, bottom first.
        training: the training loop.
        optimizer: the update rule.
        reallocation: settings that all strategies share.
        start: the weights that the run starts with, if they are not drawn.
        keep: the states that the run keeps besides its latest one.
    """

    sparsity: float | None
    seed: Seed = attrs.field(converter=as_seed)
    model: PluginChoice
    dataset: PluginChoice
    data: DataSettings
    backend: PluginChoice
    strategies: tuple[PluginChoice, ...]
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
        backend = PluginChoice.of("backend", tables.get("backend", {}))
        strategies = _stack(tables.get("strategy", ()))
        reallocation = _reallocation(tables.get("reallocation", {}), strategies)
        reallocation.check_optimizer(optimizer)
        return cls(
            sparsity=_sparsity(top.sparsity, start),
            seed=top.seed,
            model=PluginChoice.of("model", tables.get("model", {}), backend.plugin),
            dataset=PluginChoice.of("dataset", source, backend.plugin),
            data=structure(use, DataSettings, "data"),
            backend=backend,
            strategies=strategies,
            training=training,
            optimizer=optimizer,
            reallocation=reallocation,
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
            **({} if self.start == StartSettings() else {"start": _start_table(self.start)}),
            **({} if self.keep == KeepSettings() else {"keep": unstructure(self.keep)}),
            "strategy": [strategy.table() for strategy in self.strategies],
        }

    def check_folder(self) -> None:
        """Check that the data set reads files where a folder with its files is given.

        Raises:
            InputError: it reads none, as its class says by ``reads_files``.
        """
        if self.data.dir is not None and not getattr(self.dataset.plugin, "reads_files", True):
            raise InputError(
                f"the data set {self.dataset.name!r} reads no files, and data.dir (--data-dir) is {self.data.dir!r}; "
                "leave it out, or give the data set of these files (--data)"
            )

    def engine(self, layout: Layout, arrays: Arrays) -> Engine:
        """The experiment's strategies over this layout.

        Args:
            layout: the sparse tensors.
            arrays: the backend's array operations.

        Raises:
            InputError: a strategy cannot be registered, or does not fit the layout.
        """
        return Engine(
            layout,
            {strategy.name: strategy.plugin for strategy in self.strategies},
            arrays=arrays,
            seed=self.seed,
            regrow_pruned=self.reallocation.regrow_pruned,
            units=self.reallocation.units,
            young=None if self.reallocation.young is None else as_young_weights(self.reallocation.young),
        )


def _start_table(start: StartSettings) -> dict[str, Any]:
    """The table ``start``; settings of given weights are left out at their defaults, for runs older than these."""
    default = unstructure(StartSettings())
    table = unstructure(start)
    return {key: value for key, value in table.items() if key not in ("drawn", "scope") or value != default[key]}


def _sparsity(given: float | None, start: StartSettings) -> float | None:
    if given is not None:
        return check_sparsity(given)
    return None if start.gives_active else DEFAULT_SPARSITY


def split_data(table: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the table ``data`` into settings of how images are used, and options of the data set.

    Args:
        table: as written in an experiment; no value is checked here.

    Returns:
        The keys that are fields of :class:`DataSettings`, and all others, among them the data set's name.
    """
    own = {field.name for field in attrs.fields(DataSettings)}
    use = {key: value for key, value in table.items() if key in own}
    return use, {key: value for key, value in table.items() if key not in own}


def _reallocation(table: Mapping[str, Any], strategies: Sequence[PluginChoice]) -> ReallocationSettings:
    """The settings with what the strategies decide, so that a run's file says it."""
    given = structure(table, ReallocationSettings, "reallocation")
    regrow_pruned = regrow_pruned_of([strategy.plugin for strategy in strategies], given.regrow_pruned)
    return attrs.evolve(given, regrow_pruned=regrow_pruned)


def _stack(tables: Any) -> tuple[PluginChoice, ...]:
    names = [table.get("name") for table in tables]
    if not names:
        raise InputError("an experiment needs at least one strategy; 'static' is the one that never reallocates")
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"the strategy {', '.join(twice)} is stacked twice")
    return tuple(PluginChoice.of("strategy", table) for table in tables)
