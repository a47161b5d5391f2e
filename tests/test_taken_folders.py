"""Processes that start together use separate folders, and only one at a time works in a folder."""

import json
import subprocess
import sys
import tomllib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from command_line import SMALL, small_images
from in_process import no_waiting_for_the_disk, run_in_process

from sparsecore.errors import InputError
from sparsecore.run import files
from sparsecore.run.files import BusyError, Lock, new_folder
from sparsecore.run.folder import RunFolder, create_numbered
from sparsecore.study.definition import load_study
from sparsecore.study.folder import StudyFolder


def numbered(parent: Path, seed: int) -> list[str]:
    """Take ten numbered folders, one after another."""
    return [
        create_numbered(parent, "run", lambda path: RunFolder(path).create({"seed": seed})).path.name for _ in range(10)
    ]


def wanted(path: Path, seed: int) -> bool:
    """Take one folder that others want, too; whether it was had."""
    try:
        RunFolder(path).create({"seed": seed}, {f"of-{seed}": b""})
    except InputError:
        return False
    return True


@pytest.fixture(scope="module")
def others():
    with ProcessPoolExecutor(3, get_context("spawn")) as processes:
        yield processes


def test_concurrent_processes_get_different_numbered_folders(others, tmp_path):
    taken = list(others.map(numbered, [tmp_path] * 3, range(3)))
    assert sorted(name for names in taken for name in names) == sorted(f"run-{number}" for number in range(1, 31))
    for seed, names in enumerate(taken):
        assert all(tomllib.loads((tmp_path / name / "experiment.toml").read_text())["seed"] == seed for name in names)
    assert len(list(tmp_path.iterdir())) == 30  # nothing else is left behind


def test_of_concurrent_processes_exactly_one_gets_a_named_folder(others, tmp_path):
    for attempt in range(10):
        path = tmp_path / str(attempt)
        had = list(others.map(wanted, [path] * 3, range(3)))
        assert sum(had) == 1
        seed = had.index(True)
        assert tomllib.loads((path / "experiment.toml").read_text())["seed"] == seed
        assert sorted(file.name for file in path.iterdir()) == ["experiment.toml", f"of-{seed}"]


@pytest.mark.slow
@pytest.mark.integration
def test_runs_that_are_started_together_without_a_folder_all_finish(tmp_path):
    images = small_images(tmp_path / "small.npz")
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "sparsecore",
                "train",
                *SMALL,
                "--data-dir",
                str(images),
                "--seed",
                str(seed),
                "--json",
            ],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(4)
    ]
    ended = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0] * 4, ended
    for seed, (stdout, _) in enumerate(ended):
        folder = Path(json.loads(stdout)["run"])
        assert folder.parent == tmp_path / "runs"
        assert tomllib.loads((folder / "experiment.toml").read_text())["seed"] == seed
    assert len(list((tmp_path / "runs").iterdir())) == 4


def test_temporary_files_of_another_process_are_left_alone(tmp_path):
    of_another = tmp_path / ".run.part"
    of_another.mkdir()
    (of_another / "mine.txt").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/there.txt").write_text("there")
    with pytest.raises(FileExistsError):
        new_folder(tmp_path / "run", {"a.txt": b"a"})
    new_folder(tmp_path / "other", {"a.txt": b"a"})
    assert (of_another / "mine.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".run.part", "other", "run"]


KILLED = """
import os, sys
from pathlib import Path
from sparsecore.run import files
files._rename_folder = lambda *_: os._exit(9)
files.new_folder(Path(sys.argv[1]), {"a.txt": b"a"})
"""


@pytest.mark.integration
def test_temporary_files_of_a_killed_process_are_removed_by_the_next_one(tmp_path):
    ended = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "run"], check=False)
    assert ended.returncode == 9
    assert len(list(tmp_path.glob(".run.*.part/a.txt"))) == 1
    new_folder(tmp_path / "other", {"b.txt": b"b"})
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_temporary_files_of_a_running_process_are_kept(tmp_path, monkeypatch):
    rename, seen = files._rename_folder, []

    def slowly(aside, path):
        if not seen:
            seen.append(aside)
            new_folder(tmp_path / "other", {"b.txt": b"b"})
            assert (aside / "a.txt").exists()
        rename(aside, path)

    monkeypatch.setattr(files, "_rename_folder", slowly)
    new_folder(tmp_path / "run", {"a.txt": b"a"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "run"]


def test_studies_of_one_name_are_numbered(tmp_path):
    study = load_study("fig1a").only(["dpr"])
    with no_waiting_for_the_disk():
        (tmp_path / f"{study.name}-1").mkdir()
        folders = [
            create_numbered(tmp_path, study.name, lambda path: StudyFolder(path).create(study)) for _ in range(2)
        ]
    assert [folder.path.name for folder in folders] == [f"{study.name}-2", f"{study.name}-3"]
    assert folders[1].read() == study


def test_a_lock_is_held_by_one_holder_until_released(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"")
    lock = Lock(file)
    with pytest.raises(BusyError):
        Lock(file)
    lock.release()
    Lock(file).release()


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refused(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="No locks") as raised:
        Lock(tmp_path / "file")
    assert raised.value.filename == str(tmp_path / "file")


@pytest.mark.usefixtures("quick_runs")
@pytest.mark.parametrize("command", ["train", "lottery"])
def test_a_second_process_in_one_folder_is_refused(command, tmp_path):
    images = small_images(tmp_path / "small.npz")
    small = [part for part in SMALL if command == "train" or part not in ("--sparsity", "0.8")]
    more = ["--rounds", "1"] if command == "lottery" else []
    arguments = [command, *small, "--data-dir", images, "--set", "backend.name=numpy", *more, "--out", tmp_path / "run"]
    with no_waiting_for_the_disk():
        assert run_in_process(*arguments).status == 0
    lock = Lock(tmp_path / "run/experiment.toml")
    try:
        assert "another process" in run_in_process(command, "--resume", "--out", tmp_path / "run").sentence
    finally:
        lock.release()
    with no_waiting_for_the_disk():
        assert run_in_process(command, "--resume", "--out", tmp_path / "run").status == 0
