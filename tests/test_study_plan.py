"""Which runs a study is made of, and what each of them is to do."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.errors import InputError
from sparsecore.study.definition import Study, load_study, preset_names
from sparsecore.study.trials import Trial, check_options, experiment_of, pieces_by_epoch, rescaled, trials_of

RUNS = Path("/studies/one/runs")
ARMS = [{"name": "dpr", "strategy": ["dpr"]}, {"name": "again", "strategy": ["static"], "after": "dpr"}]


def small(**changes):
    return Study.of({"name": "small", "title": "?", "figure": "bars", "sparsities": [0.9], "arm": ARMS, **changes})


def tables(study, arm, sparsity, number=0):
    trial = next(one for one in trials_of(study) if (one.arm, one.sparsity, one.number) == (arm, sparsity, number))
    return experiment_of(study, trial, RUNS).tables()


def on_cifar(name, **options):
    preset = load_study(name)
    return Study.of({**preset.tables(), "options": {"data.name": "cifar10", "data.dir": "/data", **options}})


@pytest.mark.parametrize("name", preset_names())
def test_every_trial_of_a_preset_follows_its_source_and_is_a_valid_experiment(name):
    study, before = load_study(name), set()
    for trial in trials_of(study):
        assert trial.after is None or trial.after in before
        assert trial not in before
        before.add(trial)
    assert len({trial.name for trial in before}) == len(before)
    for trial in trials_of(Study.of({**study.tables(), "trials": 1})):
        experiment_of(study, trial, RUNS)


def test_trials_cover_arms_sparsities_and_numbers_and_an_arm_that_runs_once_has_one_per_number():
    arms = [{"name": "dense", "once": True, "settings": {"sparsity": 0.0}, "strategy": ["static"]}, *ARMS]
    trials = trials_of(small(arm=arms, sparsities=[0.9, 0.5], trials=3))
    assert len(trials) == 3 * (1 + 2 * 2)
    assert [trial.name for trial in trials[:5]] == [
        "dense-trial-0",
        "dpr-at-0.9-trial-0",
        "dpr-at-0.5-trial-0",
        "again-at-0.9-trial-0",
        "again-at-0.5-trial-0",
    ]


def test_figure_1a_has_the_four_arms_of_the_paper_and_a_control_with_the_final_densities():
    study = load_study("fig1a")
    assert (study.sparsities, study.trials) == ((0.9, 0.8), 5)
    dpr, fresh, original, densities, random = (tables(study, arm.name, 0.9, 3) for arm in study.arms)
    assert [dpr["strategy"][0]["name"], random["strategy"][0]["name"]] == ["dpr", "static"]
    assert (dpr["sparsity"], random["sparsity"]) == (0.9, 0.9)
    assert {one["seed"] for one in (dpr, fresh, original, densities, random)} == {3}
    for one, values in ((fresh, "fresh"), (original, "original")):
        assert one["start"] == {"run": str(RUNS / "dpr-at-0.9-trial-3"), "values": values, "prune": 0.0}
        assert one["strategy"][0]["name"] == "static"
    assert densities["start"] == {**fresh["start"], "active": "densities"}
    assert densities["strategy"] == fresh["strategy"]


def test_the_pruned_dense_network_is_retrained_with_the_authors_schedule():
    pruned = tables(on_cifar("fig1bc"), "pruned-dense", 0.9)
    assert pruned["training"]["epochs"] == 48
    assert pruned["training"]["learning_rate"] == {"0": 0.0, "1": 0.02, "25": 0.004, "35": 0.0008}
    assert pruned["start"] == {"run": str(RUNS / "dense-trial-0"), "values": "trained", "prune": 0.0}
    assert pruned["strategy"] == [
        {"name": "iterative-pruning", "prunings": 20, "until": 0.8125, "highest_sparsity": {}}
    ]
    assert pruned["sparsity"] == 0.9
    dense = tables(on_cifar("fig1bc"), "dense", None)
    assert (dense["sparsity"], dense["training"]["epochs"]) == (0.0, 200)
    assert dense["training"]["learning_rate"] == {"0": 0.1, "60": 0.02, "120": 0.004, "160": 0.0008}


def test_dpr_stops_at_a_fraction_of_the_run():
    study = load_study("fig1bc")
    places = {arm.fraction: tables(study, arm.name, 0.8)["strategy"][0]["schedule"]["until"] for arm in study.arms[:8]}
    assert all(place == until for place, until in places.items())
    assert len(places) == 8


def test_the_thin_network_has_the_parameter_count_of_the_sparse_one():
    thin = tables(load_study("sparsities"), "thin-dense", 0.7)
    assert thin["model"] == {"name": "thin-wrn-28-2", "depth": 28, "width": 2, "sparsity": 0.7}
    assert thin["sparsity"] == 0.0


def test_each_network_has_its_own_default_sparsities():
    study = load_study("sparsities")
    assert study.for_model("wrn-28-2").sparsities == (0.5, 0.6, 0.7, 0.8, 0.9)
    assert study.for_model("lenet-300-100").sparsities == (0.9, 0.95, 0.96, 0.97, 0.98, 0.99)
    assert load_study("fig1a").for_model("wrn-28-2").sparsities == (0.9, 0.8)
    assert load_study("fig1a").for_model("lenet-300-100").sparsities == (0.9, 0.95, 0.97, 0.98, 0.99)


def test_selected_arms_include_the_arms_that_they_start_from():
    some = load_study("sparsities").only(["pruned-dense", "set"])
    assert [arm.name for arm in some.arms] == ["set", "dense", "pruned-dense"]
    assert [arm.name for arm in load_study("fig1a").only(["random"]).arms] == ["random"]


def test_an_unknown_arm_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"no arm named 'rigl'; known: dpr, final-densities, final-fresh, .*random"):
        load_study("fig1a").only(["rigl"])


def test_schedules_in_epochs_scale_with_the_number_of_epochs():
    dpr = tables(on_cifar("fig1a", **{"training.epochs": 20}), "dpr", 0.9)
    assert dpr["training"]["epochs"] == 20
    assert dpr["training"]["learning_rate"] == {"0": 0.1, "6": 0.02, "12": 0.004, "16": 0.0008}
    schedule = dpr["strategy"][0]["schedule"]
    assert schedule["until_epoch"] == 19
    assert schedule["steps"] == {"0": 100, "2": 200, "8": 400, "14": 800}
    pruned = tables(on_cifar("fig1bc", **{"training.epochs": 100}), "pruned-dense", 0.9)
    assert pruned["training"]["epochs"] == 24
    assert pruned["training"]["learning_rate"] == {"0": 0.02, "12": 0.004, "18": 0.0008}


@given(st.integers(1, 300))
def test_when_schedule_pieces_collapse_onto_one_epoch_the_last_one_wins(epochs):
    pieces = {"0": 0.1, "60": 0.02, "120": 0.004, "160": 0.0008}
    table = {"training": {"epochs": 200, "learning_rate": pieces}, "strategy": []}
    rates = rescaled(table, epochs)["training"]["learning_rate"]
    at = {round(Fraction(int(epoch) * epochs, 200)): rate for epoch, rate in pieces.items()}
    assert {int(epoch): rate for epoch, rate in rates.items()} == at
    assert min(at) == 0
    assert (
        pieces_by_epoch({str(int(epoch) / 200): rate for epoch, rate in pieces.items()}, epochs).keys() == rates.keys()
    )


def test_options_apply_to_all_arms_and_strategy_options_to_arms_with_that_strategy():
    study = small(options={"strategy.dpr.target": "7%", "training.batch_size": 10, "seed": 5}, trials=2)
    check_options(study)
    dpr, again = tables(study, "dpr", 0.9, 1), tables(study_with_values(study), "again", 0.9, 1)
    assert dpr["strategy"][0]["target"] == "7%"
    assert dpr["training"]["batch_size"] == again["training"]["batch_size"] == 10
    assert dpr["seed"] == again["seed"] == 6
    with pytest.raises(InputError, match=r"no arm of the study has the strategy of strategy.set.drop_fraction"):
        check_options(small(options={"strategy.set.drop_fraction": 0.1}))


def study_with_values(study):
    arms = [*ARMS[:1], {**ARMS[1], "settings": {"start.values": "trained"}}]
    return Study.of({**study.tables(), "arm": arms})


def test_a_study_reads_back_from_its_tables():
    for name in preset_names():
        assert Study.of(load_study(name).tables()) == load_study(name)


def test_the_name_of_a_trial_contains_arm_sparsity_and_number():
    assert Trial("dpr", 0.95, 2).name == "dpr-at-0.95-trial-2"
    assert Trial("dense", None, 0).name == "dense-trial-0"
