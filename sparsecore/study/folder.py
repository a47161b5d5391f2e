"""The folder of a study: its definition, and an experiment and a run for each trial."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import attrs
import tomli_w

from sparsecore.errors import InputError
from sparsecore.experiment.assembly import differences, experiment_fingerprint
from sparsecore.experiment.experiment import Experiment
from sparsecore.formats import STUDY
from sparsecore.run.files import BusyError, Lock, new_folder, read_regular_toml, write_whole
from sparsecore.run.folder import FolderExistsError, RunFolder, is_occupied
from sparsecore.run.logs import Effort, RunFlops, read_record
from sparsecore.study.definition import Study
from sparsecore.study.report_folder import ReportFolder
from sparsecore.study.trials import Trial, experiment_of, trials_of


@cache
def _tables_in(experiment: Path) -> tuple[Mapping[str, Any], str]:
    """Read an experiment and compute its fingerprint."""
    # cached, because the file does not change and progress bars ask for every trial's a few times a second
    tables = read_regular_toml(experiment)
    tables.pop("presets", None)
    return tables, experiment_fingerprint(tables)


@cache
def _read_manifest(file: Path) -> Mapping[str, Any]:
    manifest = json.loads(file.read_text("utf-8"))
    return {"study": dict(manifest["study"]), "experiments": dict(manifest["experiments"])}


def _check_finite(_: Any, attribute: "attrs.Attribute[float]", number: float) -> None:
    if not isfinite(number):
        raise ValueError(f"expected a finite number for {attribute.name}, found {number}")


@attrs.frozen(kw_only=True)
class TrialResult:
    """What a study reads of a trial's result.json, a :class:`sparsecore.run.logs.Result`.

    Attributes:
        test_accuracy: share of test images classified correctly after the last epoch, 0..1.
        seconds: wall time of the run.
        topology_sha256: fingerprint of layout and positions; None if unknown.
        experiment_sha256: fingerprint of the experiment that was run; None if unknown.
        test_loss: mean cross-entropy over the test images, in nats; None if unknown.
        sparsity: the fraction of inactive positions at the end; None if unknown.
        flops: floating-point operations of the run; None where they are not known.
    """

    test_accuracy: float = attrs.field(validator=_check_finite)
    seconds: float = attrs.field(validator=_check_finite)
    topology_sha256: str | None = None
    experiment_sha256: str | None = None
    test_loss: float | None = None
    sparsity: float | None = None
    flops: RunFlops | None = None


@attrs.frozen
class StudyFolder(ReportFolder):
    """The folder of a study.

    Attributes:
        path: absolute path of the folder.
    """

    @property
    def study(self) -> Path:
        """The definition of the study, as TOML."""
        return self.path / "study.toml"

    @property
    def runs(self) -> Path:
        """The folder that has a run folder for each trial, by the trial's name."""
        return self.path / "runs"

    def run(self, trial: Trial) -> RunFolder:
        """Return the run folder of a trial."""
        return RunFolder(self.runs / trial.name)

    def experiment(self, trial: Trial) -> Path:
        """Return the file of a trial's experiment, a TOML file with all settings, which later presets do not change."""
        return self.path / "experiments" / f"{trial.name}.toml"

    def log(self, trial: Trial) -> Path:
        """Return the file with the output of a trial's process."""
        return self.path / "logs" / f"{trial.name}.log"

    @property
    def images(self) -> Path:
        """The record of which images the study is trained on, once they are identified."""
        return self.path / "images.json"

    def topology_history(self, trial: Trial) -> Path:
        """Return the file of a finished trial's topology history, written when it is first needed."""
        return self.path / "topology-history" / f"{trial.name}.json"

    def tables(self, trial: Trial) -> Mapping[str, Any]:
        """Return the tables of a trial's experiment.

        Raises:
            InputError: the file cannot be read, has changed since the study was created, or is missing because the
                creation of the study was interrupted.
        """
        try:
            tables, fingerprint = _tables_in(self.experiment(trial))
        except InputError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise InputError(
                    f"the study {self.path} has no experiment of {trial.name}; --resume creates what is missing"
                ) from None
            raise
        if fingerprint != self._fingerprint(trial, fingerprint):
            raise InputError(
                f"{self.experiment(trial)} has changed since the study was begun, so its trials would no longer belong "
                "to one experiment; restore the file, or start another study"
            )
        return tables

    def create(self, study: Study) -> "StudyFolder":
        """Create the folder, with the study and all its experiments.

        Returns:
            The folder itself.

        Raises:
            FolderExistsError: there is a file or a folder that is not empty at the path.
            InputError: the folder cannot be created, or an experiment of the study is not valid.
        """
        if is_occupied(self.path):
            raise self._exists()
        experiments = self._experiments(study, trials_of(study))
        manifest = {
            "study": study.tables(),
            "experiments": {trial.name: experiment_fingerprint(tables) for trial, tables in experiments.items()},
        }
        contents = {
            self.study.name: tomli_w.dumps(STUDY.put(study.tables())).encode(),
            self.manifest.name: json.dumps(manifest, indent=1).encode(),
            **{f"experiments/{trial.name}.toml": _content(tables) for trial, tables in experiments.items()},
        }
        try:
            new_folder(self.path, contents, ("runs", "experiments", "logs"))
        except FileExistsError:
            raise self._exists() from None
        except OSError as error:
            raise InputError(f"the study {self.path} cannot be created: {error.strerror}") from error
        return self

    def _exists(self) -> FolderExistsError:
        return FolderExistsError(f"the study {self.path} exists; give another --out, or --resume to continue it")

    def complete(self, study: Study) -> None:
        """Create the experiments and folders that are missing because :meth:`create` was interrupted.

        Raises:
            InputError: a file cannot be written, or an experiment has changed since the study was created.
        """
        missing = [trial for trial in trials_of(study) if not self.experiment(trial).exists()]
        experiments = self._experiments(study, missing)
        try:
            for folder in ("runs", "experiments", "logs"):
                (self.path / folder).mkdir(exist_ok=True)
            for trial, tables in experiments.items():
                write_whole(self.experiment(trial), _content(tables))
        except OSError as error:
            raise InputError(f"the study {self.path} cannot be created: {error.strerror}") from error
        for trial in trials_of(study):
            self.tables(trial)

    def _experiments(self, study: Study, trials: Sequence[Trial]) -> dict[Trial, dict[str, Any]]:
        return {trial: experiment_of(study, trial, self.runs).tables() for trial in trials}

    def read(self) -> Study:
        """Read the study of the folder.

        Raises:
            InputError: the folder has no study, or its file is damaged or has changed since the study was created.
        """
        try:
            study = Study.of(STUDY.take(read_regular_toml(self.study), f"the file {self.study}"))
        except InputError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                raise InputError(f"{self.path} is not the folder of a study: it has no {self.study.name}") from None
            raise InputError(f"the study {self.path} cannot be read: {error}") from error
        manifest = self._manifest()
        changes = differences(_by_arm(manifest["study"]), _by_arm(_plain(study.tables()))) if manifest else []
        if changes:
            raise InputError(
                f"{self.study} has changed since the study was begun: {'; '.join(changes)}. Finished runs have other "
                "settings; restore the file, or start another study"
            )
        return study

    def _manifest(self) -> Mapping[str, Any]:
        """Read :attr:`manifest`; empty if it is missing."""
        try:
            return _read_manifest(self.manifest)
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{self.manifest} is damaged: {error}") from error

    def _fingerprint(self, trial: Trial, default: str) -> str:
        """Return the fingerprint of a trial's experiment when the study was created."""
        known: Mapping[str, str] = self._manifest().get("experiments", {})
        return known.get(trial.name, default)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the study for this process.

        Raises:
            InputError: another process is executing the study.
        """
        try:
            lock = Lock(self.study)
        except BusyError:
            raise InputError(f"another process is executing the study {self.path}") from None
        try:
            yield
        finally:
            lock.release()

    def result(self, trial: Trial) -> TrialResult | None:
        """Return the result of a trial.

        Args:
            trial: a trial of the folder's study.

        Returns:
            The result; None if the trial has not finished.

        Raises:
            InputError: the result is damaged, or the run had other settings than the trial's experiment.
        """
        path = self.run(trial).result
        try:
            if not path.exists():
                return None
            result = read_record(path, TrialResult)
        except OSError as error:
            raise InputError(f"the result of the trial {trial.name} cannot be read: {error.strerror}") from error
        except InputError as error:
            raise InputError(f"the result of the trial {trial.name} cannot be read: {error}") from error
        fingerprint = result.experiment_sha256
        if fingerprint is not None and not self._is_of(trial, fingerprint):
            raise InputError(
                f"the run of the trial {trial.name} had other settings than {self.experiment(trial)}, so its result "
                "does not belong to this study; remove the run, and repeat it with --resume"
            )
        return result

    def _is_of(self, trial: Trial, fingerprint: str) -> bool:
        """Return whether a run with this fingerprint had the settings of a trial's experiment."""
        tables, own = _tables_in(self.experiment(trial))
        if fingerprint == own:
            return True
        # a later version may have begun the run, and have written settings that the study's file does not have
        try:
            begun = self.run(trial).read_tables()
            is_whole = experiment_fingerprint(begun) == fingerprint
            return is_whole and not differences(Experiment.of(tables).tables(), Experiment.of(begun).tables())
        except InputError:
            return False

    def effort(self, trial: Trial) -> Effort:
        """Return the time that a trial has taken so far and its machine.

        Args:
            trial: a trial, begun or not.

        Returns:
            Seconds of wall time over all sessions; empty if the file is missing or damaged, as no result depends on it.
        """
        try:
            effort = read_record(self.run(trial).seconds, Effort)
        except InputError:
            return Effort()
        return effort if isfinite(effort.seconds) else Effort()

    def epochs(self, trial: Trial) -> tuple[int, int]:
        """Return how many epochs of a trial are done, and how many it has.

        Args:
            trial: a trial, begun or not.

        Raises:
            InputError: the trial's experiment cannot be read, or has changed.
        """
        try:
            done = self.run(trial).metrics.read_bytes().count(b"\n")
        except OSError:
            done = 0
        return done, int(self.tables(trial)["training"]["epochs"])


def _content(tables: Mapping[str, Any]) -> bytes:
    return tomli_w.dumps({"presets": False, **tables}).encode()


def _plain(tables: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the tables as JSON restores them."""
    plain: Mapping[str, Any] = json.loads(json.dumps(tables))
    return plain


def _by_arm(tables: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the tables of a study with its arms by their names, to name differences."""
    return {**tables, "arm": {arm["name"]: arm for arm in tables["arm"]}}
