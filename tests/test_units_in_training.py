"""Units of several weights, from the command line and in one's own training loop."""

import pytest
from command_line import said, small_images, sparsecore, train

from sparsecore.errors import InputError
from sparsecore.run.folder import RunFolder
from sparsecore.run.replay import replay

pytestmark = pytest.mark.usefixtures("quick_runs")

torch = pytest.importorskip("torch")

from sparsify_examples import convnet, loss_at, mlp, sgd

from sparsecore_torch import sparsify

BLOCKS = ("--model", "lenet-12-8", "--data", "npz", "--sparsity", "0.75", "--epochs", "2", "--batch-size", "16")


def all_or_nothing(mask, rows, columns):
    """How many blocks are whole, where none is there in part."""
    cut = mask.reshape(mask.shape[0] // rows, rows, mask.shape[1] // columns, columns, -1)
    weights = cut.sum(axis=(1, 3))
    assert set(weights.ravel().tolist()) <= {0, rows * columns}
    return int((weights > 0).sum())


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_run_in_blocks_stays_in_blocks_and_replays(backend, tmp_path):
    file = small_images(tmp_path / "images.npz")
    options = [*BLOCKS, "--set", f"data.file={file}", "--strategy", "set", "--set", "reallocation.units=2x4"]
    result = train(*options, "--backend", backend, "--out", tmp_path / "run")
    topologies = list(replay(RunFolder(tmp_path / "run")))
    assert len(topologies) == 1 + result["reallocations"] >= 2
    blocks = [[all_or_nothing(topology.mask(name), 2, 4) for name in topology.layout.names] for topology in topologies]
    assert all(numbers == blocks[0] for numbers in blocks)
    assert topologies[-1].sha256() == result["topology_sha256"]
    assert result["sparse_parameters"] == 8 * sum(blocks[0])
    assert topologies[0].sha256() != topologies[-1].sha256()


def test_blocks_that_do_not_fit_are_refused_before_a_run_folder_is_created(tmp_path):
    file = small_images(tmp_path / "images.npz")
    done = sparsecore(
        *("train", *BLOCKS, "--set", f"data.file={file}", "--set", "reallocation.units=5x4", "--out", tmp_path / "run")
    )
    assert "is not made of whole units of shape (5, 4)" in said(done)
    assert not (tmp_path / "run").exists()


def steps(model, optimizer, numbers):
    for step in numbers:
        optimizer.zero_grad()
        loss_at(model, step, (2, 8, 8)).backward()
        optimizer.step()


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_sparsify_reallocates_whole_kernels(storage):
    model = convnet()
    optimizer = sgd(model)
    training = sparsify(
        *(model, optimizer),
        strategy="set",
        sparsity=0.5,
        include="3.weight",
        units="kernels",
        steps_per_epoch=3,
        storage=storage,
    )
    before = training.masks()["3.weight"]
    steps(model, optimizer, range(7))
    after = training.masks()["3.weight"]
    assert training.updates == 2
    assert not torch.equal(before, after)
    assert all_or_nothing(before.numpy(), 1, 1) == all_or_nothing(after.numpy(), 1, 1) == before.sum()
    kernels = after.flatten(2)
    assert torch.equal(kernels.all(2), kernels.any(2))
    training.squash()
    assert torch.equal(model[3].weight.detach() != 0, after)


def test_a_state_dict_of_other_units_is_refused():
    def trained(units):
        model = convnet()
        return sparsify(model, sgd(model), strategy="set", steps_per_epoch=3, include="3.weight", units=units)

    kernels = trained("kernels")
    kernels.load_state_dict(trained("kernels").state_dict())
    with pytest.raises(InputError, match=r"(?i)units: \w*weights there, kernels here"):
        kernels.load_state_dict(trained("weights").state_dict())


def test_sparsify_refuses_unknown_units():
    model = mlp()
    with pytest.raises(InputError, match="units are weights, kernels or blocks such as 4x4; given 'slices'"):
        sparsify(model, sgd(model), units="slices")


def test_a_lottery_prunes_whole_blocks(tmp_path):
    file = small_images(tmp_path / "images.npz")
    options = ["--model", "lenet-12-8", "--data", "npz", "--epochs", "1", "--set", f"data.file={file}"]
    done = sparsecore(
        "lottery", *options, "--rounds", "2", "--set", "reallocation.units=2x4", "--out", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    ends = [list(replay(RunFolder(tmp_path / "out" / f"round-{number}")))[-1] for number in range(3)]
    blocks = [sum(all_or_nothing(end.mask(name), 2, 4) for name in end.layout.names) for end in ends]
    assert blocks[0] == ends[0].layout.size // 8
    assert [blocks[1], blocks[2]] == [blocks[0] - blocks[0] // 5, blocks[1] - blocks[1] // 5]
