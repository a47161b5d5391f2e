"""The options that commands share, and the experiment that they describe."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
import click

from sparsecore.experiment.assembly import Tables, assemble

Command = TypeVar("Command", bound=Callable[..., Any])

_SETTINGS = {
    "model": "model.name",
    "data": "data.name",
    "data_dir": "data.dir",
    "backend": "backend.name",
    "sparsity": "sparsity",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "seed": "seed",
}

_FILE = (click.argument("file", required=False, type=click.Path(path_type=Path)),)

_PLUGINS = (
    click.option("--model", metavar="NAME", help="Network, such as wrn-16-4  [default: wrn-28-2]"),
    click.option("--data", metavar="NAME", help="Data set  [default: digits]"),
    click.option("--data-dir", metavar="DIR", help="Folder with its files  [default: download]"),
    click.option("--backend", metavar="NAME", help="Backend  [default: cpu if installed, or numpy]"),
)

_SPARSITY = (
    click.option(
        "--strategy", "stack", metavar="NAME", multiple=True, help="Strategy; repeat to stack  [default: dpr]"
    ),
    click.option("--sparsity", metavar="S", help="Fraction of zero weights, in [0, 1)  [default: 0.9]"),
)

_TRAINING = (
    click.option("--epochs", metavar="N", help="Number of epochs  [default: by model and data]"),
    click.option("--batch-size", metavar="N", help="Images per step  [default: 100]"),
    click.option("--seed", metavar="N", help="Random seed  [default: 0]"),
)

_COMMON = (
    click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Any other setting. Repeatable."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output."),
)


@attrs.frozen
class ExperimentOptions:
    """The experiment that the options of a command describe.

    Attributes:
        file: TOML file of the experiment.
        options: settings by dotted name, as text.
        stack: names of the strategies, bottom first.
        settings: texts 'section.key=value' from ``--set``.
    """

    file: Path | None
    options: Mapping[str, str]
    stack: Sequence[str]
    settings: Sequence[str]

    @classmethod
    def of(
        cls, file: Path | None, options: Mapping[str, str | None], stack: Sequence[str], settings: Sequence[str]
    ) -> "ExperimentOptions":
        """Collect the values of a command's options.

        Args:
            file: TOML file of the experiment.
            options: values by option name; None for options that are not given.
            stack: names of the strategies, bottom first.
            settings: texts 'section.key=value'.
        """
        given = {_SETTINGS[name]: value for name, value in options.items() if value is not None}
        return cls(file, given, stack, settings)

    @property
    def names_experiment(self) -> bool:
        """Whether a file, a model or a data set is given, so that the experiment is not the default one."""
        return self.file is not None or bool({"model.name", "data.name"} & self.options.keys())

    @property
    def names_folder(self) -> bool:
        """Whether an option, and not the file alone, gives the folder of the data set."""
        return "data.dir" in self.options or any(setting.partition("=")[0] == "data.dir" for setting in self.settings)

    def tables(self) -> Tables:
        """Assemble the experiment, with presets and defaults filled in.

        Raises:
            InputError: the file cannot be read, or a setting is not written 'section.key=value'.
        """
        return assemble(self.file, self.options, self.stack, self.settings)


def experiment_options(command: Command) -> Command:
    """Add the options of a command that trains with any strategy.

    Args:
        command: a function with the keyword arguments ``file`` (None if not given), ``stack`` (names of strategies),
            and model, data, data_dir, backend, sparsity, epochs, batch_size and seed, which are texts or None.
    """
    return _add(command, (*_FILE, *_PLUGINS, *_SPARSITY, *_TRAINING))


def dense_experiment_options(command: Command) -> Command:
    """Add the options of a command that decides sparsity and strategy itself.

    Args:
        command: as for :func:`experiment_options`, without ``stack`` and sparsity.
    """
    return _add(command, (*_FILE, *_PLUGINS, *_TRAINING))


def study_experiment_options(command: Command) -> Command:
    """Add the options that all runs of a study share; each arm has its own strategy, each cell its sparsity.

    Args:
        command: as for :func:`dense_experiment_options`, without ``file``.
    """
    return _add(command, (*_PLUGINS, *_TRAINING))


def comparison_experiment_options(command: Command) -> Command:
    """Add the options that all runs of a comparison of strategies share, which has networks of its own by default.

    Args:
        command: as for :func:`study_experiment_options`.
    """
    own = (
        click.option("--model", metavar="NAME", help="Network in place of those two, or one of them"),
        click.option("--data", metavar="NAME", help="Data set  [default: that of the network, or digits]"),
    )
    return _add(command, (*own, *_PLUGINS[len(own) :], *_TRAINING))


def common_options(command: Command) -> Command:
    """Add ``--set`` and ``--json``, the last options in the help.

    Args:
        command: a function with the keyword arguments ``settings``, a tuple of texts 'section.key=value', and
            ``as_json``.
    """
    return _add(command, _COMMON)


def _add(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
