"""``sparsify`` warns before it zeroes weights of a model that was loaded before."""

import warnings

import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import everything, loss_at, mlp, sgd, train
from torch import nn

from sparsecore.errors import LostWeightsWarning
from sparsecore_strategies.gmp import GradualPruning
from sparsecore_torch import sparsify
from sparsecore_torch.sparse_training import export

OPTIONS = {"include": "*weight", "sparsity": 0.75}


def trained(storage="masked", **options):
    """The plain state dict of a network that was trained sparsely."""
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, storage=storage, strategy="static", seed=5, **{**OPTIONS, **options})
    train(model, optimizer, range(5))
    return export.squashed_copy(training).state_dict()


def nonzero(model, names=("0.weight", "2.weight", "4.weight")):
    return sum(int(model.state_dict()[name].count_nonzero()) for name in names)


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_a_model_that_was_loaded_before_gets_one_warning_with_the_numbers(storage, sparsity):
    model = mlp(1)
    model.load_state_dict(trained(sparsity=sparsity))
    before = nonzero(model)
    with pytest.warns(LostWeightsWarning) as caught:
        training = sparsify(model, sgd(model), storage=storage, **{**OPTIONS, "sparsity": sparsity})
    lost = before - nonzero(export.squashed_copy(training))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    sentence = str(caught[0].message)
    assert f"{lost} of {before} nonzero" in sentence
    assert "0.weight, 2.weight, 4.weight" in sentence
    assert "adopt()" in sentence


def test_a_warning_that_is_an_error_leaves_the_model_as_it_was():
    model = mlp(1)
    model.load_state_dict(trained())
    optimizer = sgd(model)
    loss_at(model, 0).backward()
    before = everything(model, optimizer)
    with pytest.raises(LostWeightsWarning):  # the tests have warnings as errors
        sparsify(model, optimizer, **OPTIONS)
    assert everything(model, optimizer) == before


def test_the_warning_can_be_silenced_by_its_category():
    model = mlp(1)
    model.load_state_dict(trained())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=LostWeightsWarning)
        sparsify(model, sgd(model), **OPTIONS)


def test_sparsifying_a_squashed_model_again_warns_too():
    model = mlp()
    optimizer = sgd(model)
    sparsify(model, optimizer, **OPTIONS).squash()
    with pytest.warns(LostWeightsWarning):
        sparsify(model, optimizer, seed=1, **OPTIONS)


def zeros(model, name):
    with torch.no_grad():
        model.get_parameter(name).zero_()
    return model


def low_rank(seed=0):
    """As LoRA begins: the second matrix is all zero."""
    torch.manual_seed(seed)
    return zeros(nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 12), nn.Linear(12, 3)), "1.weight")


def padded():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(4, 6, padding_idx=2), nn.Linear(6, 6), nn.Linear(6, 3))


def half_precision():
    return mlp().to(torch.bfloat16)


FRESH = {
    "drawn": (mlp, {}),
    "a zero layer": (low_rank, {}),
    "all zero": (lambda: zeros(zeros(mlp(), "0.weight"), "2.weight"), {"include": ["0.weight", "2.weight"]}),
    "an embedding's padding": (padded, {}),
    "half precision": (half_precision, {}),
    "zeros elsewhere": (lambda: mlp().requires_grad_(True), {"exclude": "4.*"}),
    "a dense start": (
        mlp,
        {"strategy": GradualPruning(), "total_steps": 1000},
    ),
}


@pytest.mark.parametrize("case", FRESH)
def test_freshly_initialized_models_get_no_warning(case):
    make, options = FRESH[case]
    model = make()
    assert sparsify(model, sgd(model), **{"include": "*weight", "sparsity": 0.75, **options}).step == 0


def test_a_start_that_loses_nothing_gets_no_warning():
    model = mlp(1)
    model.load_state_dict(trained())
    before = nonzero(model)
    sparsify(model, sgd(model), strategy=GradualPruning(), total_steps=1000, **OPTIONS)
    assert nonzero(model) == before
