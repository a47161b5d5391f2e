"""2:4 sparsity: which weights have it, and what is refused; the conversion itself needs a GPU."""

import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import sgd, train
from torch import nn

from sparsecore.errors import InputError
from sparsecore.strategy import Every
from sparsecore_strategies.srigl import StructuredRigL
from sparsecore_torch import export, sparsify
from sparsecore_torch.sparse_training.export import semi_structured

TWO_OF_FOUR = StructuredRigL(group=4, start="uniform", schedule=Every(steps=3))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))


def trained(strategy, **options):
    model = network()
    optimizer = sgd(model)
    training = sparsify(
        model, optimizer, strategy=strategy, sparsity=0.5, include="2.weight", total_steps=20, **options
    )
    train(model, optimizer, range(12))
    return training


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_a_model_that_srigl_has_trained_has_the_pattern_and_needs_a_gpu(storage):
    training = trained(TWO_OF_FOUR, storage=storage)
    assert training.updates > 0
    assert (training.masks()["2.weight"].reshape(64, 16, 4).sum(2) == 2).all()
    with pytest.raises(InputError, match=r"2.weight.*cpu"):
        export.to_semi_structured(training)


def test_the_sparse_linear_weights_are_converted_in_a_copy_of_the_model(monkeypatch):
    training = trained(TWO_OF_FOUR)
    monkeypatch.setattr(semi_structured, "_converted", lambda name, weight: weight * 2 if name == "2.weight" else None)
    model = export.to_semi_structured(training)
    before, after = training.model.state_dict(), model.state_dict()
    assert torch.equal(after.pop("2.weight"), 2 * before.pop("2.weight"))
    assert all(torch.equal(after[name], one) for name, one in before.items())


def test_weights_without_the_pattern_are_refused():
    with pytest.raises(InputError, match=r"2.weight.*more than two.*srigl"):
        export.to_semi_structured(trained("static"))
    with pytest.raises(InputError, match="6 inputs"):
        semi_structured.check_two_of_four("w", torch.zeros(4, 6))
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    with pytest.raises(InputError, match="linear"):
        export.to_semi_structured(sparsify(model, sgd(model), sparsity=0.5))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_converted_model_computes_the_same():
    model = network().half().cuda()
    training = sparsify(model, sgd(model), strategy=TWO_OF_FOUR, sparsity=0.5, include="2.weight", total_steps=20)
    images = torch.randn(64, 6, device="cuda", dtype=torch.float16)
    torch.testing.assert_close(export.to_semi_structured(training)(images), model(images), rtol=1e-2, atol=1e-2)
