"""Sparse training with accelerate's own objects, in processes of their own: before and after ``prepare``."""

from importlib.util import find_spec
from typing import Any

import pytest
from processes import call_named

pytest.importorskip("torch")

pytestmark = [pytest.mark.integration, pytest.mark.skipif(not find_spec("accelerate"), reason="needs accelerate")]

WAYS = ["sparsify, then prepare", "prepare, then sparsify", "compact, then prepare", "prepare, then compact"]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of a process that trains without a stop and saves half-way, and of another one that resumes from there."""
    (ended,) = call_named("accelerate_runs", "whole_and_resumed", tmp_path_factory.mktemp("accelerate"))
    return ended.answer


@pytest.mark.parametrize("way", WAYS)
def test_save_state_and_load_state_in_another_process_continue_bit_for_bit(answers: Any, way: str) -> None:
    whole, resumed = answers
    assert resumed[way] == whole[way]


@pytest.mark.parametrize("way", WAYS)
def test_accumulated_batches_are_one_step_and_the_model_stays_sparse(answers: Any, way: str) -> None:
    answer = answers[0][way]
    assert (answer["step"], answer["updates"]) == (24, 4)
    assert 0.1 < answer["density"] <= 0.2
    assert answer["rate"] == pytest.approx(0.0002)


def test_sparsify_before_and_after_prepare_trains_alike(answers: Any) -> None:
    before, after = (answers[0][way] for way in WAYS[:2])
    assert before == after


@pytest.mark.slow
def test_two_ranks_train_alike_whatever_comes_first() -> None:
    first, second = (ended.answer for ended in call_named("accelerate_runs", "on_two_ranks", size=2))
    assert first == second
    before, after, compact = first.values()
    assert before == after
    assert compact["step"] == before["step"] == 12
    assert max(before["density"], compact["density"]) <= 0.2
