"""Files and names that are made to hang, to fill the memory or to reach a terminal end in one sentence."""

import gzip
import os
import struct
import tarfile
import time
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import SMALL, small_images
from in_process import run_in_process

from sparsecore.data.mnist import Mnist
from sparsecore.data.npz import Npz
from sparsecore.errors import InputError, InputWarning
from sparsecore.experiment.toml_files import read_toml
from sparsecore.run.folder import RunFolder
from sparsecore.study.definition import Study
from sparsecore.study.folder import StudyFolder

pytestmark = pytest.mark.usefixtures("quick_runs")

POSIX = pytest.mark.skipif(os.name != "posix", reason="pipes and devices of POSIX")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_images(tmp_path_factory.mktemp("data") / "small.npz")


def idx(array: Any) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist(folder: Path, name: Callable[[str], str] = str, written: Callable[[bytes], bytes] = bytes) -> Path:
    """Four small files as of MNIST."""
    folder.mkdir(exist_ok=True)
    for part, count in (("train", 20), ("t10k", 10)):
        for kind, array in (
            ("images-idx3-ubyte", np.zeros((count, 4, 4), np.uint8)),
            ("labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8)),
        ):
            (folder / name(f"{part}-{kind}")).write_bytes(written(idx(array)))
    return folder


@POSIX
@pytest.mark.parametrize("data", ["npz", "mnist", "cifar10"])
@pytest.mark.parametrize("kind", ["pipe", "device", "link to itself"])
def test_a_pipe_a_device_or_a_loop_of_links_as_data_is_refused(tmp_path: Path, data: str, kind: str) -> None:
    names = {"npz": "mine.npz", "mnist": "train-images-idx3-ubyte", "cifar10": "data_batch_1"}
    place = tmp_path / names[data]
    make = {
        "pipe": lambda: os.mkfifo(place),
        "device": lambda: place.symlink_to("/dev/zero"),
        "link to itself": lambda: place.symlink_to(place),
    }
    make[kind]()
    small = [*SMALL, "--data", data, "--set", "backend.name=numpy"]
    for where in (place, tmp_path):
        sentence = run_in_process("train", *small, "--data-dir", where, "--out", tmp_path / "run").sentence
        assert str(tmp_path) in sentence or "/dev/zero" in sentence
    if data == "npz":
        named = ["--set", f"data.file='{place}'"]
        sentence = run_in_process("train", *small, *named, "--out", tmp_path / "run").sentence
        assert str(place) in sentence or "/dev/zero" in sentence
    assert not (tmp_path / "run").exists()


@POSIX
def test_pipes_instead_of_other_input_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(b"x")
    os.mkfifo(tmp_path / "data_batch_2")
    small = [*SMALL, "--data", "cifar10", "--data-dir", tmp_path]
    assert "cannot be read" in run_in_process("train", *small, "--out", tmp_path / "run").sentence


@POSIX
@pytest.mark.parametrize("name", ["checkpoint.safetensors", "experiment.toml"])
def test_a_pipe_in_the_place_of_a_file_of_a_run_is_refused(images: Path, tmp_path: Path, name: str) -> None:
    arguments = ["train", *SMALL, "--data-dir", images, "--set", "backend.name=numpy", "--out", tmp_path / "run"]
    assert run_in_process(*arguments).status == 0
    (tmp_path / "run" / name).unlink()
    os.mkfifo(tmp_path / "run" / name)
    assert "no regular file" in run_in_process(*arguments, "--resume").sentence


def test_a_checkpoint_without_permission_is_not_called_damaged(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["train", *SMALL, "--data-dir", images, "--set", "backend.name=numpy", "--out", tmp_path / "run"]
    assert run_in_process(*arguments).status == 0
    opened = Path.open

    def refused(self: Path, *more: Any, **named: Any) -> Any:
        if self.suffix == ".safetensors":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *more, **named)

    monkeypatch.setattr(Path, "open", refused)
    sentence = run_in_process(*arguments, "--resume").sentence
    assert "Permission denied" in sentence
    assert "damaged" not in sentence


def test_the_header_of_a_compressed_file_is_checked_before_unpacking(tmp_path: Path) -> None:
    folder = mnist(tmp_path / "mnist", lambda name: f"{name}.gz", gzip.compress)
    bombs = {
        "no header": bytes(2**28),
        "more than it promises": idx(np.zeros((20, 4, 4), np.uint8)) + bytes(2**28),
        "a promise that nothing keeps": struct.pack(">HBBIII", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1),
        "a promise of gigabytes": struct.pack(">HBBIII", 0, 8, 3, 2**12, 2**12, 2**12),
    }
    for content in bombs.values():
        (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content, 1))
        import tracemalloc

        tracemalloc.start()
        with pytest.raises(InputError, match="train-images-idx3-ubyte"):
            Mnist().load(folder)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert highest < 2**26


