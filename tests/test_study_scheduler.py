"""Trials run in the order of the study, each as soon as the one that it starts from has finished."""

import json
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from sparsecore.study.definition import Study
from sparsecore.study.folder import StudyFolder
from sparsecore.study.pools import Job
from sparsecore.study.scheduler import StudyCallback, execute
from sparsecore.study.trials import Trial, trials_of

ARMS = [
    {"name": "dpr", "strategy": ["dpr"]},
    {"name": "random", "strategy": ["static"]},
    {"name": "again", "strategy": ["static"], "after": "dpr", "settings": {"start.values": "fresh"}},
]


class RecordingPool:
    """A pool whose jobs end when the scheduler has gone round once more, the oldest first; it notes their names."""

    def __init__(self, jobs: int, folder: StudyFolder) -> None:
        self.jobs, self.begun, self.most = jobs, [], 0
        self._folder, self._running = folder, []

    def submit(self, job: Job) -> "Future[int]":
        self.begun.append(job.name)
        self._running.append((job.name, done := Future()))
        self.most = max(self.most, len(self._running))
        return done

    def end_one(self) -> None:
        name, done = self._running.pop(0)
        run = self._folder.runs / name
        run.mkdir()
        (run / "result.json").write_text(json.dumps({"test_accuracy": 0.5, "seconds": 1.0}))
        done.set_result(0)

    def stop(self) -> None:
        pass


class EndingOne(StudyCallback):
    def __init__(self, pool: RecordingPool) -> None:
        self._pool = pool

    def poll(self, running: Sequence[Trial]) -> None:
        assert len(running) <= self._pool.jobs
        self._pool.end_one()


def begun(folder: Path, jobs: int) -> tuple[list[str], list[str]]:
    """The names of the trials as they begin, and in the order of the study."""
    study = Study.of({"name": "s", "title": "?", "figure": "bars", "sparsities": [0.9, 0.8], "trials": 3, "arm": ARMS})
    place = StudyFolder(folder / "study").create(study)
    pool = RecordingPool(jobs, place)
    execute(trials_of(study), place, pool, EndingOne(pool))
    assert pool.most == jobs
    return pool.begun, [trial.name for trial in trials_of(study)]


def test_one_after_another_they_begin_in_the_order_of_the_study(tmp_path: Path) -> None:
    found, expected = begun(tmp_path, 1)
    assert found == expected


def test_side_by_side_no_arm_is_more_than_a_few_trials_ahead_of_one_that_starts_from_it(tmp_path: Path) -> None:
    found, expected = begun(tmp_path, 2)
    assert sorted(found) == sorted(expected)
    assert max(abs(found.index(name) - place) for place, name in enumerate(expected)) <= 2
