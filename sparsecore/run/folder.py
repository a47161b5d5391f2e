"""The files of a run."""

import errno
import itertools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import tomli_w

from sparsecore.errors import InputError
from sparsecore.run.files import new_folder


@attrs.frozen
class RunFolder:
    """A run's folder, by its path: experiment, tensors, metrics, reallocations, checkpoint, result, report."""

    path: Path

    @property
    def experiment(self) -> Path:
        """The experiment as TOML, complete."""
        return self.path / "experiment.toml"

    @property
    def tensors(self) -> Path:
        """The sparse tensors at the start: name, shape, active weights."""
        return self.path / "tensors.json"

    @property
    def metrics(self) -> Path:
        """A JSON line an epoch."""
        return self.path / "metrics.jsonl"

    @property
    def reallocations(self) -> Path:
        """A JSON line an update."""
        return self.path / "reallocations.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The latest state, in the safetensors format."""
        return self.path / "checkpoint.safetensors"

    @property
    def start(self) -> Path:
        """What the run started on, where that comes from another run."""
        return self.path / "start.safetensors"

    def kept(self, epoch: int) -> Path:
        """The state at the end of an epoch that the run was asked to keep."""
        return self.path / f"epoch-{epoch}.safetensors"

    @property
    def seconds(self) -> Path:
        """How long the run has taken; apart from the rest, which a resumed run repeats bit for bit."""
        return self.path / "seconds.json"

    @property
    def result(self) -> Path:
        """The result of a finished run."""
        return self.path / "result.json"

    @property
    def report(self) -> Path:
        """The page with the figures."""
        return self.path / "report.html"

    def create(self, tables: dict[str, Any], others: Mapping[str, bytes] = MappingProxyType({})) -> None:
        """Make the folder with the experiment in it, and with other files by their names.

        Raises:
            InputError: there is one already, or it cannot be made.
        """
        try:
            # the experiment is complete: read back, it is not to be filled in from presets of a later version
            experiment = tomli_w.dumps({"presets": False, **tables}).encode()
            new_folder(self.path, {self.experiment.name: experiment, **others})
        except FileExistsError:
            raise self._exists() from None
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                raise self._exists() from error
            raise InputError(f"the run folder {self.path} cannot be made: {error.strerror}") from error

    def check_absent(self) -> None:
        """Raise an :class:`InputError` if there is something at the path already, but for an empty folder."""
        try:
            is_taken = self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir()))
        except OSError as error:
            raise InputError(f"the run folder {self.path} cannot be made: {error.strerror}") from error
        if is_taken:
            raise self._exists()

    def _exists(self) -> InputError:
        return InputError(f"the run folder {self.path} exists; give another --out, or --resume to continue it")

    def read_tables(self) -> dict[str, Any]:
        """The tables of the run's experiment.

        Raises:
            InputError: this is no run folder, or the file is damaged.
        """
        try:
            tables = tomllib.loads(self.experiment.read_text("utf-8"))
        except FileNotFoundError:
            raise InputError(f"{self.path} is no run folder: it has no {self.experiment.name}") from None
        except (OSError, ValueError) as error:
            raise InputError(f"the experiment of the run {self.path} cannot be read: {error}") from error
        tables.pop("presets", None)
        return tables


def free_run_folder(parent: Path, name: str) -> RunFolder:
    """The first of ``parent/name-1``, ``parent/name-2``, ... that does not exist."""
    paths = (parent / f"{name}-{number}" for number in itertools.count(1))
    return RunFolder(next(path for path in paths if not path.exists()))