def test_an_archive_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsecore.data.cifar._MOST", 2**24)
    (tmp_path / "zeros").write_bytes(bytes(2**25))
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(tmp_path / "zeros", "cifar-10-batches-py/readme.html")
    ended = run_in_process("train", *SMALL, "--data", "cifar10", "--data-dir", tmp_path, "--out", tmp_path / "run")
    assert "unpacks to more than" in ended.sentence


def test_an_npz_that_unpacks_to_gigabytes_is_refused_before_unpacking(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                for _ in range(2**5 + 1):
                    entry.write(bytes(2**23))
    with pytest.raises(InputError, match="unpacks"):
        Npz().load(tmp_path / "bomb.npz")


def test_file_names_from_kaggle_are_recognised_as_mnist(tmp_path: Path) -> None:
    folder = mnist(tmp_path / "mnist", lambda name: name.replace("-idx", ".idx"))
    assert len(Mnist().load(folder).train) == 20


def written(folder: Path, **changes: Any) -> Path:
    labels = np.arange(20) % 4
    arrays = {
        "x_train": np.zeros((20, 8, 8, 3), np.uint8),
        "y_train": labels,
        "x_test": np.zeros((4, 8, 8, 3), np.uint8),
    }
    np.savez(folder / "mine.npz", **{**arrays, "y_test": labels[:4], **changes})
    return folder / "mine.npz"


def test_channels_first_images_cause_a_warning_and_can_be_declared(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), np.uint8)
    file = written(tmp_path, x_train=images, x_test=images[:4])
    with pytest.warns(InputWarning, match="data.channels"):
        assert Npz().load(file).shape == (3, 8, 8)
    first = Npz(channels="first").load(file)
    assert first.shape == (8, 8, 3)
    np.testing.assert_array_equal(first.train.images[5, :, :, 1], images[5, 1])
    assert Npz(channels="last").load(file).shape == (3, 8, 8)  # and no warning, which would be an error
    with pytest.raises(InputError, match="first"):
        Npz(channels="first").load(written(tmp_path, x_train=images[:, 0], x_test=images[:4, 0]))


def test_labels_starting_at_one_cause_a_warning_and_can_be_declared(tmp_path: Path) -> None:
    labels = np.arange(20) % 4 + 1
    file = written(tmp_path, y_train=labels, y_test=labels[:4])
    with pytest.warns(InputWarning, match="data.first_label=1"):
        assert Npz().load(file).classes == 5
    counted = Npz(first_label=1).load(file)
    assert counted.classes == 4
    np.testing.assert_array_equal(counted.train.labels, labels - 1)


def test_a_class_without_images_causes_a_warning_and_can_be_declared(tmp_path: Path) -> None:
    file = written(tmp_path, y_train=np.where(np.arange(20) % 4 == 2, 3, np.arange(20) % 4))
    with pytest.warns(InputWarning, match="data.classes=4"):
        assert Npz().load(file).classes == 4
    assert Npz(classes=6).load(file).classes == 6
    with pytest.raises(InputError, match="0 to 1"):
        Npz(classes=2).load(file)


def test_a_warning_is_printed_as_one_sentence_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    from sparsecore.cli.command_line import _show_warning

    _show_warning(InputWarning("set data.channels"), InputWarning, "npz.py", 3)
    assert capfd.readouterr().err == "sparsecore: warning: set data.channels\n"


READERS = {
    "an experiment": read_toml,
    "a run": lambda file: RunFolder(file.parent).read_tables(),
    "a study": lambda file: StudyFolder(file.parent).read(),
}
NAMES = {"an experiment": "mine.toml", "a run": "experiment.toml", "a study": "study.toml"}
STUDY = '\ufeffname = "s"\ntitle = "t"\nfigure = "bars"\nsparsities = [0.5]\n[[arm]]\nname = "a"\nstrategy = ["dpr"]\n'


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_of_toml_accepts_a_byte_order_mark(tmp_path: Path, reader: str) -> None:
    (tmp_path / NAMES[reader]).write_text(STUDY, "utf-8")
    found = READERS[reader](tmp_path / NAMES[reader])
    assert found == Study.of(found.tables()) if isinstance(found, Study) else found["title"] == "t"


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "content",
    [
        b"a = " + b"[" * 100_000,
        b"[" + b"a." * 3_000 + b"b]",
        b"a = " + b"9" * 10_000,
        b"\xff\xfea",
        b"a",
        b"\x1b = 3",
    ],
    ids=["deep list", "deep table", "digits", "UTF-16", "no TOML", "escape"],
)
def test_every_reader_of_toml_raises_one_error_sentence(tmp_path: Path, reader: str, content: bytes) -> None:
    (tmp_path / NAMES[reader]).write_bytes(content)
    with pytest.raises(InputError, match=NAMES[reader].replace(".", r"\.")):
        READERS[reader](tmp_path / NAMES[reader])


SLOW = {
    "a table": "[" + "a." * 100_000 + "b]\n",
    "a key": "a." * 100_000 + "b = 1\n",
    "a key in a table": "[a]\n x = {" + "a . " * 100_000 + "b = 1}\n",
    "quoted parts": '["' + '."."'.join(["a"] * 100_000) + '"]\n',
    "many long keys": "".join(f"a{number}" + ".b" * 58 + " = 1\n" for number in range(8_000)),
    "more than a file of settings has": "".join(f"[a{number}]\n" for number in range(120_000)),
}


