"""How long a study may still take, from the trials that are finished and how far the others are."""

from collections.abc import Sequence
from statistics import fmean

from sparsecore.study.folder import StudyFolder
from sparsecore.study.trials import Trial


def seconds_left(trials: Sequence[Trial], folder: StudyFolder, jobs: int) -> float | None:
    """About how many seconds of waiting are left; None while there is nothing to go by.

    An epoch takes as long as the mean one of the same arm's finished trials, or of those that were begun where none is
    finished, or of all arms where none of its own was begun.
    """
    begun: dict[str, list[float]] = {}
    finished: dict[str, list[float]] = {}
    left: list[tuple[str, int]] = []
    for trial in trials:
        done, epochs = folder.epochs(trial)
        result = folder.result(trial)
        if result is None:
            left.append((trial.arm, epochs - done))
            if done:
                begun.setdefault(trial.arm, []).append(folder.seconds(trial) / done)
        else:
            finished.setdefault(trial.arm, []).append(float(result["seconds"]) / epochs)
    known = {**begun, **finished}
    if not known:
        return None
    mean = fmean(seconds for arm in known.values() for seconds in arm)
    return sum(epochs * fmean(known.get(arm, [mean])) for arm, epochs in left) / min(jobs, max(1, len(left)))
