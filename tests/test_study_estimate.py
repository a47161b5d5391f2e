"""The estimated remaining time of a study, against values computed by hand."""

import json

import pytest
from study_examples import written_study

from sparsecore.study.scheduler import seconds_left
from sparsecore.study.trials import trials_of

EPOCHS = 10


@pytest.fixture
def study(tmp_path):
    """Five trials of two arms each, none of them begun."""
    return written_study(tmp_path, lambda _: None, ("dpr", "set"), **{"training.epochs": EPOCHS})


def begin(folder, trial, epochs, seconds):
    run = folder.run(trial)
    run.path.mkdir()
    run.metrics.write_text("{}\n" * epochs)
    run.seconds.write_text(json.dumps({"seconds": seconds}))


def finish(folder, trial, seconds):
    begin(folder, trial, EPOCHS, seconds)
    folder.run(trial).result.write_text(json.dumps({"test_accuracy": 0.9, "seconds": seconds}))


def test_a_study_that_has_not_started_has_no_estimate(study):
    assert seconds_left(trials_of(study.read()), study, 2) is None


def test_before_any_trial_is_finished_the_running_ones_are_extrapolated(study):
    trials = trials_of(study.read())
    begin(study, trials[0], 4, 8.0)
    # two seconds an epoch, 9 trials of 10 epochs and 6 epochs of the one that was begun, two at a time
    assert seconds_left(trials, study, 2) == pytest.approx(2.0 * (9 * 10 + 6) / 2)


def test_each_arm_is_estimated_from_its_own_finished_trials(study):
    trials = trials_of(study.read())
    dpr, own = ([trial for trial in trials if trial.arm == arm] for arm in ("dpr", "set"))
    finish(study, dpr[0], 10.0)
    begin(study, dpr[1], 5, 500.0)  # it was held up; a finished one knows better
    assert seconds_left(trials, study, 1) == pytest.approx(1.0 * (5 + 30) + 1.0 * 50)
    begin(study, own[0], 1, 3.0)
    assert seconds_left(trials, study, 1) == pytest.approx(1.0 * (5 + 30) + 3.0 * 49)
    for trial in trials:
        if study.result(trial) is None and not study.run(trial).path.exists():
            finish(study, trial, 10.0)
    # of what is left no more can run at a time than there are trials
    assert seconds_left(trials, study, 8) == pytest.approx((1.0 * 5 + 1.0 * 9) / 2)
