"""Runs that start from weights in a file: which are active at first, with which values, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import small_images
from safetensors.numpy import load_file, save_file
from start_oracles import STILL, at, carry_out, dense, end, result, same, tensor_of, trained

from sparsecore.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_runs")

SHAPES = {"layer1.weight": (12, 16), "layer2.weight": (8, 12), "classifier.weight": (2, 8)}
NORMS = {"layer1.norm": 12, "layer2.norm": 8, "classifier.norm": 2}
OTHERS = {f"{norm}.{part}": size for norm, size in NORMS.items() for part in ("scale", "shift", "mean", "variance")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and files of weights, of the same with zeros, of masks and of positions."""
    folder, draws = tmp_path_factory.mktemp("given"), np.random.default_rng(3)
    small_images(folder / "small.npz")
    scales = dict(zip(SHAPES, (1, 4, 0.5), strict=True))
    weights = {name: (scales[name] * draws.standard_normal(shape)).astype("f4") for name, shape in SHAPES.items()}
    norms = {name: draws.random(size).astype("f4") for name, size in OTHERS.items()}
    masks = {name: draws.random(shape) < 0.3 for name, shape in SHAPES.items()}
    save_file(weights | norms, folder / "weights.safetensors")
    save_file({name: weights[name] * masks[name] for name in SHAPES} | norms, folder / "pruned.safetensors")
    save_file(masks, folder / "masks.safetensors")
    positions = {name: draws.permutation(np.flatnonzero(mask)) for name, mask in masks.items()}
    save_file(positions, folder / "positions.safetensors")
    save_file({name: array for name, array in weights.items() if "cl" not in name} | norms, folder / "part.safetensors")
    return folder


