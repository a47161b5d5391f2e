"""The files of a study: what it is, an experiment and a run a trial."""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import tomli_w

from sparsecore.errors import InputError
from sparsecore.run.files import BusyError, Lock, new_folder, write_whole
from sparsecore.run.folder import RunFolder
from sparsecore.study.arms import Study
from sparsecore.study.experiments import experiment_of
from sparsecore.study.trials import Trial, trials_of


def _absolute(path: Path) -> Path:
    return path.absolute()


@cache
def _tables_in(experiment: Path) -> Mapping[str, Any]:
    # it stays as it was written; progress bars ask for every trial's a few times a second
    return tomllib.loads(experiment.read_text("utf-8"))


@attrs.frozen
class StudyFolder:
    """A study's folder, by its absolute path."""

    path: Path = attrs.field(converter=_absolute)

    @property
    def study(self) -> Path:
        """What the study is, as TOML."""
        return self.path / "study.toml"

    @property
    def runs(self) -> Path:
        """A run folder a trial, by the trial's name."""
        return self.path / "runs"

    def run(self, trial: Trial) -> RunFolder:
        """The trial's run."""
        return RunFolder(self.runs / trial.name)

    def experiment(self, trial: Trial) -> Path:
        """The trial's experiment as TOML, complete: what presets say later does not change it."""
        return self.path / "experiments" / f"{trial.name}.toml"

    def log(self, trial: Trial) -> Path:
        """What the trial's process said."""
        return self.path / "logs" / f"{trial.name}.log"

    @property
    def images(self) -> Path:
        """Which images the study is trained on, once somebody has looked."""
        return self.path / "images.json"

    def course(self, trial: Trial) -> Path:
        """How the topology of a finished trial moved, once somebody has looked."""
        return self.path / "courses" / f"{trial.name}.json"

    @property
    def report(self) -> Path:
        """The page with the figures."""
        return self.path / "report.html"

    @property
    def figures(self) -> Path:
        """Every figure of the page, as SVG and as PNG."""
        return self.path / "figures"

    @property
    def results(self) -> Path:
        """All numbers of the page."""
        return self.path / "results.json"

    def tables(self, trial: Trial) -> Mapping[str, Any]:
        """The trial's experiment as plain tables.

        Raises:
            InputError: it cannot be read; where the making of a study was interrupted, it is not there yet.
        """
        try:
            return _tables_in(self.experiment(trial))
        except FileNotFoundError:
            raise InputError(
                f"the study {self.path} has no experiment of {trial.name}; --resume completes what was not made"
            ) from None
        except (OSError, ValueError) as error:
            raise InputError(f"the experiment of the trial {trial.name} cannot be read: {error}") from error

    def create(self, study: Study) -> None:
        """Make the folder, with the study and all its experiments in it.

        Raises:
            InputError: there is something at its place, or an experiment of the study cannot be.
        """
        experiments = self._experiments(study, trials_of(study))
        if self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir())):
            raise InputError(f"the study {self.path} exists; give another --out, or --resume to continue it")
        try:
            new_folder(self.path, {self.study.name: tomli_w.dumps(study.tables()).encode()})
            self._write(experiments)
        except OSError as error:
            raise InputError(f"the study {self.path} cannot be made: {error.strerror}") from error

    def complete(self, study: Study) -> None:
        """Write what is missing because the making was interrupted; arguments and errors as for :meth:`create`."""
        missing = [trial for trial in trials_of(study) if not self.experiment(trial).exists()]
        try:
            self._write(self._experiments(study, missing))
        except OSError as error:
            raise InputError(f"the study {self.path} cannot be made: {error.strerror}") from error

    def _experiments(self, study: Study, trials: Sequence[Trial]) -> dict[Path, bytes]:
        """The files of these trials."""
        tables = {trial: experiment_of(study, trial, self.runs).tables() for trial in trials}
        return {self.experiment(trial): tomli_w.dumps({"presets": False, **tables[trial]}).encode() for trial in trials}

    def _write(self, experiments: Mapping[Path, bytes]) -> None:
        for folder in ("runs", "experiments", "logs"):
            (self.path / folder).mkdir(exist_ok=True)
        for path, content in experiments.items():
            write_whole(path, content)

    def read(self) -> Study:
        """The study of the folder.

        Raises:
            InputError: this is no study's folder, or the file is damaged.
        """
        try:
            return Study.of(tomllib.loads(self.study.read_text("utf-8")))
        except FileNotFoundError:
            raise InputError(f"{self.path} is no study: it has no {self.study.name}") from None
        except (OSError, ValueError) as error:
            raise InputError(f"the study {self.path} cannot be read: {error}") from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep all other processes from carrying out the study meanwhile.

        Raises:
            InputError: another one does already.
        """
        try:
            lock = Lock(self.study)
        except BusyError:
            raise InputError(f"the study {self.path} is being carried out by another process") from None
        try:
            yield
        finally:
            lock.release()

    def result(self, trial: Trial) -> Mapping[str, Any] | None:
        """The result of a finished trial, as :class:`sparsecore.run.result.Result` has it; None of any other."""
        try:
            result: Mapping[str, Any] = json.loads(self.run(trial).result.read_text())
            return {**result, **{key: float(result[key]) for key in ("test_accuracy", "seconds")}}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"the result of the trial {trial.name} cannot be read: {error}") from error

    def seconds(self, trial: Trial) -> float:
        """How many seconds of training a trial that was begun has taken, over all goes; 0 until it is told."""
        try:
            return float(json.loads(self.run(trial).seconds.read_text())["seconds"])
        except (OSError, ValueError):
            return 0.0

    def epochs(self, trial: Trial) -> tuple[int, int]:
        """How many epochs of a trial's run are done, and how many there are."""
        try:
            done = self.run(trial).metrics.read_bytes().count(b"\n")
        except OSError:
            done = 0
        return done, int(self.tables(trial)["training"]["epochs"])


def free_study_folder(parent: Path, name: str) -> StudyFolder:
    """The first of ``parent/name-1``, ``parent/name-2``, ... that does not exist."""
    return next(StudyFolder(parent / f"{name}-{i}") for i in count(1) if not (parent / f"{name}-{i}").exists())
