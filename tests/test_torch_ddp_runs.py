"""``sparsecore train --backend torch`` in two processes: the run of one, printed once, or one error sentence."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import numpy as np
from command_line import SMALL, small_images, train
from processes import ProcessResult, start
from safetensors.numpy import load_file

FLOAT64 = ("--backend", "torch", "--set", "backend.dtype=float64", "--set", "backend.device=cpu")
EVERY_4 = ("--strategy", "dpr", "--set", "strategy.dpr.schedule.steps=4")

pytestmark = pytest.mark.usefixtures("quick_runs")

PLUGINS = '''
import os

from pathlib import Path

from sparsecore import hookimpl
from sparsecore.engine.growth import random_free_positions
from sparsecore_torch import TorchBackend
from sparsecore_torch.distributed.ranks import Patience

RANK = int(os.environ.get("RANK", "0"))


class Elsewhere:
    """Grows by the luck of the rank."""

    @hookimpl
    def grow(self, occupied, counts, random):
        return random_free_positions(occupied, counts, random.child("luck", RANK))


class Fails:
    @hookimpl
    def grow(self, clock):
        if RANK == 1 and clock.updates == 1:
            raise ValueError("no luck today")


class Early:
    """Answers what cannot be, long before any update."""

    @hookimpl
    def perturb(self, values):
        return values * float("nan") if RANK == 1 else values


class Astray:
    """Adds the smallest number to one value on rank 1, between updates."""

    @hookimpl
    def perturb(self, values, clock):
        if RANK == 1 and clock.step == 2:
            values = values.clone()
            values[5] += 1e-9
        return values


class Late:
    @hookimpl
    def update_due(self, clock):
        return clock.step == 4 + RANK


class Interrupted:
    """Fails once, in the second epoch."""

    @hookimpl
    def perturb(self, clock):
        if clock.step == 10 and not Path(__file__).with_name("go on").exists():
            raise OSError("the power is off")


class Impatient:
    """The torch backend, whose ranks do not wait long."""

    inner = TorchBackend(device="cpu")
    arrays, dtype, ranks, learner = inner.arrays, inner.dtype, inner.ranks, inner.learner
    ranks._patience = Patience(1.0, 1.0)
'''


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    small_images(folder / "small.npz")
    (folder / "plugins.py").write_text(PLUGINS)
    return folder


def arguments(here: Path, run: str, *more: str) -> list[str]:
    """100 images in batches of 16: the last one of an epoch has 4, two a rank."""
    return [*SMALL, *FLOAT64, "--data-dir", str(here / "small.npz"), *more, "--out", str(here / run)]


TRAIN = """
import sys
import sparsecore.report
from sparsecore.cli import main

