"""Which layers can run through the sparse kernels, why others cannot, and what is refused."""

import sys

import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import everything, sgd
from torch import nn

from sparsecore.errors import InputError
from sparsecore_torch import sparsify


@pytest.fixture
def _installed():
    pytest.importorskip("sparsecore_cpu._kernels")


@pytest.mark.usefixtures("_installed")
def test_layers_that_the_kernels_do_not_support_are_named_with_the_reason():
    model = nn.ModuleDict(
        {
            "fits": nn.Conv2d(4, 4, 3),
            "grouped": nn.Conv2d(4, 4, 3, groups=2),
            "dilated": nn.Conv2d(4, 4, 3, dilation=2),
            "reflecting": nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
            "uneven": nn.Conv2d(4, 4, 3, stride=(1, 2)),
            "line": nn.Conv1d(4, 4, 3),
            "words": nn.Embedding(4, 4),
            "attention": nn.MultiheadAttention(4, 2),
            "wide": nn.Linear(4, 4).double(),
        }
    )
    training = sparsify(model, sgd(model), sparsity=0.5, include="*weight", kernels="sparse")
    assert training.routes.sparse == ("fits.weight", "grouped.weight", "dilated.weight", "uneven.weight")
    assert dict(training.routes.left_out) == {
        "reflecting.weight": "padding with other values than zeros",
        "line.weight": "not the weight of a Conv2d or a Linear",
        "words.weight": "not the weight of a Conv2d or a Linear",
        "attention.in_proj_weight": "not the weight of a Conv2d or a Linear",
        "attention.out_proj.weight": "MultiheadAttention computes with it",
        "wide.weight": "not float32",
    }
    assert "not float32: wide.weight" in str(training.routes)


class Twice(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


REFUSED = {
    "no kernels of this name": (nn.Linear, "fast", "no kernels named 'fast'; known: dense, sparse"),
    "nothing fits": (Twice, "sparse", r"no layer can.*0\.weight \(its layer has a forward of its own\)"),
}


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize("case", REFUSED)
def test_refusals_leave_model_and_optimizer_unchanged(case):
    make, kernels, message = REFUSED[case]
    model = nn.Sequential(make(6, 5), nn.Linear(5, 3))
    optimizer = sgd(model)
    before = everything(model, optimizer)
    with pytest.raises(InputError, match=message):
        sparsify(model, optimizer, include="0.weight", kernels=kernels)
    assert everything(model, optimizer) == before
    assert type(model[0]) is make


def test_without_the_distribution_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sparsecore_cpu.layer", None)
    model = nn.Sequential(nn.Linear(6, 5))
    with pytest.raises(InputError, match=r"needs the distribution sparsecore-cpu.*pip install"):
        sparsify(model, sgd(model), include="*weight", kernels="sparse")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_models_on_cuda_are_refused():
    model = nn.Sequential(nn.Linear(6, 5)).cuda()
    with pytest.raises(InputError, match="run on the CPU, and the model lies on cuda:0; take kernels='dense'"):
        sparsify(model, sgd(model), include="*weight", kernels="sparse")


@pytest.mark.usefixtures("_installed")
def test_a_choice_by_hand_names_tensors_and_replaces_earlier_ones():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    training = sparsify(model, sgd(model), sparsity=0.5, include="*weight", kernels="sparse")
    with pytest.raises(InputError, match=r"matches 'layer\.\*'; they compute 0\.weight, 1\.weight"):
        training.use_kernels("dense", "layer.*")
    training.use_kernels("dense", "0.*")
    training.use_kernels("dense")
    training.use_kernels("sparse")
    training.use_kernels("dense", "1.*")
    assert str(training.routes).endswith("set by hand:\n  *: sparse\n  1.*: dense")
