"""Files of several runs in one folder, and settings that were edited after a run, are refused and not mixed up."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import SMALL, small_images
from in_process import run_in_process

from sparsecore.run.folder import RunFolder
from sparsecore.run.replay import replay

pytestmark = pytest.mark.usefixtures("quick_runs")

FROM = ("--strategy", "static", "--backend", "numpy", "--model", "lenet-12-8", "--data", "npz", "--batch-size", "16")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that differ in their seeds, and one that starts from each."""
    folder = tmp_path_factory.mktemp("runs")
    images = ("--data-dir", small_images(folder / "small.npz"))
    for seed in ("1", "2"):
        keep = ("--seed", seed, "--set", "keep.epochs=[1,2]", "--strategy", "static", "--backend", "numpy")
        assert run_in_process("train", *SMALL, *images, *keep, "--out", folder / seed).status == 0
        start = ("--set", f"start.run={folder / seed}", "--set", "start.values=original", "--epochs", "2")
        assert run_in_process("train", *FROM, *images, *start, "--out", folder / f"from-{seed}").status == 0
    return folder


def put(runs: Path, source: str, name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.copyfile(runs / source, folder / name) and None


def edited(old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        text = (folder / "experiment.toml").read_text("utf-8")
        assert old in text
        (folder / "experiment.toml").write_text(text.replace(old, new), "utf-8")

    return edit


def removed(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def start_from(values: str) -> Callable[[Path, Path], object]:
    """A new run that starts from the changed one."""

    def attempt(folder: Path, runs: Path) -> object:
        given = ("--data-dir", runs / "small.npz", "--epochs", "3", "--set", f"start.values={values}")
        epoch = ("--set", "start.epoch=1") if values == "rewound" else ()
        return run_in_process("train", *FROM, *given, *epoch, "--set", f"start.run={folder}", "--out", folder / "new")

    return attempt


def resume(folder: Path, _: Path) -> object:
    return run_in_process("train", "--resume", "--out", folder)


def test_what_is_not_of_the_run_is_refused_by_its_name(runs: Path, tmp_path: Path) -> None:
    kept, end, start = "epoch-1.safetensors", "checkpoint.safetensors", "start.safetensors"
    cases = [
        ("1", put(runs, f"2/{kept}", kept), start_from("rewound"), f"{kept} is of another run"),
        ("1", put(runs, "1/epoch-2.safetensors", kept), start_from("rewound"), "of epoch 2, not of epoch 1"),
        ("1", put(runs, f"2/{end}", end), start_from("trained"), "other settings"),
        ("1", put(runs, f"2/{end}", end), resume, "other experiment"),
        ("1", put(runs, "2/metrics.jsonl", "metrics.jsonl"), resume, "metrics.jsonl"),
        ("1", edited("seed = 1", "seed = 2"), resume, "other experiment"),
        ("1", edited("seed = 1", "seed = 2"), start_from("fresh"), "other settings"),
        ("from-1", put(runs, f"from-2/{start}", start), start_from("original"), f"{start} is of another run"),
        ("from-1", put(runs, f"from-2/{start}", start), resume, "is something else"),
        ("from-1", removed(start), start_from("original"), f"{start} is missing"),
    ]
    for number, (name, change, attempt, sentence) in enumerate(cases):
        folder = Path(shutil.copytree(runs / name, tmp_path / f"{number}-{name}"))
        change(folder)
        assert sentence in attempt(folder, runs).sentence, number  # type: ignore[attr-defined]


def test_a_longer_log_of_another_run_is_refused_and_left_as_it_was(runs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs / "1", tmp_path / "run"))
    other = 2 * (runs / "2/metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(other)
    assert "metrics.jsonl is not as it was written" in run_in_process("train", "--resume", "--out", folder).sentence
    assert (folder / "metrics.jsonl").read_bytes() == other


def test_a_run_whose_settings_were_edited_is_neither_replayed_nor_predicted_with(runs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs / "1", tmp_path / "run"))
    assert len(list(replay(RunFolder(folder)))) == 1
    edited("seed = 1", "seed = 2")(folder)
    with pytest.raises(ValueError, match=r"experiment\.toml has changed"):
        list(replay(RunFolder(folder)))
    pytest.importorskip("sparsecore_cpu._kernels")
    from sparsecore_cpu.inference import Predictor

    Predictor.of_run(runs / "1", threads=1)
    with pytest.raises(ValueError, match=r"experiment\.toml has changed"):
        Predictor.of_run(folder, threads=1)