sparsecore.report.write_report = lambda folder: folder
sys.argv[:1] = ["sparsecore", "train"]
main()
"""
"""The command without its report, whose figures take longer than these runs."""


def on_two(*arguments: str) -> list[ProcessResult]:
    return start(["-c", TRAIN, *arguments])


def lines(run: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]


def check_same_run(one: Path, other: Path) -> None:
    """The same moves at every update, and losses and buffers within the rounding of float64."""
    assert lines(one, "reallocations") == [
        {**line, "metrics": pytest.approx(line["metrics"])} for line in lines(other, "reallocations")
    ]
    for expected, line in zip(lines(one, "metrics"), lines(other, "metrics"), strict=True):
        assert line == pytest.approx(expected, rel=1e-9)
    buffers, others = (load_file(run / "checkpoint.safetensors") for run in (one, other))
    assert buffers.keys() == others.keys()
    for name, buffer in buffers.items():
        np.testing.assert_allclose(others[name], buffer, rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.fixture(scope="module")
def alone(here: Path) -> Path:
    train(*arguments(here, "alone", *EVERY_4))
    return here / "alone"


@pytest.mark.integration
def test_two_ranks_reproduce_the_run_of_one_and_print_it_once(here: Path, alone: Path) -> None:
    first, second = start(["-m", "sparsecore", "train", *arguments(here, "two", *EVERY_4), "--json"])
    assert (first.status, first.stderr) == (0, "")
    assert json.loads(first.stdout)["reallocations"] == 4
    assert (second.status, second.stdout, second.stderr) == (0, "", "")
    check_same_run(alone, here / "two")
    assert sorted(path.name for path in alone.iterdir()) == sorted(path.name for path in (here / "two").iterdir())


@pytest.mark.integration
def test_a_rank_without_an_image_takes_part(here: Path) -> None:
    # 34 images in batches of 33: the last has one, and images of 2×2 at the end give batch norm values enough
    arrays = dict(np.load(here / "small.npz"))
    larger = {name: each.repeat(2, 1).repeat(2, 2) if each.ndim == 3 else each for name, each in arrays.items()}
    (here / "larger").mkdir()
    np.savez(here / "larger/small.npz", **larger)
    more = ("--model", "wrn-10-1", "--data-dir", str(here / "larger/small.npz"), "--set", "data.limit=34")
    more = (*more, "--batch-size", "33", "--epochs", "2", "--set", "strategy.schedule.steps=2")
    train(*arguments(here, "wrn alone", *more))
    assert [ended.status for ended in on_two(*arguments(here, "wrn two", *more))] == [0, 0]
    check_same_run(here / "wrn alone", here / "wrn two")


@pytest.mark.integration
@pytest.mark.slow
def test_a_compiled_network_trains_on_two_ranks(here: Path, alone: Path) -> None:
    # torch's compiler warns of what it does itself
    run = ["-W", "ignore", "-m", "sparsecore", "train"]
    ends = start([*run, *arguments(here, "compiled", *EVERY_4, "--set", "backend.compile=true")])
    assert [ended.status for ended in ends] == [0, 0]
    check_same_run(alone, here / "compiled")


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_resumes_with_another_number_of_ranks(here: Path, alone: Path, ranks: int) -> None:
    plugins = here / f"interrupted on {ranks}" / "plugins.py"
    plugins.parent.mkdir()
    shutil.copy(here / "plugins.py", plugins)
    asked = arguments(here, f"from {ranks}", *EVERY_4, "--strategy", f"{plugins}:Interrupted")
    stopped = start(["-c", TRAIN, *asked], ranks)
    assert [ended.status for ended in stopped] == [1] * ranks
    assert "the power is off" in stopped[0].stderr
    assert len(lines(here / f"from {ranks}", "metrics")) == 1
    (plugins.parent / "go on").touch()
    resumed = start(["-c", TRAIN, *asked, "--resume"], 3 - ranks)
    assert [(ended.status, ended.stderr) for ended in resumed] == [(0, "")] * (3 - ranks)
    check_same_run(alone, here / f"from {ranks}")


def mine(here: Path, run: str, strategy: str, *more: str) -> list[str]:
    return arguments(here, run, "--strategy", "set", "--strategy", f"{here / 'plugins.py'}:{strategy}", *more)


@pytest.mark.integration
def test_ranks_that_grow_different_positions_end_with_one_error_sentence(here: Path) -> None:
    first, second = on_two(*mine(here, "elsewhere", "Elsewhere"))
    assert first.stderr.startswith("sparsecore: the ranks disagree at update 1 (step 7) on the positions of 'layer1")
    assert "rank 1 differs from rank 0" in first.stderr
    assert first.stderr.count("\n") == 1
    assert (first.status, second.status) == (1, 1)
    assert (first.stdout, second.stdout, second.stderr) == ("", "", "")


@pytest.mark.integration
def test_a_plugin_that_fails_on_one_rank_ends_all(here: Path) -> None:
    first, second = on_two(*mine(here, "fails", "Fails"))
    assert first.stderr == (
        "sparsecore: rank 1 failed: ValueError: no luck today (raised in the hook 'grow' of plugin "
        f"'{here / 'plugins.py'}:Fails')\n"
    )
    assert "ValueError: no luck today" in second.stderr  # with its traceback, as in a run of one process
    assert (first.status, second.status) == (1, 1)


@pytest.mark.integration
def test_a_rank_that_fails_between_updates_is_named_by_the_first(here: Path) -> None:
    first, second = on_two(*mine(here, "early", "Early"))
    assert first.stderr == (
        f"sparsecore: rank 1 failed: plugin '{here / 'plugins.py'}:Early' broke a promise in 'perturb': it returned a "
        "value that is not finite, in 'layer1.weight'\n"
    )
    assert (first.status, first.stdout, second.stderr, second.status) == (1, "", "", 1)


@pytest.mark.integration
def test_ranks_whose_values_differ_between_updates_end_with_one_error_sentence(here: Path) -> None:
    first, second = on_two(*mine(here, "astray", "Astray", "--strategy", "static"))
    assert "sparsecore: the ranks disagree at the comparison after step 3 on the values of 'layer1" in first.stderr
    assert "rank 1 differs from rank 0" in first.stderr
    assert (first.status, second.status, second.stdout, second.stderr) == (1, 1, "", "")
    assert not (here / "astray" / "checkpoint.safetensors").exists()


@pytest.mark.integration
def test_a_plugin_that_cannot_be_loaded_on_one_rank_is_reported(here: Path) -> None:
    (here / "broken.py").write_text(
        f"{PLUGINS}\nif RANK == 1:\n    raise ImportError('half of it is missing here')\n", "utf-8"
    )
    first, second = on_two(*arguments(here, "broken", "--strategy", f"{here / 'broken.py'}:Fails"))
    assert first.stderr.startswith("sparsecore: rank 1 failed: ")
    assert "half of it is missing here" in first.stderr
    assert first.stderr.count("\n") == 1
    assert (first.status, second.status, second.stderr) == (2, 2, "")
    assert not (here / "broken").exists()


def late(here: Path, run: str) -> list[str]:
    plugins = here / "plugins.py"
    own = ("--backend", f"{plugins}:Impatient", "--strategy", f"{plugins}:Late")
    return [*SMALL, "--data-dir", str(here / "small.npz"), *own, "--out", str(here / run)]


LATE = "rank 0 is at update 1 (step 4), rank 1 at the comparison after step 4"


@pytest.mark.integration
def test_a_rank_whose_update_is_late_blocks_no_other(here: Path) -> None:
    first, second = on_two(*late(here, "late"))
    assert first.stderr.count(LATE) == 1
    assert (first.status, second.status) == (1, 1)
    assert (first.stdout, second.stdout, second.stderr) == ("", "", "")


@pytest.mark.integration
@pytest.mark.slow
def test_a_rank_whose_update_is_late_blocks_no_other_under_torchrun(here: Path) -> None:
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *run, "-m", "sparsecore", "train", *late(here, "late under torchrun")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode != 0
    assert done.stderr.count(LATE) == 1
    assert done.stdout == ""


def apart(here: Path, run: str, *each: tuple[str, ...], code: str = "") -> list[ProcessResult]:
    """Train on two ranks that are given different arguments."""
    code = (
        "import os, sys; from sparsecore.cli import main; rank = int(os.environ['RANK'])\n"
        f"{code}\n"
        f"sys.argv[1:] = ['train', *sys.argv[1:], *({each!r})[rank]]; main()"
    )
    return start(["-c", code, *arguments(here, run)])


@pytest.mark.integration
def test_ranks_with_different_settings_report_them_and_leave_no_folder(here: Path) -> None:
    first, second = apart(here, "apart", ("--sparsity", "0.5"), ("--sparsity", "0.6"))
    assert "the setting 'sparsity'" in first.stderr
    assert "0.5 on rank 0, 0.6 on rank 1" in first.stderr
    assert (first.stderr.count("\n"), second.stderr) == (1, "")
    assert (first.status, second.status) == (1, 1)
    assert not (here / "apart").exists()


@pytest.mark.slow
@pytest.mark.integration
def test_a_rank_that_cannot_build_its_network_leaves_no_folder(here: Path) -> None:
    code = (
        "from sparsecore_torch.experiment import learner\n"
        "def fails(*_): raise MemoryError('no room for the network')\n"
        "if rank == 1: learner.TorchLearner.__init__ = fails"
    )
    first, second = apart(here, "no room", (), (), code=code)
    # rank 0 waits for rank 1 elsewhere, where networks are compared, so that rank 1 says it
    assert "no room for the network" in second.stderr
    assert first.stderr == ""
    assert (first.status, second.status) == (1, 1)
    assert not (here / "no room").exists()


@pytest.mark.slow
@pytest.mark.integration
def test_a_missing_rank_is_named_after_the_configured_timeout(here: Path) -> None:
    # rank 0 hears of it by the process group's store, which it serves itself; rank 1 finds no server
    code = "os.environ['SPARSECORE_RANK_TIMEOUT'] = '2'\nif rank == {absent}: sys.exit(0)"
    for absent, sentence in ((1, "rank 1 did not come to the start in 2 s"), (0, "rank 0 did not come to 127.0.0.1:")):
        ends = apart(here, "absent", (), (), code=code.format(absent=absent))
        present = ends[1 - absent]
        assert sentence in present.stderr
        assert "SPARSECORE_RANK_TIMEOUT" in present.stderr
        assert (present.status, present.stderr.count("\n")) == (1, 1)
        assert not (here / "absent").exists()


@pytest.mark.integration
def test_a_user_error_is_printed_once_and_ends_all_ranks_alike(here: Path, alone: Path) -> None:
    before = {path.name: path.read_bytes() for path in alone.iterdir()}
    first, second = on_two(*arguments(here, "alone", *EVERY_4))
    assert f"the run folder {alone} exists" in first.stderr
    assert first.stderr.count("\n") == 1
    assert (first.status, second.status, second.stderr) == (2, 2, "")
    assert {path.name: path.read_bytes() for path in alone.iterdir()} == before


@pytest.mark.integration
def test_ranks_with_different_plugin_code_do_not_start(here: Path) -> None:
    # each machine has files of its own
    code = (
        f"import os, sys; os.chdir(os.path.join({str(here)!r}, os.environ['RANK']))\n"
        "from sparsecore.cli import main; sys.argv[:1] = ['sparsecore', 'train']; main()"
    )
    for rank in "01":
        (here / rank).mkdir()
        (here / rank / "mine.py").write_text(f"{PLUGINS}\n# {rank}\n")
    first, second = start(["-c", code, *arguments(here, "other code", "--strategy", "mine.py:Elsewhere")])
    assert "the ranks disagree at the start on the" in first.stderr
    assert (first.status, second.status, second.stderr) == (1, 1, "")


TAKING = """
from pathlib import Path
from sparsecore.data.npz import Npz

class Taking(Npz):
    def load(self, folder):
        Path("runs/lottery-taking-1/of-another").mkdir(parents=True, exist_ok=True)
        return super().load(folder)
"""


@pytest.mark.integration
def test_a_lottery_of_several_ranks_uses_the_next_free_folder_number(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taking.py").write_text(TAKING)
    data = ("--data", "taking.py:Taking", "--data-dir", str(here / "small.npz"))
    small = ("--model", "lenet-12-8", "--epochs", "1", "--batch-size", "16", "--rounds", "1")
    first, second = start(["-m", "sparsecore", "lottery", *small, *data, *FLOAT64, "--json"])
    assert (first.status, second.status) == (0, 0), first.stderr + second.stderr
    assert [path.name for path in (tmp_path / "runs/lottery-taking-1").iterdir()] == ["of-another"]
    assert (tmp_path / "runs/lottery-taking-2/round-1/result.json").exists()
    assert json.loads(first.stdout)["out"] == str(tmp_path / "runs/lottery-taking-2")
