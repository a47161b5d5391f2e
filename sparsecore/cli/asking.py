"""What a command is to carry out, and where: a run that begins, or one that goes on."""

from pathlib import Path

import attrs

from sparsecore.cli.options import Given
from sparsecore.errors import InputError
from sparsecore.experiment.assembly import Tables
from sparsecore.experiment.experiment import Experiment
from sparsecore.run.folder import RunFolder, free_run_folder
from sparsecore.run.identity import PLACES
from sparsecore.run.setup import Setup, set_up


@attrs.frozen(eq=False)
class Asked:
    """What is to be done.

    Attributes:
        experiment: to carry out.
        folder: where.
        is_new: whether the folder is to be made.
        note: to be said before.
    """

    experiment: Experiment
    folder: RunFolder
    is_new: bool = True
    note: str = ""

    def prepared(self) -> Setup:
        """All that training needs; nothing is written yet.

        Raises:
            InputError: the folder cannot be made, or the experiment cannot be set up.
        """
        if self.is_new:
            self.folder.check_absent()
        return set_up(self.experiment, self.folder)


def new(out: Path | None, given: Given) -> Asked:
    """A run that begins, in a folder of its own where none is given."""
    experiment = Experiment.of(given.tables())
    return Asked(experiment, RunFolder(out) if out else free_run_folder(Path("runs"), _name(experiment)))


def resumed(out: Path | None, given: Given) -> Asked:
    """A run that goes on, or begins where there is none yet.

    Raises:
        InputError: no folder is given, or the run in it was begun as another experiment.
    """
    if out is None:
        raise InputError("--resume needs --out, the folder of the run to continue")
    return going_on(Experiment.of(given.tables()), RunFolder(out))


def going_on(experiment: Experiment, folder: RunFolder) -> Asked:
    """The experiment in its folder, whether it has begun there or not.

    Raises:
        InputError: what was begun there is another experiment, or no run.
    """
    if not folder.path.exists():
        return Asked(experiment, folder, note=f"sparsecore: there is no run at {folder.path} yet; it begins now")
    differences = _differences(Experiment.of(folder.read_tables()).tables(), experiment.tables())
    if differences:
        raise InputError(f"the run {folder.path} was begun as another experiment: {'; '.join(differences)}")
    return Asked(experiment, folder, is_new=False)


def begun_before(out: Path | None) -> Path | None:
    """The experiment of the run to continue, where there is one."""
    if out is None or not out.exists():
        return None
    folder = RunFolder(out)
    folder.read_tables()  # refuses what is no run
    return folder.experiment


def _differences(begun: Tables, asked: Tables, place: str = "") -> list[str]:
    """Settings that differ, but for where something lies."""
    told = []
    for key in sorted(begun.keys() | asked.keys()):
        name, there, here = f"{place}{key}", begun.get(key), asked.get(key)
        if isinstance(there, dict) and isinstance(here, dict):
            told += _differences(there, here, f"{name}.")
        elif there != here and name not in PLACES:
            told.append(f"{name} is {there} there, {here} is asked for")
    return told


def _name(experiment: Experiment) -> str:
    """What a run is called that was given no folder."""
    strategies = "+".join(Path(strategy.name.partition(":")[0]).stem for strategy in experiment.strategies)
    model = Path(experiment.model.name.partition(":")[0]).stem
    begins = [] if experiment.start.run is None else ["from", Path(experiment.start.run).name]
    sparse = [] if experiment.sparsity is None else [f"{experiment.sparsity:g}"]
    return "-".join([model, experiment.dataset.name, strategies, *begins, *sparse])
