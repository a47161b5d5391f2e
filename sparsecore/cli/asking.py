"""What a command is to carry out, and where: a run that begins, or one that goes on."""

from pathlib import Path

import attrs

from sparsecore.cli.options import Given
from sparsecore.errors import InputError
from sparsecore.experiment.comparison import differences
from sparsecore.experiment.experiment import Experiment
from sparsecore.run.folder import RunFolder, free_run_folder, new_run_folder
from sparsecore.run.setup import Setup, set_up


@attrs.frozen(eq=False)
class Asked:
    """What is to be done.

    Attributes:
        experiment: to carry out.
        folder: where.
        is_new: whether the folder is to be made.
        is_numbered: whether the folder may be made under the next free number, where another process takes this one.
        note: to be said before.
    """

    experiment: Experiment
    folder: RunFolder
    is_new: bool = True
    is_numbered: bool = False
    note: str = ""

    def prepared(self) -> Setup:
        """All that training needs; nothing is written yet.

        Raises:
            InputError: the folder cannot be made, or the experiment cannot be set up.
        """
        if self.is_new:
            self.folder.check_absent()
        return set_up(self.experiment, self.folder)

    def begun(self, setup: Setup) -> "Asked":
        """The same with its folder made, perhaps under another number; as it is where the run goes on.

        Raises:
            InputError: the folder cannot be made.
        """
        if not self.is_new:
            return self
        tables = self.experiment.tables()
        others = {} if setup.source is None else {self.folder.start.name: setup.source.content()}
        if not self.is_numbered:
            self.folder.create(tables, others)
            return self
        parent, name = self.folder.path.parent, self.folder.path.name.rpartition("-")[0]
        return attrs.evolve(self, folder=new_run_folder(parent, name, tables, others))


def new(out: Path | None, given: Given) -> Asked:
    """A run that begins, in a folder of its own where none is given."""
    experiment = Experiment.of(given.tables())
    if out:
        return Asked(experiment, RunFolder(out))
    return Asked(experiment, free_run_folder(Path("runs"), _name(experiment)), is_numbered=True)


def resumed(out: Path | None, given: Given) -> Asked:
    """A run that goes on, or begins where there is none yet.

    Raises:
        InputError: no folder is given, or the run in it was begun as another experiment.
    """
    if out is None:
        raise InputError("--resume needs --out, the folder of the run to continue")
    if not out.exists() and not given.names_experiment:
        raise InputError(
            f"there is no run at {out} to continue; to begin one there, say which: FILE.toml, --model or --data"
        )
    return going_on(Experiment.of(given.tables()), RunFolder(out))


def going_on(experiment: Experiment, folder: RunFolder) -> Asked:
    """The experiment in its folder, whether it has begun there or not.

    Raises:
        InputError: what was begun there is another experiment, or no run.
    """
    if not folder.path.exists():
        return Asked(experiment, folder, note=f"there is no run at {folder.path} yet; it begins now")
    told = differences(Experiment.of(folder.read_tables()).tables(), experiment.tables())
    if told:
        raise InputError(f"the run {folder.path} was begun as another experiment: {'; '.join(told)}")
    return Asked(experiment, folder, is_new=False)


def begun_before(out: Path | None) -> Path | None:
    """The experiment of the run to continue, where there is one."""
    if out is None or not out.exists():
        return None
    folder = RunFolder(out)
    folder.read_tables()  # refuses what is no run
    return folder.experiment


def _name(experiment: Experiment) -> str:
    """What a run is called that was given no folder."""
    strategies = "+".join(Path(strategy.name.partition(":")[0]).stem for strategy in experiment.strategies)
    model = Path(experiment.model.name.partition(":")[0]).stem
    begins = [] if experiment.start.run is None else ["from", Path(experiment.start.run).name]
    sparse = [] if experiment.sparsity is None else [f"{experiment.sparsity:g}"]
    return "-".join([model, experiment.dataset.name, strategies, *begins, *sparse])
