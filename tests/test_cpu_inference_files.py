"""Trained networks from the folder of a run and from files of their own, and what is refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sparsecore_cpu._kernels")

from command_line import SMALL, small_images, train
from inference_examples import images_for, network_of
from kernel_arguments import rows
from safetensors.numpy import load_file
from sealed_content import rewrite

from sparsecore.errors import InputError
from sparsecore.experiment.plugin_choice import PluginChoice
from sparsecore_cpu import _kernels
from sparsecore_cpu.inference import Predictor
from sparsecore_cpu.inference.network import from_gaps, to_gaps
from sparsecore_cpu.runtime import aligned_zeros
from sparsecore_models.lenet import LeNet
from sparsecore_models.wrn import WideResNet

pytestmark = pytest.mark.usefixtures("quick_runs")

SHAPE = (4, 4, 1)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_images(tmp_path_factory.mktemp("data") / "small.npz")


@pytest.fixture(scope="module", params=["numpy", "cpu"])
def run(request: pytest.FixtureRequest, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "lenet"
    settings = ("data.limit=90", "training.learning_rate=0.02")
    options = [part for setting in settings for part in ("--set", setting)]
    train(*SMALL, "--data-dir", images, "--backend", request.param, "--out", folder, *options)
    return folder


@pytest.fixture
def predictor() -> Predictor:
    plugin = WideResNet(10, 1)
    return Predictor.of(attrs.evolve(network_of(plugin), chosen=PluginChoice("wrn-10-1", plugin)), threads=1)


def test_a_run_predicts_what_it_measured_at_its_end(run: Path, images: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    with np.load(images) as arrays:
        pictures, labels = arrays["x_test"][..., None], arrays["y_test"]
    logits = Predictor.of_run(run, threads=1).predict(pictures).astype(float)
    shifted = logits - logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
    assert 0 < result["test_loss"] < 5
    assert losses.mean() == pytest.approx(result["test_loss"], rel=1e-5)
    correct = np.count_nonzero(logits.argmax(axis=1) == labels)
    assert abs(correct - result["test_accuracy"] * len(labels)) <= 1.01  # one may be within rounding of another class


def test_a_file_predicts_bit_for_bit_what_was_saved(run: Path, tmp_path: Path) -> None:
    predictor = Predictor.of_run(run, threads=1)
    predictor.save(tmp_path / "network.safetensors")
    read = Predictor.load(tmp_path / "network.safetensors", threads=1)
    for count in (1, 40):
        pictures = images_for(predictor.network, count)
        np.testing.assert_array_equal(read.predict(pictures), predictor.predict(pictures))


def test_the_example_of_the_page_runs_as_printed(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parent.parent / "backends/sparsecore_cpu/README.md"
    code, _ = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    shutil.copytree(run, tmp_path / "runs/mine")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert (tmp_path / "mine.safetensors").exists()


def test_a_file_contains_the_exact_values(predictor: Predictor, tmp_path: Path) -> None:
    path, network = tmp_path / "network.safetensors", predictor.network
    predictor.save(path)
    arrays = load_file(path)
    np.testing.assert_array_equal(arrays["values"], network.values)
    np.testing.assert_array_equal(Predictor.load(path).network.positions, network.positions)
    assert {name for name in arrays if name.startswith("dense/")} == {f"dense/{name}" for name in network.dense}


@pytest.mark.parametrize("density", [0.02, 0.1, 0.5])
def test_a_file_is_hardly_larger_than_the_parameters(density: float, tmp_path: Path) -> None:
    plugin = LeNet((300, 100))
    network = attrs.evolve(network_of(plugin, (28, 28, 1), density), chosen=PluginChoice("lenet-300-100", plugin))
    Predictor.of(network, threads=1).save(tmp_path / "network.safetensors")
    parameters = 4 * (len(network.values) + sum(array.size for array in network.dense.values()))
    assert (tmp_path / "network.safetensors").stat().st_size < 1.3 * parameters + 2000


@given(st.sets(st.integers(0, 2**62) | st.integers(0, 500)))
def test_positions_come_back_from_their_gaps(positions: set[int]) -> None:
    ascending = np.array(sorted(positions), np.int64)
    content = to_gaps(ascending)
    assert content.dtype == np.uint8
    np.testing.assert_array_equal(from_gaps(content), ascending)


def test_gaps_below_128_take_one_byte_and_larger_ones_one_byte_per_seven_bits() -> None:
    # 0, 0, 127 and 128 positions are left out before these
    assert to_gaps(np.array([0, 1, 129, 258])).tolist() == [0x80, 0x80, 0xFF, 0x00, 0x81]


def test_images_of_another_shape_or_dtype_are_refused(predictor: Predictor) -> None:
    sentence = r"images are \(batch, 8, 8, 1\) as the network was trained on; given "
    for shape in ((8, 8, 1), (2, 1, 8, 8), (2, 8, 8), (1, 8, 8, 3)):
        with pytest.raises(InputError, match=sentence):
            predictor.predict(np.zeros(shape, np.uint8))
    for dtype in ("int64", "bool", "complex64"):
        with pytest.raises(InputError, match=f"uint8, or floats in units of 0..255; given {dtype}"):
            predictor.predict(np.zeros((1, 8, 8, 1), dtype))
    with pytest.raises(InputError, match="1 or more threads"):
        Predictor.of(predictor.network, threads=-1)


def test_a_folder_without_a_trained_network_is_refused(run: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no run folder: it has no experiment\.toml"):
        Predictor.of_run(tmp_path)
    (tmp_path / "experiment.toml").write_bytes((run / "experiment.toml").read_bytes())
    with pytest.raises(InputError, match="has no checkpoint yet"):
        Predictor.of_run(tmp_path)
    with np.load(images) as arrays:
        others = {name: array.copy() for name, array in arrays.items()}
    others["x_train"][0, 0, 0] ^= 1
    np.savez(tmp_path / "others.npz", **others)
    text = (run / "experiment.toml").read_text().replace(str(images), str(tmp_path / "others.npz"))
    (tmp_path / "experiment.toml").write_text(text)
    (tmp_path / "checkpoint.safetensors").write_bytes((run / "checkpoint.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"the images that the run .* was trained on have changed since"):
        Predictor.of_run(tmp_path)


def test_files_that_cannot_be_read_or_written_are_refused(predictor: Predictor, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    with pytest.raises(InputError, match="there is no file"):
        Predictor.load(path)
    with pytest.raises(InputError, match=r"cannot be written to .*: No such file or directory"):
        predictor.save(tmp_path / "nowhere/network.safetensors")
    with pytest.raises(InputError, match=r"no network for .*checkpoint 2'; expected 'sparsecore network 2'"):
        Predictor.load(run / "checkpoint.safetensors")
    predictor.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="is damaged"):
        Predictor.load(path)


def _without(name: str) -> Any:
    return lambda arrays: {key: array for key, array in arrays.items() if key != name}


def _with(name: str, change: Any) -> Any:
    return lambda arrays: {**arrays, name: change(arrays[name])}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_without("positions"), "is damaged: it has no 'positions'"),
        (_without("mean"), "is damaged: it has no 'mean'"),
        (_without("dense/first.conv"), "first.conv of the model 'wrn-10-1' has the shape .*; given none"),
        (_with("dense/last.norm.mean", lambda array: array[1:]), r"last.norm.mean .* has the shape .*; given \(63,\)"),
        (_with("values", lambda array: array[1:]), "there are .* positions and .* values"),
        (_with("positions", lambda array: np.append(array[:-1], array[-1:] & 0x7F)), "a gap between them has no end"),
        (_with("positions", lambda array: np.append(array[:-1], np.uint8([0x7F, 0x7F, 0x7F, 0xFF]))), "not ascending"),
    ],
)
def test_an_inconsistent_file_is_refused(change: Any, sentence: str, predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    predictor.save(path)
    rewrite(path, lambda arrays, facts: (change(arrays), facts))
    with pytest.raises(InputError, match=sentence):
        Predictor.load(path)


def test_outputs_are_cut_off_at_floor_and_ceiling() -> None:
    x = aligned_zeros((144,))
    x[16:32] = np.arange(16) - 8
    out = aligned_zeros((16,))
    convolution = rows(
        x=x,
        out=out,
        out_start=0,
        pointers=np.array([0, 1], np.int32),
        offsets=np.zeros(1, np.int32),
        values=np.ones(1, np.float32),
        bias=np.zeros(1, np.float32),
        inside=np.ones(16, np.float32),
        floor=-2.0,
        ceiling=5.0,
    )
    convolution.run(1)
    np.testing.assert_array_equal(out, np.clip(np.arange(16) - 8, -2, 5))


def test_arrays_that_do_not_fit_are_refused_before_anything_is_read_or_written() -> None:
    memory = np.zeros(160, np.float32)
    given = {
        "kernels": "",
        "x": memory[:144].copy(),
        "x_start": 16,
        "out": memory[:144].copy(),
        "out_start": 16,
        "channel_stride": 64,
        "add": None,
        "pointers": np.array([0, 1, 1], np.int32),
        "offsets": np.array([-16], np.int32),
        "values": np.ones(1, np.float32),
        "bias": np.zeros(2, np.float32),
        "inside": memory[:64],
        "floor": 0.0,
    }
    _kernels.RowConvolution(**given)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"kernels": "of no processor"}, "no kernels of that name"),
        ({"offsets": np.array([-17], np.int32)}, "reads beyond the input"),
        ({"offsets": np.array([65], np.int32)}, "reads beyond the input"),
        ({"pointers": np.array([0, 1, 2], np.int32)}, "do not run from 0 to the number"),
        ({"pointers": np.array([0, 2, 1], np.int32)}, "do not run from 0 to the number"),
        ({"pointers": np.array([0, 1], np.int32)}, "one entry a channel"),
        ({"bias": np.zeros(3, np.float32)}, "one entry a channel"),
        ({"values": np.ones(2, np.float32)}, "not as many values as offsets"),
        ({"out_start": 17}, "do not fit their memory"),
        ({"out_start": -1}, "do not fit their memory"),
        ({"channel_stride": 65}, "do not fit their memory"),
        ({"channel_stride": 63}, "whole vectors"),
        ({"inside": memory[:60]}, "whole vectors"),
        ({"add": memory[:143]}, "other memory than the outputs"),
    ]
    for change, sentence in wrong:
        with pytest.raises(ValueError, match=sentence):
            _kernels.RowConvolution(**{**given, **change})


def test_max_pooling_that_does_not_fit_its_memory_is_refused() -> None:
    x, out = np.arange(80, dtype=np.float32), np.full(32, np.nan, np.float32)
    given: dict[str, Any] = {
        "x": x,
        "x_start": 16,
        "x_stride": 32,
        "out": out,
        "out_start": 0,
        "out_stride": 16,
        "channels": 2,
        "offsets": np.array([-16, 0, 16], np.int32),
        "inside": (np.arange(16) < 9).astype(np.float32),
    }
    _kernels.RowMaximum(**given).run(2)
    np.testing.assert_array_equal(out.reshape(2, 16)[:, :9], x[32:].reshape(-1, 16)[::2, :9][:2])
    np.testing.assert_array_equal(out.reshape(2, 16)[:, 9:], 0)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"offsets": np.array([17], np.int32)}, "read beyond the input"),
        ({"offsets": np.array([-17], np.int32)}, "read beyond the input"),
        ({"offsets": np.zeros(0, np.int32)}, "one offset at least"),
        ({"x_stride": 2**63}, "too large"),
        ({"channels": 3}, "do not fit their memory"),
        ({"channels": 0}, "one channel at least"),
        ({"out_start": 1}, "do not fit their memory"),
        ({"out_stride": 8}, "whole vectors"),
        ({"inside": np.ones(15, np.float32)}, "whole vectors"),
        ({"out": x}, "shares memory"),
    ]
    for change, sentence in wrong:
        with pytest.raises(ValueError, match=sentence):
            _kernels.RowMaximum(**{**given, **change})
