"""The options of all commands that carry out experiments, and what they say."""

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

_OF_FILES = (click.argument("file", required=False, type=click.Path(path_type=Path)),)

_OF_EXPERIMENTS = (
    click.option("--model", metavar="NAME", help="Network; wrn-28-2 by default, wrn-16-4 and the like by their sizes."),
    click.option("--data", metavar="NAME", help="Data set; digits by default."),
    click.option("--data-dir", metavar="DIR", help="Folder with the data set's files; downloaded where none is given."),
    click.option("--backend", metavar="NAME", help="What computes; cpu by default where it is installed, else numpy."),
)

_OF_SPARSITY = (
    click.option(
        "--strategy", "stack", metavar="NAME", multiple=True, help="Strategy; dpr by default. Repeat to stack."
    ),
    click.option("--sparsity", metavar="S", help="Share of weights that are absent, in [0, 1); 0.9 by default."),
)

_OF_TRAINING = (
    click.option("--epochs", metavar="N", help="Passes over the training images."),
    click.option("--batch-size", metavar="N", help="Images a step; 100 by default."),
    click.option("--seed", metavar="N", help="Seed of every draw; 0 by default."),
)

_OF_ALL = (
    click.option(
        "--set", "settings", metavar="SECTION.KEY=VALUE", multiple=True, help="Any other setting; repeatable."
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object on standard output."),
)


@attrs.frozen
class ExperimentOptions:
    """What was said about an experiment on the command line.

    Attributes:
        file: an experiment in TOML.
        options: settings by dotted name, as text.
        stack: names of strategies, bottom first.
        settings: 'section.key=value' texts.
    """

    file: Path | None
    options: Mapping[str, str]
    stack: Sequence[str]
    settings: Sequence[str]

    @classmethod
    def of(
        cls, file: Path | None, options: Mapping[str, str | None], stack: Sequence[str], settings: Sequence[str]
    ) -> "ExperimentOptions":
        """From the values of the options by their names; those that were not given are None."""
        return cls(
            file, {_SETTINGS[name]: value for name, value in options.items() if value is not None}, stack, settings
        )

    @property
    def names_experiment(self) -> bool:
        """Whether it says what is to be trained, and does not leave that to the demo."""
        return self.file is not None or bool({"model.name", "data.name"} & self.options.keys())

    def tables(self) -> Tables:
        """The tables of the experiment."""
        return assemble(self.file, self.options, self.stack, self.settings)


def experiment_options(command: Command) -> Command:
    """Options of a command that trains by any strategy."""
    return _with(command, (*_OF_FILES, *_OF_EXPERIMENTS, *_OF_SPARSITY, *_OF_TRAINING))


def dense_experiment_options(command: Command) -> Command:
    """Options of a command that decides sparsity and strategy itself."""
    return _with(command, (*_OF_FILES, *_OF_EXPERIMENTS, *_OF_TRAINING))


def study_experiment_options(command: Command) -> Command:
    """Options of a command that carries out many, each with sparsity and strategy of its own."""
    return _with(command, (*_OF_EXPERIMENTS, *_OF_TRAINING))


def common_options(command: Command) -> Command:
    """Options for all other settings and for the output, at the end of the help."""
    return _with(command, _OF_ALL)


def _with(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
