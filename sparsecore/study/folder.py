"""The files of a study: what it is, an experiment and a run a trial."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import tomli_w

from sparsecore.errors import InputError
from sparsecore.experiment.assembly import differences, experiment_fingerprint
from sparsecore.run.files import BusyError, Lock, check_regular, new_folder, read_regular_toml, write_whole
from sparsecore.run.folder import FolderExistsError, RunFolder
from sparsecore.study.arms import Study
from sparsecore.study.experiments import Trial, experiment_of, trials_of


def _absolute(path: Path) -> Path:
    return path.absolute()


@cache
def _tables_in(experiment: Path) -> tuple[Mapping[str, Any], str]:
    """The experiment in the file and its fingerprint."""
    # it stays as it was written; progress bars ask for every trial's a few times a second
    tables = read_regular_toml(experiment)
    tables.pop("presets", None)
    return tables, experiment_fingerprint(tables)


@cache
def _begun_in(file: Path) -> Mapping[str, Any]:
    told = json.loads(file.read_text("utf-8"))
    return {"study": dict(told["study"]), "experiments": dict(told["experiments"])}


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

    def topology_history(self, trial: Trial) -> Path:
        """How the topology of a finished trial moved, once somebody has looked."""
        return self.path / "topology-history" / f"{trial.name}.json"

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

    @property
    def manifest(self) -> Path:
        """What the study was when it was begun, and the fingerprint of each trial's experiment."""
        return self.path / "manifest.json"

    def tables(self, trial: Trial) -> Mapping[str, Any]:
        """The trial's experiment as plain tables.

        Raises:
            InputError: it cannot be read, or is not as the study was begun; where the making of a study was
                interrupted, it is not there yet.
        """
        try:
            tables, fingerprint = _tables_in(self.experiment(trial))
        except InputError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise InputError(
                    f"the study {self.path} has no experiment of {trial.name}; --resume completes what was not made"
                ) from None
            raise
        if fingerprint != self._fingerprint(trial, fingerprint):
            raise InputError(
                f"{self.experiment(trial)} has changed since the study was begun, and its trials would not be those of "
                "one experiment any more; put it back, or begin another study"
            )
        return tables

    def create(self, study: Study) -> "StudyFolder":
        """Make the folder, with the study and all its experiments in it.

        Raises:
            FolderExistsError: there is something at its place.
            InputError: it cannot be made, or an experiment of the study cannot be.
        """
        if self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir())):
            raise self._exists()
        experiments = self._experiments(study, trials_of(study))
        begun = {
            "study": study.tables(),
            "experiments": {trial.name: experiment_fingerprint(tables) for trial, tables in experiments.items()},
        }
        contents = {
            self.study.name: tomli_w.dumps(study.tables()).encode(),
            self.manifest.name: json.dumps(begun, indent=1).encode(),
            **{f"experiments/{trial.name}.toml": _content(tables) for trial, tables in experiments.items()},
        }
        try:
            new_folder(self.path, contents, ("runs", "experiments", "logs"))
        except FileExistsError:
            raise self._exists() from None
        except OSError as error:
            raise InputError(f"the study {self.path} cannot be made: {error.strerror}") from error
        return self

    def _exists(self) -> FolderExistsError:
        return FolderExistsError(f"the study {self.path} exists; give another --out, or --resume to continue it")

    def complete(self, study: Study) -> None:
        """Write what is missing; arguments and errors as for :meth:`create`.

        Raises:
            InputError: also where an experiment of the study is not as it was begun.
        """
        missing = [trial for trial in trials_of(study) if not self.experiment(trial).exists()]
        experiments = self._experiments(study, missing)
        try:
            for folder in ("runs", "experiments", "logs"):
                (self.path / folder).mkdir(exist_ok=True)
            for trial, tables in experiments.items():
                write_whole(self.experiment(trial), _content(tables))
        except OSError as error:
            raise InputError(f"the study {self.path} cannot be made: {error.strerror}") from error
        for trial in trials_of(study):
            self.tables(trial)

    def _experiments(self, study: Study, trials: Sequence[Trial]) -> dict[Trial, dict[str, Any]]:
        """The experiments of these trials, as plain tables."""
        return {trial: experiment_of(study, trial, self.runs).tables() for trial in trials}

    def read(self) -> Study:
        """The study of the folder.

        Raises:
            InputError: this is no study's folder, the file is damaged, or says something else than when the study was
                begun.
        """
        try:
            study = Study.of(read_regular_toml(self.study))
        except InputError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                raise InputError(f"{self.path} is no study: it has no {self.study.name}") from None
            raise InputError(f"the study {self.path} cannot be read: {error}") from error
        begun = self._begun()
        told = differences(_by_arm(begun["study"]), _by_arm(_plain(study.tables()))) if begun else []
        if told:
            raise InputError(
                f"{self.study} has changed since the study was begun: {'; '.join(told)}. What was run has other "
                "settings; put it back, or begin another study"
            )
        return study

    def _begun(self) -> Mapping[str, Any]:
        """What :attr:`manifest` says; nothing for a study of an earlier version."""
        try:
            return _begun_in(self.manifest)
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{self.manifest} is damaged: {error}") from error

    def _fingerprint(self, trial: Trial, otherwise: str) -> str:
        """Of the trial's experiment, as the study was begun."""
        known: Mapping[str, str] = self._begun().get("experiments", {})
        return known.get(trial.name, otherwise)

    @contextmanager
    def locked(self) -> Iterator[None]:
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
        path = self.run(trial).result
        try:
            if not path.exists():
                return None
            check_regular(path, str(path))
            result: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
            told = {**result, **{key: _finite(result[key], key) for key in ("test_accuracy", "seconds")}}
        except OSError as error:
            raise InputError(f"the result of the trial {trial.name} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"the result of the trial {trial.name} cannot be read: {error}") from error
        ran = told.get("experiment_sha256")
        if ran is not None and ran != _tables_in(self.experiment(trial))[1]:
            raise InputError(
                f"the run of the trial {trial.name} had other settings than {self.experiment(trial)}: its result is "
                "none of this study; remove the run, and --resume to do it again"
            )
        return told

    def seconds(self, trial: Trial) -> float:
        """How many seconds of training a trial that was begun has taken, over all goes; 0 until it is told."""
        try:
            check_regular(self.run(trial).seconds, trial.name)
            return _finite(json.loads(self.run(trial).seconds.read_text("utf-8"))["seconds"], "seconds")
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return 0.0

    def epochs(self, trial: Trial) -> tuple[int, int]:
        """How many epochs of a trial's run are done, and how many there are."""
        try:
            done = self.run(trial).metrics.read_bytes().count(b"\n")
        except OSError:
            done = 0
        return done, int(self.tables(trial)["training"]["epochs"])


def _content(tables: Mapping[str, Any]) -> bytes:
    return tomli_w.dumps({"presets": False, **tables}).encode()


def _finite(given: Any, key: str) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not abs(given) < float("inf"):
        raise ValueError(f"{key} is a finite number; found {str(given)[:40]}")
    return float(given)


def _plain(tables: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tables as JSON gives them back."""
    plain: Mapping[str, Any] = json.loads(json.dumps(tables))
    return plain


def _by_arm(tables: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tables of a study with its arms by their names, so that what differs can be named."""
    return {**tables, "arm": {arm["name"]: arm for arm in tables["arm"]}}
