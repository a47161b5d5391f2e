"""State of weights that does not lie in ``state[parameter]`` itself: deeper in it, or elsewhere."""

import pytest

torch = pytest.importorskip("torch")

import unusual_optimizers as unusual
from sparsify_examples import everything, mlp, often, train

from sparsecore.errors import InputError
from sparsecore_torch import describe_optimizer, sparsify


def tensors_in(content):
    if isinstance(content, torch.Tensor):
        return [content]
    inner = content.values() if isinstance(content, dict) else content
    return [tensor for one in inner for tensor in tensors_in(one)]


def test_state_in_lists_and_dicts_is_zero_where_no_weight_is_however_long_the_lists_grow():
    model = mlp()
    optimizer = unusual.SeveralMomenta(model.parameters(), lr=0.01)
    training = sparsify(model, optimizer, strategy=often("40%"), sparsity=0.6)
    for step in range(16):
        train(model, optimizer, [step])
        for name, mask in training.masks().items():
            state = tensors_in(optimizer.state[model.get_parameter(name)])
            assert len(state) == 3 + min(step + 1, 12)
            assert not any(tensor[~mask].any() for tensor in state)
    assert training.updates == 8
    assert all(any(tensor.any() for tensor in tensors_in(state)) for state in optimizer.state.values())


def test_memory_counts_state_in_lists_and_dicts():
    model = mlp()
    optimizer = unusual.SeveralMomenta(model.parameters(), lr=0.01)
    training = sparsify(model, optimizer, strategy="static", sparsity=0.6)
    train(model, optimizer, [0])
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    assert training.memory().optimizer_state.theoretical == 4 * parameters  # three momenta, one gradient


def test_compact_storage_refuses_state_in_lists_and_dicts():
    model = mlp()
    optimizer = unusual.SeveralMomenta(model.parameters())
    before = everything(model, optimizer)
    with pytest.raises(InputError, match="SeveralMomenta"):
        sparsify(model, optimizer, sparsity=0.6, storage="compact")
    assert everything(model, optimizer) == before


@pytest.mark.parametrize("storage", ["masked", "compact"])
@pytest.mark.parametrize(
    ("make", "where"),
    [
        (unusual.InAttribute, "momenta"),
        (unusual.InGroup, "momenta"),
        (unusual.ByIdentity, r"id\(parameter\)"),
        (unusual.OnParameter, "momentum"),
    ],
)
def test_state_kept_outside_the_optimizer_state_is_refused_by_name(make, where, storage):
    model = mlp()
    optimizer = make(model.parameters())
    before = everything(model, optimizer)
    with pytest.raises(InputError, match=rf"{make.__name__}.*{where}.*describe_optimizer"):
        sparsify(model, optimizer, sparsity=0.6, storage=storage)
    assert everything(model, optimizer) == before


def test_a_described_optimizer_may_keep_state_elsewhere(monkeypatch):
    monkeypatch.setattr("sparsecore_torch.sparse_training.optimizers.state._DESCRIBED", {})
    describe_optimizer(unusual.InAttribute, state={})
    model = mlp()
    optimizer = unusual.InAttribute(model.parameters())
    training = sparsify(model, optimizer, strategy=often(), sparsity=0.6)
    train(model, optimizer, range(4))
    for name, mask in training.masks().items():
        assert not model.get_parameter(name).detach()[~mask].any()
