"""What the commands that execute studies share: options of the execution, and the command that continues it."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs
import click

from sparsecore.cli.options import Command
from sparsecore.cli.progress import StudyProgress, StudyProgressBars, StudyProgressLines, StudyStatus
from sparsecore.errors import InputError
from sparsecore.experiment.toml_files import toml_value
from sparsecore.study.pools import LOCAL, Pool, PoolOptions, create_pool

_EXECUTION = (
    click.option(
        "--out", metavar="DIR", type=click.Path(path_type=Path), help="Study folder  [default: new in studies/]"
    ),
    click.option("--resume", is_flag=True, help="Continue the study in --out."),
    click.option("--jobs", metavar="N", type=int, help="Trials that run at once  [default: CPU cores]"),
    click.option("--on", "pool_name", metavar="POOL", default=LOCAL, help="local, ray or slurm  [default: local]"),
    click.option(
        "--on-set", "pool_options", metavar="KEY=VALUE", multiple=True, help="Option of the pool. Repeatable."
    ),
)


def execution_options(command: Command) -> Command:
    """Add the options that say where a study is executed.

    Args:
        command: a function with the keyword arguments ``out`` (a path or None), ``resume``, ``jobs`` (a number or
            None), ``pool_name`` and ``pool_options`` (texts 'key=value').
    """
    for option in reversed(_EXECUTION):
        command = option(command)
    return command


@attrs.frozen
class Execution:
    """How a study is executed.

    Attributes:
        jobs: number of runs at the same time; None lets the pool choose.
        pool_name: name of the pool.
        pool_options: options of the pool, as texts 'key=value'.
    """

    jobs: int | None
    pool_name: str
    pool_options: Sequence[str]

    def pool(self) -> Pool:
        """Create the pool.

        Raises:
            InputError: there is no such pool, or it refuses its options.
        """
        return create_pool(self.pool_name, PoolOptions(self.jobs, dict(map(key_and_value, self.pool_options))))

    def resume_command(self, name: str, folder: Path) -> str:
        """Return the command that continues a study in the same way.

        Args:
            name: the name of its command.
            folder: its folder.
        """
        words = ["sparsecore", "study", name, "--resume", "--out", str(folder), "--on", self.pool_name]
        words += [word for pair in self.pool_options for word in ("--on-set", pair)]
        return shlex.join([*words, *(["--jobs", str(self.jobs)] if self.jobs else [])])


def progress_class() -> Callable[[StudyStatus], StudyProgress]:
    """Return what shows the progress of a study: bars on a terminal, else lines."""
    return StudyProgressBars if sys.stderr is not None and sys.stderr.isatty() else StudyProgressLines


def key_and_value(pair: str) -> tuple[str, str]:
    """Split a text 'key=value'.

    Raises:
        InputError: it has not this form.
    """
    name, equals, value = pair.partition("=")
    if not (name and equals):
        raise InputError(f"a setting is written key=value; given {pair!r}")
    return name.strip(), value.strip()


def settings_of(options: Mapping[str, str], settings: Sequence[str]) -> dict[str, object]:
    """Return the settings of all runs of a study.

    Args:
        options: settings by dotted names, as text.
        settings: texts 'key=value' of ``--set``, which win.

    Raises:
        InputError: a text of ``settings`` has not this form.
    """
    texts = {**options, **dict(map(key_and_value, settings))}
    return {name: toml_value(text) for name, text in texts.items()}
