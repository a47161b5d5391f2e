"""Small studies: carried out in this process, or with results that are written by hand."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import attrs
import pytest
from command_line import small_images

from sparsecore.cli.command_line import commands
from sparsecore.study.definition import Study, load_study
from sparsecore.study.folder import StudyFolder
from sparsecore.study.pools import Job
from sparsecore.study.scheduler import StudyCallback, execute
from sparsecore.study.trials import Trial, model_of, trials_of

ARMS = [
    {"name": "dpr", "label": "DPR", "strategy": ["dpr"]},
    {"name": "set", "label": "SET", "strategy": ["set"]},
    {"name": "again", "label": "DPR's structure", "strategy": ["static"], "after": "dpr"},
    {"name": "random", "label": "random structure", "strategy": ["static"]},
]
ARMS[2]["settings"] = {"start.values": "original"}
HYPOTHESES = [{"better": "dpr", "worse": "again"}, {"better": "dpr", "worse": "random"}]


class InProcessPool:
    """Runs jobs in this process."""

    jobs = 1

    def submit(self, job: Job) -> "Future[int]":
        done: Future[int] = Future()
        with pytest.MonkeyPatch.context() as patch:
            # drawing the reports of the runs takes longer than the runs, and a study does not read them
            patch.setattr("sparsecore.report.write_report", lambda folder: folder)
            commands([*job.command[3:]], standalone_mode=False)
        done.set_result(0)
        return done

    def stop(self) -> None:
        pass


def small_study(folder: Path, **changes: Any) -> StudyFolder:
    """Four arms at two sparsities, two trials each, carried out in two epochs."""
    images = small_images(folder / "images.npz")
    options = {
        "model.name": "lenet-12-8",
        "data.name": "npz",
        "data.file": str(images),
        "training.batch_size": 16,
        "training.epochs": 2,
        "strategy.dpr.schedule": {"steps": 2},
        "strategy.set.schedule": {"steps": 3},
    }
    tables = {"name": "small", "title": "Does <it> work?", "figure": "bars", "sparsities": [0.8, 0.6], "trials": 2}
    study = Study.of({**tables, "options": options, "arm": ARMS, "hypothesis": HYPOTHESES, **changes})
    place = StudyFolder(folder / "study")
    place.create(study)
    execute(trials_of(study), place, InProcessPool(), StudyCallback())
    return place


def written_study(
    folder: Path,
    accuracy: Callable[[Trial], float | None],
    arms: Sequence[str] = ("dpr",),
    trials: int = 5,
    **options: Any,
) -> StudyFolder:
    """Arms of the preset at sparsity 0.9 whose trials have these accuracies in percent (None: unfinished)."""
    preset = load_study("sparsities").for_model(model_of(options))
    study = attrs.evolve(
        preset, sparsities=(0.9,), trials=trials, options=options, arms=[preset.arm(name) for name in arms]
    )
    place = StudyFolder(folder / "study")
    place.create(study)
    for trial in trials_of(study):
        found = accuracy(trial)
        if found is not None:
            place.run(trial).path.mkdir()
            place.run(trial).result.write_text(json.dumps({"test_accuracy": found / 100, "seconds": 1.0}))
    return place
