"""Thin and hashed networks have the parameters of a sparse one, all of them in use, and cannot be pruned by mistake."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from command_line import said, small_images, sparsecore, train
from hypothesis import given, settings
from hypothesis import strategies as st
from test_experiment import experiment

from sparsecore.data.batches import batches
from sparsecore.errors import InputError
from sparsecore.learning.parameters import Parameter
from sparsecore.run.setup import set_up
from sparsecore_models.hashed import HashedLeNet, HashedWideResNet
from sparsecore_models.lenet import LeNet
from sparsecore_models.thin import ThinLeNet, ThinWideResNet
from sparsecore_models.wrn import WideResNet

pytestmark = pytest.mark.usefixtures("quick_runs")

IMAGES = st.sampled_from([(8, 8, 1), (28, 28, 1), (32, 32, 3)])
SPARSITIES = st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99])


def kept(size: int, hundredths: int) -> int:
    """⌊(1-s)·D⌋, of whole hundredths."""
    return size * (100 - hundredths) // 100


def lenet_size(inputs: int, hidden: tuple[int, ...], classes: int, sparsity: float = 0.0) -> int:
    """All that a LeNet trains: matrices, and two numbers a unit or class for batch norm."""
    sizes = (inputs, *hidden, classes)
    matrices = [kept(one * other, round(100 * sparsity)) for one, other in pairwise(sizes)]
    return sum(matrices) + 2 * (sum(hidden) + classes)


def wrn_size(channels: tuple[int, ...], colours: int, classes: int, blocks: int = 4, sparsity: float = 0.0) -> int:
    """All that a wide residual network trains, counted layer by layer."""
    total, inputs = 9 * colours * channels[0], channels[0]
    for group, outputs in enumerate(channels[1:], start=1):
        for block in range(blocks):
            convolutions = [9 * inputs * outputs, 9 * outputs * outputs]
            total += sum(kept(size, round(100 * sparsity)) for size in convolutions) + 2 * inputs + 2 * outputs
            if inputs != outputs or (group > 1 and block == 0):
                total += inputs * outputs
            inputs = outputs
    return total + 2 * inputs + classes * inputs + classes


def trained(parameters: tuple[Parameter, ...]) -> int:
    return sum(math.prod(parameter.shape) for parameter in parameters if parameter.trained)


def shapes(parameters: tuple[Parameter, ...]) -> dict[str, tuple[int, ...]]:
    return {parameter.name: parameter.shape for parameter in parameters}


def wider(sizes: tuple[int, ...], most: tuple[int, ...]) -> list[tuple[int, ...]]:
    """One more in one of them, where it is not as wide as its sister."""
    return [
        (*sizes[:i], size + 1, *sizes[i + 1 :])
        for i, (size, limit) in enumerate(zip(sizes, most, strict=True))
        if size < limit
    ]


@settings(max_examples=30, deadline=None)
@given(IMAGES, SPARSITIES, st.integers(2, 20), st.sampled_from([(300, 100), (64,), (50, 40, 30)]))
def test_a_thin_lenet_has_at_most_the_sparse_parameter_count_and_one_more_unit_would_exceed_it(
    image: tuple[int, int, int], sparsity: float, classes: int, hidden: tuple[int, ...]
) -> None:
    inputs = math.prod(image)
    budget = lenet_size(inputs, hidden, classes, sparsity)
    if lenet_size(inputs, (1,) * len(hidden), classes) > budget:
        with pytest.raises(InputError, match="one channel a layer"):
            ThinLeNet(hidden, sparsity).parameters(image, classes)
        return
    parameters = ThinLeNet(hidden, sparsity).parameters(image, classes)
    thin = tuple(shapes(parameters)[f"layer{i}.weight"][0] for i in range(1, len(hidden) + 1))
    assert trained(parameters) == lenet_size(inputs, thin, classes) <= budget
    assert all(lenet_size(inputs, more, classes) > budget for more in wider(thin, hidden))


@settings(max_examples=15, deadline=None)
@given(IMAGES, SPARSITIES, st.sampled_from([(28, 2), (10, 1), (16, 4)]))
def test_a_thin_wide_resnet_has_at_most_the_sparse_parameter_count_and_one_more_channel_would_exceed_it(
    image: tuple[int, int, int], sparsity: float, size: tuple[int, int]
) -> None:
    (depth, width), colours = size, image[2]
    sister, blocks = (16, 16 * width, 32 * width, 64 * width), (depth - 4) // 6
    budget = wrn_size(sister, colours, 10, blocks, sparsity)
    parameters = ThinWideResNet(depth, width, sparsity).parameters(image, 10)
    named = shapes(parameters)
    firsts = ["first.conv", *(f"group{group}.block1.conv1" for group in (1, 2, 3))]
    thin = tuple(named[name][0] for name in firsts)
    assert trained(parameters) == wrn_size(thin, colours, 10, blocks) <= budget
    assert all(wrn_size(more, colours, 10, blocks) > budget for more in wider(thin, sister))
    assert trained(parameters) > 0.97 * budget


@pytest.mark.parametrize(("sparsity", "channels"), [(0.9, (13, 11, 21, 42)), (0.5, (16, 23, 45, 91))])
def test_a_tenth_of_the_weights_are_a_third_of_the_channels(sparsity: float, channels: tuple[int, ...]) -> None:
    """A convolution grows with the square of its channels: by counting them once, a thin network would be too thin."""
    named = shapes(ThinWideResNet(sparsity=sparsity).parameters((8, 8, 1), 10))
    assert tuple(named[f"group{group}.block2.conv1"] for group in (1, 2, 3)) == tuple(
        (count, count, 3, 3) for count in channels[1:]
    )
    assert channels[3] / 128 == pytest.approx(math.sqrt(1 - sparsity), rel=0.05)
    assert named["first.conv"] == (channels[0], 1, 3, 3)


@pytest.mark.parametrize(
    ("thin", "sister"), [(ThinWideResNet(28, 2, 0.0), WideResNet()), (ThinLeNet(sparsity=0), LeNet())]
)
def test_at_sparsity_zero_a_thin_network_is_the_full_network(thin: Any, sister: Any) -> None:
    assert thin.parameters((8, 8, 1), 10) == sister.parameters((8, 8, 1), 10)


@settings(max_examples=20, deadline=None)
@given(IMAGES, SPARSITIES, st.sampled_from([(HashedLeNet, LeNet), (HashedWideResNet, WideResNet)]))
def test_a_hashed_network_learns_as_many_values_as_the_sparse_one_has_weights_in_every_tensor(
    image: tuple[int, int, int], sparsity: float, classes: Any
) -> None:
    hashed, sister = (each.parameters(image, 10) for each in (classes[0](sparsity=sparsity), classes[1]()))
    keys = [parameter.ties.key for parameter in hashed if parameter.ties]
    assert len(set(keys)) == len(keys) == sum(parameter.sparse for parameter in sister)
    for mine, its in zip(hashed, sister, strict=True):
        if its.sparse:
            assert mine.shape == (kept(math.prod(its.shape), round(100 * sparsity)),)
            assert (mine.name, mine.sparse, mine.ties.shape) == (its.name, True, its.shape)  # type: ignore[union-attr]
        else:
            assert mine == its


def test_another_hash_seed_is_another_network() -> None:
    one, other = (HashedLeNet(hash_seed=seed).parameters((8, 8, 1), 10) for seed in (0, 1))
    assert not {p.ties.key for p in one if p.ties} & {p.ties.key for p in other if p.ties}
    assert shapes(one) == shapes(other)


@pytest.mark.parametrize("data", ["digits", "mnist", "cifar10"])
@pytest.mark.parametrize("sister", ["wrn-28-2", "lenet-300-100"])
@pytest.mark.parametrize("kind", ["thin", "hashed"])
def test_baseline_models_use_the_presets_of_the_full_model_at_sparsity_zero(kind: str, sister: str, data: str) -> None:
    mine = experiment(stack=("static",), model__name=f"{kind}-{sister}", data__name=data)
    its = experiment(stack=("static",), model__name=sister, data__name=data)
    assert (mine.sparsity, its.sparsity) == (0.0, 0.9)
    assert mine.model.plugin.sparsity == 0.9
    assert (mine.training, mine.optimizer, mine.data) == (its.training, its.optimizer, its.data)


@pytest.mark.parametrize("name", ["thin-wrn-16-4", "hashed-wrn-16-4"])
def test_sizes_in_the_name_of_a_baseline_are_those_of_the_full_model(name: str) -> None:
    model = experiment(model__name=name).model.plugin
    assert (model.depth, model.width, model.sparsity) == (16, 4, 0.9)


@pytest.mark.parametrize("name", ["thin-lenet-12-8", "hashed-lenet-12-8"])
def test_baseline_models_are_never_pruned_silently(name: str, tmp_path: Path) -> None:
    images = small_images(tmp_path / "small.npz")
    common = ("train", "--model", name, "--data", "npz", "--set", f"data.file={images}", "--out", tmp_path / "run")
    for strategy in ("static", "gmp"):
        sentence = said(sparsecore(*common, "--strategy", strategy, "--sparsity", "0.8"))
        assert "model.sparsity" in sentence
        assert "0.8" in sentence
    (tmp_path / "bare.toml").write_text("presets = false\n")
    assert "given a sparsity of 0.9" in said(
        sparsecore("train", tmp_path / "bare.toml", *common[1:], "--strategy", "static")
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.sparsity=1", ["[0, 1)", "1.0"]),
        ("model.sparsity=much", ["model.thin-wrn-28-2.sparsity", "number"]),
        ("model.depth=27", ["6n+4", "27"]),
    ],
)
def test_impossible_model_settings_raise_one_error_sentence(setting: str, words: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        experiment(setting, model__name="thin-wrn-28-2")
    assert all(word in str(refused.value) for word in words)


def test_a_hashed_network_trains_from_the_command_line_and_its_files_count_its_values(tmp_path: Path) -> None:
    images = small_images(tmp_path / "small.npz")
    common = ("--data", "npz", "--set", f"data.file={images}", "--epochs", "3", "--batch-size", "16")
    settings_ = ("--model", "hashed-lenet-12-8", "--strategy", "static", "--set", "model.sparsity=0.5")
    result = train(*common, *settings_, "--out", tmp_path / "run")
    assert result["test_accuracy"] >= 0.9
    assert (result["sparse_parameters"], result["dense_parameters"]) == (96 + 48 + 8, 40 + 2 * 2)
    assert result["sparsity"] == 0
    tensors = json.loads((tmp_path / "run/tensors.json").read_text())
    assert [tensor["shape"] for tensor in tensors["tensors"]] == [[96], [48], [8]]


@attrs.frozen(eq=False)
class Learnt:
    """What some epochs from the start of an experiment lead to: values, and loss and hits of the last of them."""

    values: Any
    loss: float
    hits: float


def learnt_by(name: str, backend: str, count: int, *settings_: str) -> Learnt:
    """The first epochs of a run on some of the digits, in double precision."""
    chosen = ("backend.dtype=float64", "data.limit=200", "training.batch_size=50", *settings_)
    setup = set_up(experiment(*chosen, stack=("static",), model__name=name, backend__name=backend))
    learner, random = setup.learner(), setup.engine.random
    for epoch in range(count):
        learner.reset_totals()
        for batch in batches(random, epoch, len(setup.images.train), 50, setup.augmentation):
            learner.train(batch, 0.1)
    totals = learner.totals()
    return Learnt(setup.engine.arrays.to_numpy(learner.values), totals.loss, totals.correct / totals.examples)


@pytest.mark.parametrize("name", ["thin-lenet-100-50", "hashed-lenet-100-50", "thin-wrn-10-1", "hashed-wrn-10-1"])
def test_baseline_models_learn_and_agree_on_both_backends(name: str) -> None:
    pytest.importorskip("torch")
    numpy, torch = (learnt_by(name, backend, 5, "model.sparsity=0.8") for backend in ("numpy", "torch"))
    np.testing.assert_allclose(numpy.values, torch.values, atol=1e-6)
    assert numpy.loss == pytest.approx(torch.loss, rel=1e-6)
    assert numpy.hits > 0.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_hashed_network_trains_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from sparsecore_torch.experiment import backend
    from sparsecore_torch.experiment.compilation import compiled_by

    plain = learnt_by("hashed-wrn-10-1", "torch", 1)
    # but for the last stage, which makes machine code and takes most of the time
    monkeypatch.setattr(backend, "_EXECUTIONS", {True: compiled_by("aot_eager")})
    compiled = learnt_by("hashed-wrn-10-1", "torch", 1, "backend.compile=true")
    np.testing.assert_allclose(compiled.values, plain.values, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["thin-lenet-300-100", "hashed-lenet-300-100", "thin-wrn-28-2", "hashed-wrn-28-2"])
def test_baselines_with_a_tenth_of_the_parameters_learn_the_digits(name: str, tmp_path: Path) -> None:
    result = train("--model", name, "--strategy", "static", "--out", tmp_path / "run")
    assert result["test_accuracy"] > 0.93
