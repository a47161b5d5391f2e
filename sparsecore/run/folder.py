"""The files of a run."""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import attrs
import tomli_w

from sparsecore.errors import InputError
from sparsecore.formats import RUN
from sparsecore.run.files import BusyError, Lock, new_folder, read_regular_toml

LOTTERY_FILE = "lottery.toml"
"""The file that marks the folder of a lottery, and describes it."""


class FolderExistsError(InputError):
    """There already is something at the path of a folder that is to be created."""


def _absolute(path: Path) -> Path:
    return path.absolute()


@attrs.frozen
class RunFolder:
    """A run's folder: experiment, tensors, metrics, reallocations, checkpoint, result, report.

    Attributes:
        path: made absolute, as a plugin may change the working directory while the run trains.
    """

    path: Path = attrs.field(converter=_absolute)

    @property
    def experiment(self) -> Path:
        """The complete experiment, as TOML."""
        return self.path / "experiment.toml"

    @property
    def tensors(self) -> Path:
        """The sparse tensors at the start: name, shape, active weights."""
        return self.path / "tensors.json"

    @property
    def metrics(self) -> Path:
        """The log of epochs, a JSON line each."""
        return self.path / "metrics.jsonl"

    @property
    def reallocations(self) -> Path:
        """The log of updates, a JSON line each."""
        return self.path / "reallocations.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The latest state, in the safetensors format."""
        return self.path / "checkpoint.safetensors"

    @property
    def start(self) -> Path:
        """The warm start, if the run starts from another one."""
        return self.path / "start.safetensors"

    def kept(self, epoch: int) -> Path:
        """The state at the end of an epoch that ``keep.epochs`` names.

        Args:
            epoch: the number of finished epochs, from 1.
        """
        return self.path / f"epoch-{epoch}.safetensors"

    @property
    def seconds(self) -> Path:
        """The effort of the run; apart from the other files, which a resumed run repeats bit for bit."""
        return self.path / "seconds.json"

    @property
    def result(self) -> Path:
        """The result of a finished run."""
        return self.path / "result.json"

    @property
    def observers(self) -> Path:
        """The observers of the run and what they need to go on, if it has any."""
        return self.path / "observers.json"

    @property
    def report(self) -> Path:
        """The page with the figures."""
        return self.path / "report.html"

    def create(self, tables: dict[str, Any], others: Mapping[str, bytes] = MappingProxyType({})) -> "RunFolder":
        """Create the folder with the experiment in it, and with other files.

        Args:
            tables: the complete experiment; it is marked so that no presets are filled in when it is read.
            others: the contents of further files by their names.

        Returns:
            The folder itself.

        Raises:
            FolderExistsError: there is one already.
            InputError: it cannot be made.
        """
        try:
            # the experiment is complete: read back, it is not to be filled in from presets of a later version
            experiment = tomli_w.dumps(RUN.put({"presets": False, **tables})).encode()
            new_folder(self.path, {self.experiment.name: experiment, **others})
        except FileExistsError:
            raise self._exists() from None
        except OSError as error:
            raise InputError(f"the run folder {self.path} cannot be made: {error.strerror}") from error
        return self

    def lock(self) -> Lock:
        """Lock the folder for this process, until the lock is released or the process ends.

        Raises:
            InputError: another process holds the lock.
        """
        try:
            return Lock(self.experiment)
        except BusyError:
            raise InputError(f"the run {self.path} is being trained by another process") from None

    def check_absent(self) -> None:
        """Check that there is nothing at the path yet, but for an empty folder.

        Raises:
            FolderExistsError: there is something.
            InputError: the system does not permit to find out.
        """
        try:
            occupied = is_occupied(self.path)
        except OSError as error:
            raise InputError(f"the run folder {self.path} cannot be made: {error.strerror}") from error
        if occupied:
            raise self._exists()

    def _exists(self) -> FolderExistsError:
        return FolderExistsError(f"the run folder {self.path} exists; give another --out, or --resume to continue it")

    def read_tables(self) -> dict[str, Any]:
        """The tables of the run's experiment.

        Raises:
            InputError: this is no run folder, one of a later version, or the file is damaged.
        """
        try:
            tables = RUN.take(read_regular_toml(self.experiment), f"the run {self.path}")
        except InputError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                raise InputError(f"{self.path} is no run folder: it has no {self.experiment.name}") from None
            raise
        tables.pop("presets", None)
        if not tables:
            raise InputError(f"{self.experiment} is damaged: it has no settings of an experiment")
        return tables


Folder = TypeVar("Folder")


def free_path(parent: Path, name: str) -> Path:
    """The first of ``parent/name-1``, ``parent/name-2``, ... that does not exist.

    Args:
        parent: a folder, which need not exist.
        name: the name without its number.

    Returns:
        A path that another process may take before it is used; :func:`create_numbered` then tries the next.
    """
    return next(_free_paths(parent, name))


def create_numbered(parent: Path, name: str, create: Callable[[Path], Folder]) -> Folder:
    """Create the first of the folders ``parent/name-1``, ``parent/name-2``, ... that no other process creates.

    Args:
        parent: the folder that it is in.
        name: its name without the number.
        create: creates the folder at a path, or raises a :class:`FolderExistsError`.

    Returns:
        What ``create`` returned.
    """
    for path in _free_paths(parent, name):
        with suppress(FolderExistsError):
            return create(path)
    raise AssertionError("there is no last number")


def _free_paths(parent: Path, name: str) -> Iterator[Path]:
    paths = (parent / f"{name}-{number}" for number in itertools.count(1))
    return (path for path in paths if not os.path.lexists(path))


def is_occupied(path: Path) -> bool:
    """Whether there is something at the path other than an empty folder.

    Args:
        path: any path; a link counts as what it leads to.

    Raises:
        OSError: the system does not permit to find out.
    """
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))
