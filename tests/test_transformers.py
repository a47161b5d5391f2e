"""Sparse training under the Trainer of transformers, with the library itself, in processes of their own."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from processes import call_named

pytest.importorskip("torch")

pytestmark = [pytest.mark.integration, pytest.mark.skipif(not find_spec("transformers"), reason="needs transformers")]

DENSITY = 0.2
STORAGES = ["masked", "compact"]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Any:
    (ended,) = call_named("transformers_runs", "everything_and_resumed", tmp_path_factory.mktemp("transformers"))
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
def test_from_pretrained_loads_a_sparse_plain_model_from_each_checkpoint(answers: Any, storage: str) -> None:
    answer = answers[storage]
    assert len(answer["density"]) == 4
    assert all(0.1 < density <= DENSITY for density in answer["density"])
    assert answer["last is the model"]
    assert {"model.safetensors", "optimizer.pt", "sparse_training.pt"} <= set(answer["files"])


def test_metrics_are_added_to_the_history_of_the_trainer(answers: Any) -> None:
    logged = answers["masked"]["logged"]
    assert logged["sparse/updates"] == 2
    assert logged["sparse/sparsity"] == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("storage", STORAGES)
def test_the_best_model_at_the_end_is_that_of_its_checkpoint(answers: Any, storage: str) -> None:
    assert_is_the_best(answers["best"][storage])


@pytest.mark.slow
@pytest.mark.skipif(
    not (find_spec("sparsecore_cpu") and find_spec("sparsecore_cpu._kernels")), reason="needs the kernels of the CPU"
)
def test_the_best_model_at_the_end_is_that_of_its_checkpoint_with_sparse_kernels(tmp_path: Path) -> None:
    (ended,) = call_named("transformers_runs", "with_kernels", tmp_path)
    assert_is_the_best(ended.answer["kernels"])


def assert_is_the_best(answer: Any) -> None:
    best, last = answer["steps"]
    assert best < last
    assert answer["is the best"]
    assert answer["is plain"]
    assert answer["density"] <= DENSITY
    assert answer["loss"][0] == answer["loss"][1]


@pytest.mark.parametrize("storage", STORAGES)
def test_tied_embeddings_stay_tied_and_sparse_in_checkpoints(answers: Any, storage: str) -> None:
    is_same, are_tied, density = answers["tied"][storage]
    assert is_same
    assert are_tied
    assert density <= DENSITY + 1e-6


def test_training_again_keeps_the_active_weights(answers: Any) -> None:
    assert max(answers["again"]["density"]) <= DENSITY


def test_a_checkpoint_without_its_training_or_with_another_one_is_refused(answers: Any) -> None:
    assert "no sparse_training.pt" in answers["again"]["missing"]
    assert "not saved together" in answers["again"]["foreign"]


def test_an_unknown_option_is_refused_and_a_training_that_has_not_begun(answers: Any) -> None:
    assert "sparcity" in answers["again"]["unknown"]
    assert "0 sparse trainings are under way" in answers["again"]["not yet"]


@pytest.mark.slow
def test_two_ranks_train_alike_and_resume_bit_for_bit(tmp_path: Path) -> None:
    first, second = (ended.answer for ended in call_named("transformers_runs", "on_two_ranks", tmp_path, size=2))
    assert first == second
    whole, resumed = first["values"]
    assert resumed == whole
    assert first["density"] <= DENSITY
    assert "take storage='masked'" in first["refused"]
