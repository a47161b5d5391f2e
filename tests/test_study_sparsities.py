"""The study of accuracy over sparsity trains what Mostafa & Wang's released code trains, and can be carried out."""

from pathlib import Path

import attrs
import pytest
from command_line import small_images
from in_process import no_waiting_for_the_disk
from study_examples import InProcessPool

from sparsecore.engine.schedules import Clock
from sparsecore.study.comparison import finished_results
from sparsecore.study.definition import load_study
from sparsecore.study.folder import StudyFolder
from sparsecore.study.scheduler import StudyCallback, execute
from sparsecore.study.trials import experiment_of, trials_of

WRN = {"model.name": "wrn-28-2", "data.name": "cifar10"}
LENET = {"model.name": "lenet-300-100", "data.name": "mnist"}


def experiments(options, sparsity=0.9):
    """The experiment of each arm by its name."""
    study = load_study("sparsities").for_model(options["model.name"])
    study = attrs.evolve(study, trials=1, sparsities=(sparsity,), options=options)
    return {trial.arm: experiment_of(study, trial, Path("runs")) for trial in trials_of(study)}


@pytest.fixture(scope="module")
def wrn():
    return experiments(WRN)


def test_set_moves_20_000_weights_of_wrn_as_often_as_dpr_until_epoch_190(wrn):
    (own,), (dpr,) = (wrn[name].strategies for name in ("set", "dpr"))
    assert (own.plugin.drop_fraction, own.plugin.ranking, own.plugin.start) == (20_000, "magnitude", "uniform")
    assert dpr.plugin.target.given == 20_000
    clocks = [Clock(step, 500, 100_000) for step in range(100, 100_000, 100)]
    due = [[clock.step for clock in clocks if one.plugin.update_due(clock)] for one in (own, dpr)]
    assert due[0] == due[1]
    assert len(due[0]) == 367
    assert due[0][-1] < 190 * 500


def test_deepr_has_noise_and_pull_in_the_gradient_and_no_weight_decay(wrn):
    (own,) = wrn["deepr"].strategies
    assert own.name == "gradient-deepr"
    assert (own.plugin.l1, own.plugin.step_size) == (1e-5, 0.01)
    temperatures = {0: 1e-5, 24: 1e-5, 25: 1e-8, 80: 1e-12, 140: 1e-15, 199: 1e-15}
    assert {epoch: own.plugin.temperature(Clock(epoch * 500, 500)) for epoch in temperatures} == temperatures
    assert [own.plugin.update_due(Clock(epoch * 500, 500)) for epoch in (1, 189, 190, 199)] == [
        True,
        True,
        False,
        False,
    ]
    assert (wrn["deepr"].optimizer.weight_decay, wrn["deepr"].optimizer.momentum) == (0.0, 0.9)
    assert wrn["set"].optimizer.weight_decay == 5e-4


@pytest.mark.parametrize("options", [WRN, LENET])
def test_a_dense_network_is_pruned_for_48_epochs_by_the_learning_rates_of_the_released_schedule(options):
    training = experiments(options)["pruned-dense"].training
    assert training.epochs == 48
    rates = [training.learning_rate(Clock(epoch * 500, 500, 48 * 500)) for epoch in range(48)]
    assert rates == [0.0] + [0.02] * 24 + [0.004] * 10 + [0.0008] * 13


def test_lenet_on_mnist_has_600_weights_an_update_and_100_in_the_last_layer():
    lenet = experiments(LENET, 0.98)
    (own,), (dpr,), (pruned,) = (lenet[name].strategies for name in ("set", "dpr", "pruned-dense"))
    assert (own.plugin.drop_fraction, dpr.plugin.target.given) == (600, 600)
    assert own.plugin.schedule == dpr.plugin.schedule
    assert pruned.plugin.highest_sparsity == {"classifier.weight": 0.9}


def test_the_whole_study_can_be_carried_out(tmp_path):
    options = {
        "model.name": "lenet-12-8",
        "data.name": "npz",
        "data.file": str(small_images(tmp_path / "images.npz")),
        "training.batch_size": 16,
        "training.epochs": 4,
    }
    preset = load_study("sparsities").for_model("lenet-12-8")
    study = attrs.evolve(preset, sparsities=(0.8,), trials=1, options=options)
    place = StudyFolder(tmp_path / "study")
    place.create(study)
    with no_waiting_for_the_disk():
        execute(trials_of(study), place, InProcessPool(), StudyCallback())
    assert list(finished_results(study, place)) == list(trials_of(study))
    pruned = place.tables(next(trial for trial in trials_of(study) if trial.arm == "pruned-dense"))
    assert pruned["training"]["epochs"] == 2
