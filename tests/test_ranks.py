"""Processes that were started together: the rank of each, and which of them prints."""

from pathlib import Path

import pytest
from command_line import SMALL, said, small_images, sparsecore

from sparsecore.errors import InputError
from sparsecore.learning.ranks import Launch, launch

LAUNCHED = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_a_process_without_a_launcher_is_alone() -> None:
    assert launch({}) == Launch(rank=0, size=1, local_rank=0)
    assert launch({"RANK": "1"}) == Launch()  # a name that others use too


def test_rank_and_size_are_read_from_the_launcher() -> None:
    assert launch(LAUNCHED) == Launch(rank=3, size=4, local_rank=1)


@pytest.mark.parametrize("wrong", [{"RANK": "x"}, {"RANK": "4"}, {"WORLD_SIZE": "-1"}, {"LOCAL_RANK": "4"}])
def test_an_impossible_rank_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(InputError, match="RANK="):
        launch({**LAUNCHED, **wrong})


def started(rank: int) -> dict[str, str]:
    return {**LAUNCHED, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}


@pytest.mark.integration
def test_a_single_process_backend_refuses_several_processes(tmp_path: Path) -> None:
    images = small_images(tmp_path / "small.npz")
    arguments = ("train", *SMALL, "--backend", "numpy", "--data-dir", images, "--out", tmp_path / "run")
    sentence = said(sparsecore(*arguments, **started(0)))
    assert "2 processes were started" in sentence
    assert "'numpy' trains in 1" in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.integration
def test_an_error_on_all_ranks_of_a_machine_is_printed_by_the_first() -> None:
    assert "section.key=value" in said(sparsecore("train", "--set", "sparsity", **started(0)))
    silent = sparsecore("train", "--set", "sparsity", **started(1))
    assert (silent.returncode, silent.stdout, silent.stderr) == (2, "", "")
    silent = sparsecore("train", "--no-such-option", **started(1))
    assert (silent.returncode, silent.stdout, silent.stderr) == (2, "", "")
