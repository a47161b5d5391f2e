"""Loading values from another step in compact storage: refused unless their topology comes with them."""

import copy

import pytest

torch = pytest.importorskip("torch")

from restored_examples import STRATEGIES, restored, started, uses
from sparsify_examples import (
    mlp,
    train,
)
from torch import nn

from sparsecore.errors import InputError


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "use", ["step", "values", "squash", "to_csr", "squashed_copy", "check", "follow", "forward", "weight"]
)
def test_compact_values_under_another_topology_are_refused(use, strategy):
    model, optimizer, training, *_ = restored(storage="compact", strategy=strategy)
    values = model.sparse_values.detach().clone()
    forward = {"forward": lambda: model(torch.zeros(1, 6)), "weight": lambda: model[2].weight}
    with pytest.raises(InputError, match=r"model\.load_state_dict.*training\.load_state_dict"):
        {**uses(model, optimizer, training), **forward}[use]()
    assert torch.equal(model.sparse_values, values)


def test_compact_state_records_its_topology(tmp_path):
    model, optimizer, training = started(storage="compact")
    parameters, buffers = len(list(model.parameters())), len(list(model.buffers()))
    state = model.state_dict()
    assert [name for name in state if "sparse" in name] == ["sparse_values", "sparse_topology"]
    assert bytes(state["sparse_topology"].tolist()).hex() == training.topology.sha256()
    assert (parameters, buffers) == (5, 0)  # the values, three biases and the last layer
    torch.save({"inner": nn.Sequential(model).state_dict()}, tmp_path / "saved.pt")
    nested = torch.load(tmp_path / "saved.pt", weights_only=True)["inner"]
    assert nn.Sequential(model).load_state_dict(nested) == nn.Sequential(model).load_state_dict(nested, strict=False)
    train(model, optimizer, range(4))
    assert bytes(model.state_dict()["sparse_topology"].tolist()).hex() == training.topology.sha256()
    training.squash()
    assert not model._state_dict_hooks
    assert not model._load_state_dict_pre_hooks
    assert not optimizer._optimizer_load_state_dict_pre_hooks
    assert not optimizer._optimizer_state_dict_post_hooks
    assert list(optimizer.state_dict()) == ["state", "param_groups"]
    assert list(model.state_dict()) == list(mlp().state_dict())


def test_compact_values_without_their_topology_are_refused():
    model, _, training = started(storage="compact")
    values = {name: value.detach().clone() for name, value in model.named_parameters()}
    for strict in (True, False):
        with pytest.raises(InputError, match="sparse_topology"):
            model.load_state_dict(values, strict=strict)
    training.check()


def test_optimizer_state_of_another_topology_is_refused_in_compact_storage(tmp_path):
    model, optimizer, training = started(storage="compact")
    train(model, optimizer, range(5))
    torch.save([one.state_dict() for one in (model, optimizer, training)], tmp_path / "saved.pt")
    saved = torch.load(tmp_path / "saved.pt", weights_only=True)
    train(model, optimizer, range(5, 11))
    values, step = model.sparse_values.detach().clone(), training.step
    optimizer.load_state_dict(saved[1])
    with pytest.raises(InputError, match="optimizer has loaded a state that belongs to another topology"):
        train(model, optimizer, [11])
    assert torch.equal(model.sparse_values, values)
    assert training.step == step
    again = optimizer.state_dict()  # says what it is of, though it has been loaded
    assert torch.equal(again["sparse_topology"], saved[1]["sparse_topology"])
    model.load_state_dict(saved[0])
    training.load_state_dict(saved[2])
    train(model, optimizer, range(5, 11))


def test_another_number_of_compact_values_names_what_to_load_first():
    state = started(storage="compact", sparsity=0.5)[0].state_dict()
    model, _, training = started(storage="compact")
    with pytest.raises(RuntimeError, match=r"training\.load_state_dict\(\) first"):
        model.load_state_dict(state)
    training.check()


def test_adopt_is_refused_in_compact_storage():
    _, _, training, *_ = restored(storage="compact")
    with pytest.raises(InputError, match=r"training\.load_state_dict\(\)"):
        training.adopt()


def test_a_copy_of_a_compact_model_loads_its_own_state():
    model, optimizer, _ = started(storage="compact")
    state = copy.deepcopy(model.state_dict())
    copied = copy.deepcopy(model)
    copied.load_state_dict(state)
    train(model, optimizer, range(6))  # the copy is no average: it has been loaded
    given = torch.ones(2, 6)
    assert torch.equal(copied(given), copied(given))
    copied.load_state_dict(model.state_dict())
    with pytest.raises(InputError, match="another topology"):
        copied(given)


def test_functional_calls_accept_a_compact_state_dict():
    model, *_ = started(storage="compact")
    given = torch.ones(2, 6)
    assert torch.equal(torch.func.functional_call(model, dict(model.state_dict()), given), model(given))
