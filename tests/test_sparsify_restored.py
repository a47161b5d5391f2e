"""Loading weights from another step: adopted with their topology or refused, never silently zeroed."""

import copy
import itertools

import pytest

torch = pytest.importorskip("torch")

from restored_examples import NAMES, STRATEGIES, USES, restored, started, uses
from sparsify_examples import (
    everything,
    loss_at,
    sgd,
    train,
)

from sparsecore.errors import InputError
from sparsecore_torch.sparse_training import export


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("use", USES)
def test_weights_of_another_topology_are_never_silently_zeroed(use, strategy):
    model, optimizer, training, best, loss, _ = restored(strategy=strategy)
    if use != "step":
        assert loss_at(model, 0).item() == loss
    before = everything(model, optimizer)[0], training.step
    with pytest.raises(InputError, match=r"adopt\(\)"):
        uses(model, optimizer, training)[use]()
    assert (everything(model, optimizer)[0], training.step) == before
    assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("strategy", ["set", "rigl"])
def test_foreign_weights_are_refused_when_an_update_replaces_the_step(strategy):
    model, optimizer, training = started(strategy=strategy)
    every = {"set": 2, "rigl": 3}[strategy]
    train(model, optimizer, range(every - 1))
    with torch.no_grad():
        strange = (~training.masks()["2.weight"]).nonzero()[0]
        model[2].weight[tuple(strange)] = 3.0
    with pytest.raises(InputError, match=r"1 weights of 2\.weight are nonzero"):
        train(model, optimizer, [every])
    assert model[2].weight[tuple(strange)] == 3.0


def test_the_error_states_how_many_foreign_weights_there_are_and_where():
    _, _, training, best, *_ = restored()
    strange = {name: int((best[name] != 0)[~training.masks()[name]].sum()) for name in NAMES}
    with pytest.raises(InputError) as refused:
        training.squash()
    for word in (str(sum(strange.values())), *(name for name, count in strange.items() if count)):
        assert word in str(refused.value)


@pytest.mark.parametrize("use", ["squash", "values"])
def test_writes_through_data_are_found_when_weights_are_read_or_saved(use):
    model, optimizer, training = started()
    train(model, optimizer, range(3))
    model[2].weight.data.fill_(0.5)
    with pytest.raises(InputError, match="not active"):
        uses(model, optimizer, training)[use]()


@pytest.mark.parametrize("make", [sgd, lambda model: torch.optim.AdamW(model.parameters())], ids=["sgd", "adamw"])
def test_writes_through_data_are_not_zeroed_by_a_step(make):
    model, optimizer, training = started(make=make)
    train(model, optimizer, range(3))
    for name in NAMES:
        model.get_parameter(name).data.fill_(0.5)
    with pytest.raises(InputError, match="not active"):
        train(model, optimizer, [3])
    assert all(bool((model.get_parameter(name) == 0.5).all()) for name in NAMES)
    training.mask_(model)
    train(model, optimizer, range(3, 6))


def test_loading_weights_before_the_first_update_raises_nothing():
    model, optimizer, training = started(strategy="set")
    best = copy.deepcopy(model.state_dict())
    train(model, optimizer, [0])
    positions = training.topology.positions
    model.load_state_dict(best)
    train(model, optimizer, [0])
    training.adopt()
    assert training.step == 2
    assert len(training.topology.positions) == len(positions)


@pytest.mark.parametrize("storage", ["masked", "compact"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_loading_an_earlier_state_in_any_order_is_exact(order, storage):
    parts = started(storage=storage, make=lambda model: torch.optim.Adam(model.parameters(), lr=0.05))
    train(*parts[:2], range(5))
    saved = copy.deepcopy([part.state_dict() for part in parts])
    train(*parts[:2], range(5, 11))
    expected = export.squashed_copy(parts[2]).state_dict()
    for part in order:
        parts[part].load_state_dict(saved[part])
    train(*parts[:2], range(5, 11))
    ended = export.squashed_copy(parts[2]).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in ended.items())


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_loading_only_the_training_state_is_refused_at_the_next_step(storage):
    model, optimizer, training = started(storage=storage)
    train(model, optimizer, range(5))
    saved = training.state_dict()
    train(model, optimizer, range(5, 11))
    training.load_state_dict(saved)
    with pytest.raises(InputError, match=r"load_state_dict\("):
        train(model, optimizer, [11])
    with pytest.raises(InputError):
        training.values()


@pytest.mark.parametrize("order", [(0, 2), (2, 0)], ids=["model first", "training first"])
def test_without_optimizer_state_momentum_is_carried_by_position_in_both_storages(order):
    ended = []
    for storage in ("masked", "compact"):
        parts = started(storage=storage)
        train(*parts[:2], range(5))
        saved = copy.deepcopy([part.state_dict() for part in parts])
        train(*parts[:2], range(5, 11))
        for part in order:
            parts[part].load_state_dict(saved[part])
        train(*parts[:2], range(5, 8))
        ended.append(export.squashed_copy(parts[2]).state_dict())
    masked, compact = ended
    assert all(torch.equal(value, masked[name]) for name, value in compact.items())