@pytest.fixture(scope="module", params=["numpy", "torch", "cpu", pytest.param("jax", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(f"sparsecore_{request.param}")
    return str(request.param)


def train(folder: Path, out: Path, *arguments: str, weights: str = "weights", model: str = "lenet-12-8") -> Path:
    """A run from a file of weights."""
    data = ("--model", model, "--data", "npz", "--data-dir", str(folder / "small.npz"), "--batch-size", "16")
    start = ("--set", f"start.weights={folder / weights}.safetensors") if weights else ()
    carry_out("train", *data, *start, *arguments, "--out", out)
    return out


def flat(weights: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The sparse tensors end to end."""
    return np.concatenate([weights[name].ravel() for name in SHAPES])


def chosen(positions: list[int] | np.ndarray[Any, Any], run: Path, weights: dict[str, Any]) -> None:
    """The run has exactly these weights, and exactly their values, as it had no learning rate."""
    ended = end(run)
    np.testing.assert_array_equal(ended["positions"], positions)
    np.testing.assert_array_equal(ended["learner/values"], flat(weights)[positions])
    assert same(trained(ended), trained({f"dense/{name}": weights[name] for name in OTHERS}))


def test_a_pretrained_network_is_pruned_at_once_without_losing_a_kept_weight(
    folder: Path, backend: str, tmp_path: Path
) -> None:
    weights = load_file(folder / "weights.safetensors")
    common = ("--backend", backend, "--strategy", "static", "--sparsity", "0.8", *STILL)
    largest = ("--set", "start.active=magnitude")
    one = train(folder, tmp_path / "tensor", *common, *largest)
    expected, offset = [], 0
    for name in SHAPES:
        sizes = np.abs(weights[name].ravel())
        expected += sorted(np.argsort(-sizes, kind="stable")[: int(sizes.size * 0.2 + 1e-9)] + offset)
        offset += sizes.size
    chosen(expected, one, weights)

    other = train(folder, tmp_path / "network", *common, *largest, "--set", "start.scope=network")
    sizes, tensors = np.abs(flat(weights)), tensor_of(one, np.arange(offset))
    sizes[[np.flatnonzero(tensors == t)[np.argmax(sizes[tensors == t])] for t in range(3)]] = np.inf
    chosen(np.sort(np.argsort(-sizes, kind="stable")[: len(expected)]), other, weights)

    drawn = train(folder, tmp_path / "drawn", *common)
    plain = train(folder, tmp_path / "plain", *common, weights="")
    chosen(end(plain)["positions"], drawn, weights)


@pytest.mark.parametrize(("weights", "active"), [("pruned", "nonzero"), ("weights", "masks"), ("weights", "positions")])
def test_zeros_masks_and_positions_give_the_active_weights(
    folder: Path, backend: str, tmp_path: Path, weights: str, active: str
) -> None:
    file = active if active == "nonzero" else folder / f"{active}.safetensors"
    common = ("--backend", backend, "--set", f"start.active={file}")
    run = train(folder, tmp_path / "still", *common, "--strategy", "static", *STILL, weights=weights)
    masks = load_file(folder / "masks.safetensors")
    chosen(np.flatnonzero(flat(masks)), run, load_file(folder / f"{weights}.safetensors"))
    moving = ("--strategy", "dpr", "--set", "strategy.schedule.steps=5", "--set", "strategy.target=8", "--epochs", "2")
    moved = train(folder, tmp_path / "moved", *common, *moving, weights=weights)
    assert result(moved)["reallocations"] > 0
    assert result(moved)["sparse_parameters"] == result(run)["sparse_parameters"] == np.count_nonzero(flat(masks))


def test_units_of_a_pretrained_network_are_kept_by_their_mean_magnitude(folder: Path, tmp_path: Path) -> None:
    options = ("--backend", "numpy", "--strategy", "static", "--set", "reallocation.units=2x4", *STILL)
    run = train(folder, tmp_path / "run", *options, "--set", "start.active=magnitude", "--sparsity", "0.75")
    weights = load_file(folder / "weights.safetensors")
    expected, offset = [], 0
    for name, (rows, columns) in SHAPES.items():
        blocks = np.abs(weights[name]).reshape(rows // 2, 2, columns // 4, 4).mean(axis=(1, 3))
        kept = np.argsort(-blocks.ravel())[: max(1, int(blocks.size * 0.25))]
        mask = np.isin(np.arange(blocks.size).reshape(blocks.shape), kept).repeat(2, 0).repeat(4, 1)
        expected += (np.flatnonzero(mask) + offset).tolist()
        offset += weights[name].size
    chosen(expected, run, weights)


def test_parameters_that_are_named_are_drawn_and_the_others_taken(folder: Path, tmp_path: Path) -> None:
    common = ("--backend", "numpy", "--strategy", "static", "--sparsity", "0", *STILL)
    run = end(train(folder, tmp_path / "run", *common, "--set", 'start.drawn=["class*"]', weights="part"))
    plain, part = end(train(folder, tmp_path / "plain", *common, weights="")), load_file(folder / "part.safetensors")
    values = run["learner/values"]
    np.testing.assert_array_equal(values[288:], plain["learner/values"][288:])
    np.testing.assert_array_equal(values[:192], part["layer1.weight"].ravel())
    np.testing.assert_array_equal(dense(run)["layer1.norm.scale"], part["layer1.norm.scale"])
    np.testing.assert_array_equal(dense(run)["classifier.norm.shift"], dense(plain)["classifier.norm.shift"])


def test_the_largest_weights_of_another_run_start_a_sparser_one(folder: Path, tmp_path: Path) -> None:
    common = ("--backend", "numpy", "--strategy", "static")
    source = train(folder, tmp_path / "source", *common, "--sparsity", "0.5", "--epochs", "2", weights="")
    start = ("--set", f"start.run={source}", "--set", "start.values=trained", "--set", "start.active=magnitude")
    run = end(train(folder, tmp_path / "run", *common, *start, "--sparsity", "0.9", *STILL, weights=""))
    begun = end(source)
    np.testing.assert_array_equal(run["learner/values"], at(begun, run["positions"]))
    sizes = np.where(np.isin(begun["positions"], run["positions"]), np.abs(begun["learner/values"]), 0)
    tensors = tensor_of(source, begun["positions"])
    for tensor in range(3):
        gone = np.setdiff1d(begun["positions"][tensors == tensor], run["positions"])
        kept = sizes[(tensors == tensor) & (sizes > 0)]
        assert np.abs(at(begun, gone)).max() <= kept.min()
    with pytest.raises(InputError, match=r"of the .* weights to start with were not there when the run .* ended"):
        train(folder, tmp_path / "denser", *common, *start, "--sparsity", "0.2", *STILL, weights="")


def test_a_run_is_resumed_without_the_files_it_started_from(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "given")
    start = ("--set", f"start.active={tmp_path / 'given/masks.safetensors'}", "--strategy", "static")
    run = train(tmp_path / "given", tmp_path / "run", *start, "--backend", "numpy", "--epochs", "1")
    expected = (run / "checkpoint.safetensors").read_bytes()
    for name in ("masks.safetensors", "weights.safetensors"):
        (tmp_path / "given" / name).unlink()
    (run / "checkpoint.safetensors").unlink()
    for log in ("metrics.jsonl", "reallocations.jsonl", "tensors.json"):
        (run / log).unlink()
    carry_out("train", "--resume", "--out", run)
    assert (run / "checkpoint.safetensors").read_bytes() == expected
    moved = ("--set", f"start.active={folder / 'masks.safetensors'}")
    carry_out("train", "--resume", "--out", run, *moved, "--set", f"start.weights={folder / 'weights.safetensors'}")
    with pytest.raises(InputError, match="is something else"):
        carry_out("train", "--resume", "--out", run, *moved, "--set", f"start.weights={folder / 'pruned.safetensors'}")
    with pytest.raises(InputError, match=r"start\.active was .* is requested"):
        carry_out("train", "--resume", "--out", run, "--set", "start.active=nonzero")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("start.weights={folder}/absent.safetensors",), r"absent\.safetensors with the weights .* cannot be read: No"),
        (("start.weights={folder}/small.npz",), r"start|weights is the path of a \.safetensors file; given .*npz"),
        (("start.weights={folder}/masks.safetensors",), r"has no layer1\.norm\.scale, .*drawn names"),
        (("start.weights={folder}/part.safetensors",), r"has no classifier\.weight"),
        (
            ('start.drawn=["fc*"]', "start.weights={folder}/weights.safetensors"),
            r"matches no parameter by fc\*; .*layer1",
        ),
        (('start.drawn=["layer1.norm.scale"]',), "given without that file"),
        (("start.active=largest",), r"no active named 'largest'; known: .*magnitude"),
        (("start.active=nonzero",), "no weight of the sparse tensors is zero.*'magnitude' keeps the largest"),
        (("start.active={folder}/absent.safetensors",), "active weights to start with cannot be read: No such file"),
        (("start.active={folder}/part.safetensors",), r"no mask and no positions for classifier\.weight"),
        (
            ("start.active={folder}/masks.safetensors", "sparsity=0.5"),
            r"start\.active already sets the sparsity, to 0\.\d\d",
        ),
        (("start.scope=network",), "'network' is for active = 'magnitude' alone"),
        (("start.run={folder}", "start.values=fresh", "start.weights=a.safetensors"), "given both"),
        (("start.run={folder}", "start.values=fresh", "start.prune=0.5", "start.active=magnitude"), "prune takes"),
        (("start.weights={folder}/weights.safetensors", "model.hidden=[12, 7]"), r"layer2\.weight is \(8, 12\) in"),
    ],
    ids=lambda given: ascii(given)[:60],
)
def test_what_cannot_be_started_from_is_refused_by_a_sentence(
    folder: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    asked = [part for setting in arguments for part in ("--set", setting.format(folder=folder))]
    with pytest.raises(InputError, match=words):
        train(folder, tmp_path / "run", "--strategy", "static", "--backend", "numpy", *asked, weights="")
    assert not (tmp_path / "run").exists()


def test_damaged_and_foreign_files_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "weights.safetensors")
    save_file(weights | {"layer1.weight": np.full((12, 16), np.nan, "f4")}, tmp_path / "nan.safetensors")
    save_file(weights | {"fc.weight": np.ones((2, 2), "f4")}, tmp_path / "more.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no header")
    for name, words in (
        ("nan", r"layer1\.weight in .* not finite"),
        ("more", r"has fc\.weight, which the network does not have"),
        ("broken", "cannot be read"),
    ):
        start = ("--set", f"start.weights={tmp_path / name}.safetensors")
        with pytest.raises(InputError, match=words):
            train(folder, tmp_path / "run", "--strategy", "static", "--backend", "numpy", *start, weights="")
    run = train(folder, tmp_path / "run", "--strategy", "static", "--backend", "numpy", "--epochs", "1")
    start = ("--set", f"start.weights={run}/checkpoint.safetensors")
    with pytest.raises(InputError, match="is the checkpoint of a run; start from it by run"):
        train(folder, tmp_path / "again", "--strategy", "static", "--backend", "numpy", *start, weights="")


def test_a_strategy_that_would_change_trained_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="DeepR"):
        train(folder, tmp_path / "run", "--strategy", "deepr", "--backend", "numpy", "--sparsity", "0.5")


def test_the_folder_of_a_run_is_named_after_the_file_that_it_starts_from(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ("--model", "lenet-12-8", "--data", "npz", "--data-dir", str(folder / "small.npz"))
    start = ("--set", f"start.weights={folder / 'weights.safetensors'}", "--backend", "numpy")
    carry_out("train", *data, *start, "--strategy", "static", "--sparsity", "0.5", "--epochs", "1")
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name == "lenet-12-8-npz-static-from-weights-0.5-1"
    assert json.loads((run / "result.json").read_text())["sparsity"] == pytest.approx(0.5)
