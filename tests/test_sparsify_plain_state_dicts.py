"""State dicts of a plain model and its optimizer from any storage, which resume a training bit for bit."""

import copy
import io

import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import mlp, often, train

from sparsecore_torch import export, sparsify

STORAGES = ["masked", "compact"]


def adam(model):
    """Two groups, of which the second has the sparse tensors between dense ones."""
    first, *others = model.parameters()
    return torch.optim.AdamW([{"params": [first], "lr": 0.02}, {"params": others}], lr=0.05)


def started(storage, start="random", model=None, optimizer=None):
    model = model or mlp()
    optimizer = optimizer or adam(model)
    chosen = {"strategy": often(every=3), "sparsity": 0.75, "include": ["2.weight", "4.weight"], "storage": storage}
    return model, optimizer, sparsify(model, optimizer, start=start, **chosen)


def through_file(parts):
    file = io.BytesIO()
    torch.save([part.state_dict() for part in parts], file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("storage", STORAGES)
def test_plain_state_dicts_are_those_of_the_squashed_model_and_optimizer(storage):
    parts = started(storage)
    parts[2].keep_state_dicts_plain()
    train(*parts[:2], range(5))
    model, optimizer, _ = through_file(parts)
    parts[2].squash()
    assert set(model) == set(parts[0].state_dict())
    assert all(torch.equal(model[name], tensor) for name, tensor in parts[0].state_dict().items())
    squashed = parts[1].state_dict()
    assert optimizer["param_groups"] == squashed["param_groups"]
    assert optimizer["state"].keys() == squashed["state"].keys()
    for number, content in squashed["state"].items():
        assert content.keys() == optimizer["state"][number].keys()
        assert all(torch.equal(tensor, optimizer["state"][number][key]) for key, tensor in content.items())


@pytest.mark.parametrize(("storage", "other"), [("masked", "masked"), ("compact", "compact"), ("masked", "compact")])
def test_a_plain_model_and_its_optimizer_that_have_loaded_them_continue_bit_for_bit(storage, other):
    parts = started(storage)
    parts[2].keep_state_dicts_plain()
    train(*parts[:2], range(5))
    saved = through_file(parts)
    model = mlp(1)
    optimizer = adam(model)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    resumed = started(other, saved[2], model, optimizer)
    for one in (parts, resumed):
        train(*one[:2], range(5, 11))
        one[2].squash()
    assert all(torch.equal(mine, its) for mine, its in zip(parts[0].parameters(), model.parameters(), strict=True))
    ours, theirs = parts[1].state_dict()["state"], optimizer.state_dict()["state"]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[number][key], its) for number in theirs for key, its in theirs[number].items())


def test_copies_of_a_model_with_plain_state_dicts_have_their_own_and_can_be_saved_whole():
    model, optimizer, training = started("compact")
    training.keep_state_dicts_plain()
    copied, plain = copy.deepcopy(model), export.squashed_copy(training)
    before = copied.state_dict()["2.weight"].clone()
    train(model, optimizer, range(3))
    assert torch.equal(copied.state_dict()["2.weight"], before)
    assert not torch.equal(model.state_dict()["2.weight"], before)
    torch.save(plain, io.BytesIO())
    assert torch.equal(plain.state_dict()["2.weight"], before)


def test_an_ended_training_leaves_no_hooks_behind():
    model, optimizer, training = started("compact")
    training.keep_state_dicts_plain()
    training.squash()
    assert not model._state_dict_hooks
    assert not optimizer._optimizer_state_dict_post_hooks