@pytest.mark.parametrize("kind", SLOW)
def test_toml_that_would_take_long_to_read_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    (tmp_path / "mine.toml").write_text(SLOW[kind], "utf-8")
    begun = time.process_time()
    with pytest.raises(InputError, match=r"mine\.toml"):
        read_toml(tmp_path / "mine.toml")
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    "line", ["x = [" + "0.25, " * 500 + "1.0]", "# " + "." * 500, 'x = "' + "../" * 200 + '"', "a" * 5000 + " = 1"]
)
def test_toml_with_many_dots_that_are_no_keys_is_read(tmp_path: Path, line: str) -> None:
    (tmp_path / "mine.toml").write_text(line + "\n", "utf-8")
    assert read_toml(tmp_path / "mine.toml") == tomllib.loads(line)


@pytest.mark.parametrize("setting", ["training." + "a." * 20_000 + "b=1", "training.x={" + "a." * 20_000 + "b=1}"])
def test_a_setting_of_thousands_of_parts_is_refused_at_once(setting: str) -> None:
    begun = time.process_time()
    assert len(run_in_process("train", "--set", setting).sentence) < 300
    assert time.process_time() - begun < 3


@POSIX
def test_settings_without_end_are_refused() -> None:
    with pytest.raises(InputError, match="/dev/zero"):
        read_toml(Path("/dev/zero"))


LONG = "a" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["--out", LONG],
        ["--resume", "--out", LONG],
        ["--data-dir", LONG],
        ["--strategy", f"{LONG}.py:A"],
        ["--strategy", LONG],
        ["--strategy", f"{LONG}:A"],
        ["--model", LONG],
        ["--data", LONG],
        ["--backend", LONG],
        [f"{LONG}.toml"],
        ["--set", f"start.run={LONG}", "--set", "start.values=trained"],
        ["--set", f"{LONG}.{LONG}=3"],
        ["--set", f"{'a.' * 5000}b=3"],
        ["--set", f"data.limit={'[' * 50_000}"],
        ["--out", "loop/run"],
        ["--data-dir", "loop"],
        ["--strategy", "loop.py:A"],
        ["loop"],
        ["--set", "start.run=loop", "--set", "start.values=trained"],
        ["--model", "wrn-999999994-1"],
        ["--model", "thin-wrn-999999994-1"],
        ["--model", "hashed-wrn-999999994-1"],
        ["--model", "\x1b[31mred"],
        ["--strategy", "\x1b[31mred.py:A"],
        ["--set", "\x1b[31m.a=3"],
        ["--\x1b[31m"],
    ],
    ids=lambda arguments: ascii(" ".join(arguments))[:40],
)
def test_names_of_any_kind_are_refused_in_one_printable_sentence(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("loop", "loop.py"):
        (tmp_path / name).symlink_to(tmp_path / name)
    small = [part for part in SMALL if "start.values=trained" not in arguments or part not in ("--sparsity", "0.8")]
    ended = run_in_process("train", *small, "--data-dir", images, *arguments)
    assert ended.status == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "\x1b" not in ended.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("drawn_reports")
def test_control_sequences_reach_neither_terminal_nor_page(images: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        "import attrs\n"
        "from sparsecore_models.lenet import LeNet\n"
        "@attrs.frozen(eq=False)\n"
        "class Odd:\n"
        "    def parameters(self, shape, classes):\n"
        "        known = LeNet((8,)).parameters(shape, classes)\n"
        "        return tuple(attrs.evolve(one, name='\\x1b[31m$x_' + one.name + '$') for one in known)\n"
        "    def forward(self, ops, parameters, images):\n"
        "        known = {name.strip('$').removeprefix('\\x1b[31m$x_'): one for name, one in parameters.items()}\n"
        "        return LeNet((8,)).forward(ops, known, images)\n"
    )
    small = ["--model", f"{tmp_path / 'odd.py'}:Odd", *SMALL[2:], "--data-dir", images, "--set", "backend.name=numpy"]
    ended = run_in_process("train", *small, "--out", tmp_path / "run")
    assert ended.status == 0, ended.stderr
    assert "\x1b" not in ended.stdout
    assert "layer1.weight" in ended.stdout
    assert "\x1b" not in (tmp_path / "run/report.html").read_text("utf-8")


@pytest.mark.parametrize("key", ["title", "label"])
def test_titles_of_a_study_are_printable(key: str) -> None:
    arm = {"name": "a", "strategy": ["dpr"], **({"label": "\x1b[31m"} if key == "label" else {})}
    tables = {"name": "s", "title": "\x1b[31m" if key == "title" else "t", "figure": "bars", "sparsities": [0.5]}
    with pytest.raises(InputError, match=key):
        Study.of({**tables, "arm": [arm]})
