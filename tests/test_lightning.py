"""Sparse training under Lightning's Trainer and Fabric, with the library itself, in processes of their own."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from processes import call_named

pytest.importorskip("torch")

pytestmark = [pytest.mark.integration, pytest.mark.skipif(not find_spec("lightning"), reason="needs lightning")]

DENSITY = 0.2
STORAGES = ["masked", "compact"]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Any:
    (ended,) = call_named("lightning_runs", "everything_and_resumed", tmp_path_factory.mktemp("lightning"))
    return ended.answer


@pytest.fixture(scope="module")
def answers(both: Any) -> Any:
    return both[0]


@pytest.fixture(scope="module")
def resumed(both: Any) -> Any:
    return both[1]


# masks in float32; and compact storage with bfloat16, two batches a step
@pytest.mark.parametrize("storage", STORAGES)
def test_another_process_resumes_from_a_checkpoint_bit_for_bit(answers: Any, resumed: Any, storage: str) -> None:
    assert resumed[storage] == answers[storage]["values"]


@pytest.mark.parametrize("storage", STORAGES)
def test_checkpoints_hold_a_plain_sparse_module_and_the_state_of_the_training(answers: Any, storage: str) -> None:
    answer = answers[storage]
    assert answer["is plain"]
    assert answer["density"] <= DENSITY
    assert answer["best density"] <= DENSITY
    assert answer["steps"] == {"masked": 48, "compact": 24}[storage]


@pytest.mark.parametrize("storage", STORAGES)
def test_the_best_checkpoint_is_tested_validated_and_predicted_with_after_training(answers: Any, storage: str) -> None:
    answer = answers[storage]
    assert answer["has loaded the best"]
    assert answer["tested"] == answer["validated"] == answer["best loss"]
    assert sum(answer["predicted"]) == 96


@pytest.mark.parametrize("strategy", ["rigl", "dpr"])
def test_the_trainer_trains_as_a_loop_with_sparsify_does(answers: Any, strategy: str) -> None:
    assert answers["as_a_loop"][strategy]


def test_metrics_are_logged_through_the_trainer(answers: Any) -> None:
    logged = answers["masked"]["logged"]
    assert logged["sparse/sparsity"] == pytest.approx(0.8, abs=0.01)
    assert logged["sparse/updates"] == 9
    assert logged["sparse/density/layers.2.weight"] <= DENSITY


@pytest.mark.parametrize("average", ["ema", "mean", "several tensors", "swa"])
def test_averages_are_sparse_in_validation_in_checkpoints_at_the_end_and_when_resumed(
    answers: Any, average: str
) -> None:
    assert all(0.1 < density <= DENSITY for density in answers["averaged"][average])


def test_each_optimizer_that_holds_sparse_tensors_has_a_training_under_manual_optimization(answers: Any) -> None:
    answer = answers["alternating"]
    assert answer["same"]
    assert max(answer["density"]) <= DENSITY
    assert answer["updates"] == [4, 4]


def test_fit_after_an_error_keeps_the_active_weights_and_for_more_epochs_the_time(answers: Any) -> None:
    answer = answers["again"]
    assert answer["left"] == 7
    assert max(answer["density"]) <= DENSITY
    assert (answer["anew"], answer["continued"]) == (12, 24)
    assert answer["overlap"] < 0.7


def test_the_trainer_gives_the_number_of_steps_unless_it_is_given(answers: Any) -> None:
    assert answers["with_the_end_of_the_run"]["trainer"] <= DENSITY
    assert answers["with_the_end_of_the_run"]["given"] > 0.9


def test_what_cannot_be_used_is_refused_with_a_sentence(answers: Any) -> None:
    expected = (
        "sparcity",
        "EMAWeightAveraging averages weights that move",
        "EMAWeightAveraging stands before SparseTraining",
        "0 sparse trainings are under way",
        "no state of sparse trainings",
        "the saved state is that of 0 sparse trainings",
        "seed: 0 there, 1 here",
        "sparsity: 0.8 there, 0.5 here",
        "['dpr'] here",
        "steps_per_epoch: 12 there, 7 here",
        "budget= is the number of weights of one training",
        "give total_steps=",
    )
    assert len(answers["refused"]) == len(expected)
    for sentence, part in zip(answers["refused"], expected, strict=True):
        assert part in sentence


@pytest.mark.parametrize("storage", STORAGES)
def test_fabric_saves_and_resumes_bit_for_bit_and_its_wrappers_can_be_given_to_sparsify(
    answers: Any, storage: str
) -> None:
    same, density = answers["with_fabric"][storage]
    assert same
    assert density <= DENSITY
    names, step, alone = answers["with_fabric"]["wrapped"][storage]
    assert names == ["0.weight", "2.weight"]
    assert step == 12
    assert alone <= DENSITY


def test_fabric_does_not_train_densely_where_the_beginning_was_forgotten(answers: Any) -> None:
    assert "begin(module, optimizer)" in answers["with_fabric"]["forgotten"]


@pytest.mark.slow
def test_two_ranks_train_alike_and_resume_bit_for_bit(tmp_path: Path) -> None:
    first, second = (ended.answer for ended in call_named("lightning_runs", "on_two_ranks", tmp_path, size=2))
    assert first == second
    whole, resumed = first["values"]
    assert resumed == whole
    assert first["density"] <= DENSITY
    assert first["step"] == 24
    assert "take storage='masked'" in first["refused"]
