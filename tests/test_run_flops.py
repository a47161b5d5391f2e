"""The floating-point operations in the results of runs, against numbers that are worked out by hand."""

import json

import pytest
from in_process import no_waiting_for_the_disk, run_in_process

from sparsecore.errors import InputError
from sparsecore.learning.flops import StepSums
from sparsecore.learning.model_flops import model_forward_pass
from sparsecore.learning.protocols import with_ties
from sparsecore.report.page import page
from sparsecore.report.reading import read_run
from sparsecore.run.checkpoint import read_checkpoint
from sparsecore_models.hashed import HashedLeNet
from sparsecore_models.wrn import WideResNet

DENSE = 2 * (64 * 12 + 12 * 8 + 8 * 10)
"""Of one image's forward pass through lenet-12-8 on the digits."""
SMALL = ("--model", "lenet-12-8", "--epochs", "3", "--sparsity", "0.8", "--strategy", "rigl", "--backend", "numpy")
UPDATES = ("--set", "strategy.schedule={steps=10}")


def train(folder, *arguments):
    with no_waiting_for_the_disk():
        return run_in_process("train", *SMALL, *UPDATES, "--out", folder, *arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train(folder).status == 0
    return folder


def flops(folder):
    return json.loads((folder / "result.json").read_text())["flops"]


def test_a_run_of_rigl_takes_thrice_a_forward_pass_a_step_and_dense_gradients_in_updates(finished):
    found, result = flops(finished), json.loads((finished / "result.json").read_text())
    sparse = 2 * result["sparse_parameters"]
    assert (result["steps"], result["reallocations"]) == (45, 4)
    assert found["inference_dense"] == DENSE
    assert found["inference"] == sparse
    assert found["training_dense"] == 45 * 100 * 3 * DENSE
    assert found["training"] == 100 * (41 * 3 * sparse + 4 * (2 * sparse + DENSE))
    assert f"{found['training'] / found['training_dense']:.3f} of dense" in page(read_run(finished))


def test_a_run_that_was_interrupted_counts_as_one_that_was_not(finished, tmp_path, monkeypatch):
    from sparsecore.run.training import Run

    end_epoch = Run._end_epoch

    def stopping(self, *arguments):
        end_epoch(self, *arguments)
        if self._state.clock.step == 30:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_end_epoch", stopping)
        assert train(folder).status != 0
    assert train(folder, "--resume").status == 0
    assert flops(folder) == flops(finished)
    sums = read_checkpoint(folder / "checkpoint.safetensors").facts["sums"]
    assert StepSums.load(sums, 3, 45).dump() == sums
    with pytest.raises(ValueError, match="44"):
        StepSums.load(sums, 3, 44)


def test_sums_that_no_training_has_are_refused():
    sums = StepSums.none(2).after([3, 4], dense_gradient=True).dump()
    assert sums == {
        "steps": 1,
        "weights": [3, 4],
        "dense_gradient_steps": 1,
        "dense_gradient_weights": [3, 4],
        "candidates": [0, 0],
        "silent": [0, 0],
    }
    assert StepSums.load(None, 2, 5) is None
    for damaged in ([], {}, {**sums, "more": 1}, {**sums, "weights": [3]}, {**sums, "weights": [3, -4]}):
        with pytest.raises(ValueError, match="sums"):
            StepSums.load(damaged, 2, 1)


def test_the_convolutions_of_a_wide_residual_network_are_counted_for_each_pixel():
    model = WideResNet(depth=10, width=1)
    shapes = {parameter.name: parameter.shape for parameter in model.parameters((32, 32, 3), 10)}
    measured = model_forward_pass(model.forward, shapes, (32, 32, 3), 2)
    blocks = [(16, 16, 32, 0), (16, 32, 16, 1), (32, 64, 8, 1)]
    expected = 9 * 3 * 16 * 32**2 + 64 * 10
    for before, after, side, has_shortcut in blocks:
        expected += side**2 * (9 * before * after + 9 * after * after + has_shortcut * before * after)
    assert sum(measured.of_tensors.values()) == 2 * 2 * expected


def test_a_hashed_network_takes_the_operations_of_its_dense_shapes():
    model = HashedLeNet(sparsity=0.9)
    parameters = model.parameters((8, 8, 1), 10)
    shapes = {parameter.name: parameter.shape for parameter in parameters}
    measured = model_forward_pass(with_ties(model, parameters).forward, shapes, (8, 8, 1), 1)
    dense = [parameter.ties.shape if parameter.ties is not None else parameter.shape for parameter in parameters]
    assert sum(measured.of_tensors.values()) == sum(2 * shape[0] * shape[1] for shape in dense if len(shape) == 2)


def test_a_kernel_that_fits_into_no_image_is_refused():
    model = WideResNet(depth=10, width=1)
    shapes = {"first.conv": (16, 3, 9, 9)}
    with pytest.raises(InputError, match="9×9"):
        model_forward_pass(model.forward, shapes, (4, 4, 3), 1)
