"""A study's cells beside what the authors have measured of the same network on the same images."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import attrs

from sparsecore.study.arms import Arm, Study
from sparsecore.study.authors import Authors, authors_of
from sparsecore.study.folder import StudyFolder
from sparsecore.study.images import Seen, restrictions
from sparsecore.study.statistics import Difference, difference
from sparsecore.study.summary import Cell, cells
from sparsecore.study.trials import Trial, trials_of


@attrs.frozen
class Compared:
    """A cell beside the authors' trials; all accuracies in percent.

    Attributes:
        cell: ours.
        theirs: the authors', one a trial; none where they have none of this, or of other images.
        difference: ours above theirs; None where nothing can be said, or ought to be.
        remark: why not, or what else is to be known.
    """

    cell: Cell
    theirs: tuple[float, ...] = ()
    difference: Difference | None = None
    remark: str = ""

    @property
    def ours(self) -> tuple[float, ...]:
        """Our test accuracies in percent, one a trial."""
        return tuple(100 * accuracy for accuracy in self.cell.accuracies)


def compared(study: Study, folder: StudyFolder, images: Seen) -> list[Compared]:
    """Every cell of the study, in the order of :func:`sparsecore.study.summary.cells`.

    Args:
        study: that of the folder.
        folder: with what was measured so far.
        images: on which; the authors' results are those of published images, and are set beside no others.
    """
    first = {arm.name: folder.tables(trial) for arm, trial in _firsts(study)}
    # an arm may last for a part of the study only
    epochs = max(tables["training"]["epochs"] for tables in first.values())
    return [_compared(cell, first[cell.arm.name], epochs, images) for cell in cells(study, folder)]


def mean_and_spread(accuracies: Sequence[float]) -> str:
    """Mean ± standard deviation of accuracies in percent; empty of none."""
    if not accuracies:
        return ""
    spread = f" ± {stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    return f"{fmean(accuracies):.2f}{spread}"


def _firsts(study: Study) -> Iterator[tuple[Arm, Trial]]:
    """Every arm, with one of its trials; they differ in seed and sparsity alone."""
    trials = trials_of(study)
    return ((arm, next(trial for trial in trials if trial.arm == arm.name)) for arm in study.arms)


def _compared(cell: Cell, tables: Mapping[str, Any], epochs: int, images: Seen) -> Compared:
    authors = authors_of(tables["model"], tables["data"]["name"]) if images.published else None
    theirs = authors.accuracies(cell.arm, cell.sparsity) if authors else ()
    if authors is None or not theirs:
        return Compared(cell)
    otherwise = _otherwise(epochs, restrictions(tables["data"]), authors)
    if otherwise:
        return Compared(cell, theirs, remark=otherwise)
    found = difference([100 * accuracy for accuracy in cell.accuracies], theirs)
    return Compared(cell, theirs, found, _to_be_known(authors, theirs))


def _to_be_known(authors: Authors, theirs: Sequence[float]) -> str:
    if len(theirs) < 2:
        return "the authors' is one trial"
    return "" if authors.epochs is not None else "for how many epochs the authors trained is not told"


def _otherwise(epochs: int, images: str, authors: Authors) -> str:
    """In which respect the study is another experiment than the authors'; empty where it is none."""
    if images:
        return f"shortened: {images}"
    if authors.epochs is None or epochs == authors.epochs:
        return ""
    return f"{'shortened' if epochs < authors.epochs else 'lengthened'}: {epochs} of {authors.epochs} epochs"
