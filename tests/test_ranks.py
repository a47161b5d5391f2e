"""Processes that were started together: the rank of each, and which of them prints."""

from pathlib import Path

import pytest
from command_line import SMALL, said, small_images, sparsecore

from sparsecore.errors import InputError
from sparsecore.learning.ranks import Launch, launch

LAUNCHED = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_a_process_is_alone_where_no_launcher_says_otherwise() -> None:
    assert launch({}) == Launch(rank=0, size=1, local_rank=0)
    assert launch({"RANK": "1"}) == Launch()  # a name that others use too


def test_a_launcher_says_which_process_this_is() -> None:
    assert launch(LAUNCHED) == Launch(rank=3, size=4, local_rank=1)


@pytest.mark.parametrize("wrong", [{"RANK": "x"}, {"RANK": "4"}, {"WORLD_SIZE": "-1"}, {"LOCAL_RANK": "4"}])
def test_a_rank_that_cannot_be_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(InputError, match="RANK="):
        launch({**LAUNCHED, **wrong})


def started(rank: int) -> dict[str, str]:
    return {**LAUNCHED, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}


@pytest.mark.integration
def test_a_backend_of_one_process_refuses_to_be_one_of_several(tmp_path: Path) -> None:
    images = small_images(tmp_path / "small.npz")
    arguments = ("train", *SMALL, "--backend", "numpy", "--data-dir", images, "--out", tmp_path / "run")
    sentence = said(sparsecore(*arguments, **started(0)))
    assert "2 processes were started" in sentence
    assert "'numpy' trains in 1" in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.integration
def test_what_all_processes_of_a_machine_refuse_is_said_by_the_first() -> None:
    assert "section.key=value" in said(sparsecore("train", "--set", "sparsity", **started(0)))
    silent = sparsecore("train", "--set", "sparsity", **started(1))
    assert (silent.returncode, silent.stdout, silent.stderr) == (2, "", "")
    silent = sparsecore("train", "--no-such-option", **started(1))
    assert (silent.returncode, silent.stdout, silent.stderr) == (2, "", "")
