"""What compact storage cannot train is refused with a sentence, and the model stays as it was."""

import copy

import pytest

torch = pytest.importorskip("torch")

from compact_examples import Mlp, started, train
from torch import nn
from torch.nn.utils import prune

from sparsecore.errors import InputError
from sparsecore_torch import sparsify
from sparsecore_torch.sparse_training.export import squashed_copy


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.memory = nn.LSTM(4, 3)


def bounded():
    return nn.Sequential(nn.Embedding(5, 4, max_norm=1.0), nn.Linear(4, 3))


def clashing():
    model = Mlp()
    model.sparse_values = None
    return model


def mixed():
    model = Mlp()
    model[2].to(torch.float64)
    return model


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def in_two_groups(model):
    first, *rest = (list(layer.parameters()) for layer in (model[0], model[2], model[4]))
    return torch.optim.SGD([{"params": first}, {"params": [*rest[0], *rest[1]]}], lr=0.1)


def adafactor(model):
    return torch.optim.Adafactor(model.parameters())


def with_state(key, content):
    def make(model):
        trains = torch.optim.Adam(model.parameters())
        train(model, trains, 1)
        trains.state[model[2].weight][key] = content
        return trains

    return make


REFUSED = {
    "recurrent layers": (
        Recurrent,
        sgd,
        "memory.weight_ih_l0 cannot be stored compactly: LSTM hands .*storage='masked'",
    ),
    "max_norm": (
        bounded,
        sgd,
        "0.weight cannot be .*: Embedding with max_norm writes into its weight.*exclude='0.weight'",
    ),
    "a name that is taken": (clashing, sgd, "has an attribute 'sparse_values' already"),
    "two dtypes": (mixed, sgd, "of one dtype; 4.weight is float32, 2.weight is float64"),
    "two groups": (Mlp, in_two_groups, r"they are in 2 \(group 0: 0.weight; group 1: 2.weight, 4.weight\)"),
    "an optimizer that goes by shapes": (Mlp, adafactor, "Adafactor"),
    "state of another shape": (Mlp, with_state("rows", torch.zeros(16)), r"'rows' of 2.weight has the shape \(16,\)"),
    "unequal steps": (Mlp, with_state("step", torch.tensor(5.0)), "'step' is 1.0 for 0.weight and 5.0 for 2.weight"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_cannot_be_stored_compactly_are_refused_and_nothing_changes(case):
    make, optimizer, sentence = REFUSED[case]
    model = make()
    trains = optimizer(model)
    parameters = list(model.named_parameters())
    state = copy.deepcopy(trains.state_dict())
    with pytest.raises(InputError, match=sentence):
        sparsify(model, trains, strategy="static", include="*weight*", storage="compact")
    after = list(model.named_parameters())
    assert [name for name, _ in after] == [name for name, _ in parameters]
    assert all(one is other for (_, one), (_, other) in zip(after, parameters, strict=True))
    torch.testing.assert_close(trains.state_dict(), state, rtol=0, atol=0)
    assert not model._forward_hooks


def test_parameters_that_a_wrapper_holds_are_not_replaced(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = Mlp()
        wrapped = nn.parallel.DistributedDataParallel(model)
        with pytest.raises(InputError, match="call sparsify first, and wrap the model then"):
            sparsify(wrapped, sgd(model), strategy="static", include="*weight", storage="compact")
        assert isinstance(model[0].weight, nn.Parameter)
    finally:
        torch.distributed.destroy_process_group()


def test_a_model_that_is_saved_whole_is_refused(tmp_path):
    model, _, training = started(Mlp, "compact")
    with pytest.raises(InputError, match="cannot be pickled: save the state dicts"):
        torch.save(model, tmp_path / "model.pt")
    torch.save(squashed_copy(training), tmp_path / "model.pt")


def test_a_model_on_another_device_than_its_positions_is_refused():
    model = Mlp()
    sparsify(model, sgd(model), strategy="static", include="*weight", storage="compact")
    with pytest.raises(InputError, match="has moved from cpu to meta since sparsify was called"):
        model.to("meta")(torch.randn(2, 6, device="meta"))


def test_with_several_processes_the_number_of_weights_must_be_fixed(monkeypatch):
    model, trains, training = started(Mlp, "compact", strategy="gradually")
    monkeypatch.setattr("sparsecore_torch.sparse_training.storage.compact.world_size", lambda: 2)
    before = training.topology
    with pytest.raises(InputError, match=f"from {before.size} to .*take storage='masked'"):
        train(model, trains, 5)
    assert len(model.sparse_values) == before.size


def test_sparsifying_twice_is_refused():
    model = Mlp()
    trains = sgd(model)
    sparsify(model, trains, strategy="static", storage="compact")
    for storage in ("compact", "masked"):
        with pytest.raises(InputError, match=r"0.weight, 2.weight are in sparse training already"):
            sparsify(model, trains, strategy="static", storage=storage)


def test_after_squash_the_model_can_be_made_sparse_again():
    model = Mlp()
    trains = sgd(model)
    for storage in ("compact", "masked", "compact"):
        training = sparsify(model, trains, strategy="static", include="*weight", sparsity=0.5, storage=storage)
        train(model, trains, 2)
        training.squash()
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in Mlp().named_parameters()]


def by_initializing(model):
    nn.init.ones_(model[2].weight)


def by_arithmetic(model):
    with torch.no_grad():
        model[2].weight.mul_(2)


def by_weights_that_were_kept(model):
    weights = [model[2].weight, model[0].weight]
    with torch.no_grad():
        weights[0][0, 0] = 1.0


def in_a_forward_pass(model, _):
    model(torch.ones(2, model[0].in_features))


def by_reading_another_weight(model, _):
    return model[0].weight


def by_a_copy(_, training):
    squashed_copy(training)


def by_squash(_, training):
    training.squash()


@pytest.mark.parametrize("write", [by_initializing, by_arithmetic, by_weights_that_were_kept])
@pytest.mark.parametrize("use", [in_a_forward_pass, by_reading_another_weight, by_a_copy, by_squash])
def test_a_write_to_a_weight_that_compact_storage_loses_is_refused_at_the_next_use(write, use):
    model = Mlp()
    training = sparsify(model, sgd(model), strategy="static", sparsity=0.5, storage="compact")
    write(model)
    with pytest.raises(InputError, match=r"2\.weight has been written to, as functions of nn\.init do.*sparse_values"):
        use(model, training)
    assert model(torch.ones(2, model[0].in_features)).isfinite().all()


def test_a_write_is_refused_while_the_weight_is_kept():
    model = Mlp()
    sparsify(model, sgd(model), strategy="static", sparsity=0.5, storage="compact")
    weight = nn.init.zeros_(model[2].weight)
    with pytest.raises(InputError, match="written to"):
        model(torch.ones(2, model[0].in_features))
    assert not weight.any()


def test_weights_that_are_only_read_are_no_writes():
    model = Mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy="static", sparsity=0.5, storage="compact")
    for _ in range(2):
        loss = model(torch.ones(2, model[0].in_features)).square().mean() + model[2].weight.abs().sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model[0].weight.clone().zero_()
    squashed_copy(training)


def test_values_of_a_tensor_without_inactive_weights_are_written_to_as_they_are():
    model = Mlp()
    sparsify(model, sgd(model), strategy="static", sparsity=0.0, storage="compact")
    nn.init.ones_(model[2].weight)
    assert (model[2].weight == 1).all()
    model(torch.ones(2, model[0].in_features))


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_weight_in_compact_storage_takes_no_mask_of_pruning(name):
    model = Mlp()
    sparsify(model, sgd(model), strategy="static", sparsity=0.5, storage="compact")
    if name == "weight":
        with pytest.raises(InputError, match="the weight of this Linear is in compact storage"):
            prune.l1_unstructured(model[2], name, 0.5)
    else:
        prune.l1_unstructured(model[2], name, 0.5)
    model(torch.ones(2, model[0].in_features))


def test_an_optimizer_that_makes_weights_of_16_bits_infinite_is_refused():
    model = Mlp().half()
    with pytest.raises(InputError, match=r"AdamW makes weights of 0\.weight that are not finite.*in float16: an eps"):
        sparsify(model, torch.optim.AdamW(model.parameters()), strategy="static", sparsity=0.5, storage="compact")
    optimizer = torch.optim.AdamW(model.parameters(), eps=1e-7)
    sparsify(model, optimizer, strategy="static", sparsity=0.5, storage="compact")
    model(torch.ones(2, model[0].in_features, dtype=torch.float16)).sum().backward()
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
