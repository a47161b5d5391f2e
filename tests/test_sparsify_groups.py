"""Sparsity and strategy by group: each group starts and goes on as if it were trained alone."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import assert_inactive_is_zero, often
from torch import nn

from sparsecore.errors import InputError
from sparsecore.strategy import Every
from sparsecore_strategies.erk_start import ErkStart
from sparsecore_strategies.gmp import GradualPruning
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.set import SparseEvolution
from sparsecore_strategies.static import Static
from sparsecore_torch import sparsify

STORAGES = ["masked", "compact"]


class TwoTowers(nn.Module):
    """Two networks that share nothing, and a head of each."""

    def __init__(self, parts=("encoder", "decoder")):
        super().__init__()
        for seed, part in enumerate(("encoder", "decoder")):
            torch.manual_seed(seed)
            tower = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 3))
            if part in parts:
                self.add_module(part, tower)

    def forward(self, images):
        return sum(tower(images).square().mean() for tower in self.children())


def adam(model):
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def train(model, optimizer, steps):
    for step in steps:
        images = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(images).backward()
        optimizer.step()


def densities(training):
    topology = training.topology
    columns = zip(topology.layout.names, topology.counts, topology.layout.sizes, strict=True)
    return {name: int(count) / size for name, count, size in columns}


def set_(**options):
    return SparseEvolution(schedule=Every(steps=3), **options)


def test_each_group_starts_at_its_sparsity_and_the_last_entry_that_matches_applies():
    model = TwoTowers()
    training = sparsify(model, adam(model), sparsity={"encoder.*": 0.75, "decoder.*": 0.5, "decoder.2.weight": 0.9})
    assert densities(training) == {
        "encoder.0.weight": 18 / 72,
        "encoder.2.weight": 30 / 120,
        "encoder.4.weight": 7 / 30,
        "decoder.0.weight": 36 / 72,
        "decoder.2.weight": 12 / 120,
    }


def test_the_strategies_distribution_is_within_each_group():
    model = TwoTowers()
    training = sparsify(
        model, adam(model), strategy=["static", ErkStart()], sparsity={"encoder.*": 0.75, "decoder.*": 0.5}
    )
    share = densities(training)
    weights = {name: share[name] * size for name, size in zip(share, training.topology.layout.sizes, strict=True)}
    assert sum(n for name, n in weights.items() if "encoder" in name) == 18 + 30 + 7
    assert sum(n for name, n in weights.items() if "decoder" in name) == 36 + 60
    assert share["encoder.4.weight"] > share["encoder.0.weight"] > share["encoder.2.weight"]


def test_classes_choose_too_and_what_is_in_no_group_stays_dense():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(8, 20), nn.Linear(20, 3)
    )
    training = sparsify(model, adam(model), sparsity={nn.Conv2d: 0.8, "2.weight": 0.5})
    assert list(densities(training)) == ["1.weight", "2.weight"]
    assert training.summary().left_out["4.weight"] == "in no group of sparsity="
    assert training.summary().left_out["0.weight"] == "first convolution"


def test_a_group_of_nothing_but_dense_tensors_makes_them_sparse():
    model = TwoTowers()
    head = sparsify(model, adam(model), sparsity={"encoder.*": 0.5, "decoder.4.*": 0.8})
    assert densities(head)["decoder.4.weight"] == 6 / 30
    head.squash()
    # among other tensors of its entry, the head stays as dense as it is by default
    every = sparsify(model, adam(model), sparsity={"*": 0.5}, start="nonzero")
    assert "decoder.4.weight" not in densities(every)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsity": {"encodr.*": 0.5}}, ["encodr", "encoder.0.weight"]),
        ({"sparsity": {nn.Conv2d: 0.5}}, ["Conv2d", "Linear"]),
        ({"sparsity": {"decoder.4.bias": 0.5}}, ["decoder.4.bias", "bias"]),
        ({"sparsity": {"decoder.*": 0.5, "*": 0.9}}, ["'decoder.*'", "'*'", "decoder.0.weight", "last"]),
        ({"sparsity": {"*": 1.0}}, ["'*'", "1.0"]),
        ({"sparsity": {}}, ["sparsity", "empty"]),
        ({"sparsity": {"*": 0.5, "decoder.0.*": 0.5}, "exclude": "decoder.*"}, ["decoder.0.weight (excluded)"]),
        ({"sparsity": {"decoder.*": 0.5}, "include": "encoder.*"}, ["decoder.*", "not included"]),
        ({"strategy": {"encoder.*": "set"}}, ["strategy", "decoder.0.weight"]),
        ({"strategy": {"*": "set", "decoder.4.*": "dpr"}}, ["decoder.4.weight", "last linear layer"]),
        ({"strategy": {"*": "set", "encoder.*": "nosuch"}}, ["nosuch"]),
    ],
)
def test_entries_that_cannot_be_are_refused_and_nothing_has_changed(options, words):
    model = TwoTowers()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError) as error:
        sparsify(model, adam(model), **options)
    assert all(word in str(error.value) for word in words)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    sparsify(model, adam(model))


@pytest.mark.parametrize("storage", STORAGES)
def test_groups_train_as_two_models_that_are_trained_by_themselves(storage):
    strategies = {"encoder.*": set_(), "decoder.*": often(every=2)}
    sparsities = {"encoder.*": 0.6, "decoder.*": 0.8}
    both = TwoTowers()
    optimizer = adam(both)
    training = sparsify(both, optimizer, strategy=strategies, sparsity=sparsities, storage=storage, seed=3)
    train(both, optimizer, range(13))
    assert training.updates == len({2, 3, 4, 6, 8, 9, 10, 12})
    for part in ("encoder", "decoder"):
        alone = TwoTowers([part])
        own = adam(alone)
        include = "*" if part == "encoder" else ["decoder.0.weight", "decoder.2.weight"]
        single = sparsify(
            alone, own, strategy=strategies[f"{part}.*"], sparsity=sparsities[f"{part}.*"], include=include, seed=3
        )
        train(alone, own, range(13))
        masks = training.masks()
        for name, mask in single.masks().items():
            assert torch.equal(mask, masks[name])
            weight = both.get_submodule(name.removesuffix(".weight")).weight
            assert torch.equal(weight, alone.get_parameter(name))


@pytest.mark.parametrize("storage", STORAGES)
def test_an_update_that_replaces_a_step_replaces_it_for_all_groups(storage):
    model = TwoTowers()
    optimizer = adam(model)
    strategy = {"encoder.*": RigL(schedule=Every(steps=2)), "decoder.*": Static()}
    training = sparsify(model, optimizer, strategy=strategy, sparsity=0.5, total_steps=20, storage=storage)
    train(model, optimizer, range(1))
    before = model.decoder[0].weight.detach().clone(), training.masks()
    train(model, optimizer, range(1, 2))
    assert torch.equal(model.decoder[0].weight, before[0])
    assert torch.equal(training.masks()["decoder.0.weight"], before[1]["decoder.0.weight"])
    assert not torch.equal(training.masks()["encoder.2.weight"], before[1]["encoder.2.weight"])
    if storage == "masked":
        assert_inactive_is_zero(model, optimizer, training)


def test_gradual_pruning_ends_at_the_sparsity_of_each_group():
    model = TwoTowers()
    optimizer = adam(model)
    strategy = GradualPruning(schedule=Every(steps=2), begin=0.0, until=0.8)
    training = sparsify(
        model, optimizer, strategy=strategy, sparsity={"encoder.*": 0.9, "decoder.*": 0.5}, total_steps=20
    )
    assert training.sparsity == 0.0
    train(model, optimizer, range(20))
    weights = dict(zip(training.topology.layout.names, training.topology.counts, strict=True))
    assert sum(n for name, n in weights.items() if "encoder" in name) == 7 + 12 + 3
    assert sum(n for name, n in weights.items() if "decoder" in name) == 36 + 60
    assert "GradualPruning (encoder.*)" in str(training.summary())


@pytest.mark.parametrize("storage", STORAGES)
def test_a_run_of_groups_resumes_bit_for_bit_also_from_its_state_as_the_start(storage):
    def make(**options):
        model = TwoTowers()
        optimizer = adam(model)
        return (
            model,
            optimizer,
            {
                "strategy": {"encoder.*": set_(), "decoder.*": "deepr", "decoder.2.*": often(every=4)},
                "sparsity": {"encoder.*": 0.6, "decoder.*": 0.8},
                "storage": storage,
                **options,
            },
        )

    model, optimizer, options = make()
    training = sparsify(model, optimizer, **options)
    train(model, optimizer, range(7))
    saved = copy.deepcopy([one.state_dict() for one in (model, optimizer, training)])
    train(model, optimizer, range(7, 14))

    again, second, options = make(seed=0)
    resumed = sparsify(again, second, **options)
    for one, state in zip((again, second, resumed), saved, strict=True):
        one.load_state_dict(state)
    assert resumed.updates == saved[2]["clock"]["updates"]
    train(again, second, range(7, 14))
    assert np.array_equal(resumed.topology.positions, training.topology.positions)
    assert torch.equal(resumed.values(), training.values())

    for change in ({"strategy": {"*": set_()}}, {"sparsity": {"encoder.*": 0.6, "decoder.*": 0.7}}):
        other, third, options = make(**change)
        with pytest.raises(InputError, match="another training"):
            sparsify(other, third, **options).load_state_dict(saved[2])


def test_a_state_is_refused_where_the_same_strategies_are_stacked_in_other_groups():
    stacks = (
        {"encoder.*": [set_(), ErkStart()], "decoder.*": Static()},
        {"encoder.*": set_(), "decoder.*": [ErkStart(), Static()]},
    )
    one, other = (sparsify(model := TwoTowers(), adam(model), strategy=stack, sparsity=0.5) for stack in stacks)
    with pytest.raises(InputError, match="another training"):
        other.load_state_dict(one.state_dict())


def test_a_start_that_is_given_is_shared_out_to_the_groups():
    model = TwoTowers()
    optimizer = adam(model)
    strategy = {"encoder.*": set_(), "decoder.*": "static"}
    masks = {
        name: torch.rand(one.shape, generator=torch.Generator().manual_seed(1)) < 0.3
        for name, one in model.named_parameters()
        if name.endswith("weight") and name != "decoder.4.weight"
    }
    training = sparsify(model, optimizer, strategy=strategy, start=masks)
    assert all(torch.equal(mask, masks[name]) for name, mask in training.masks().items())
    training.squash()
    kept = sparsify(model, optimizer, strategy=strategy, start="nonzero")
    assert all(torch.equal(mask, masks[name]) for name, mask in kept.masks().items())


def test_the_largest_weights_are_chosen_within_each_sparsity():
    model = TwoTowers()
    dense = {name: one.detach().abs().flatten() for name, one in model.named_parameters()}
    sparsity = {"encoder.*": 0.75, "decoder.*": 0.5}
    training = sparsify(model, adam(model), start="magnitude", scope="network", sparsity=sparsity)
    for part, count in (("encoder", 18 + 30 + 7), ("decoder", 36 + 60)):
        names = [name for name in training.topology.layout.names if part in name]
        largest = torch.cat([dense[name] for name in names]).topk(count).values
        active = torch.cat([dense[name][training.masks()[name].flatten()] for name in names])
        assert torch.equal(active.sort().values, largest.sort().values)


def test_weights_are_adopted_within_their_groups():
    model = TwoTowers()
    optimizer = adam(model)
    training = sparsify(model, optimizer, strategy={"encoder.*": set_(), "decoder.*": often()}, sparsity=0.5)
    train(model, optimizer, range(1))
    best, masks = copy.deepcopy(model.state_dict()), training.masks()
    train(model, optimizer, range(1, 9))
    model.load_state_dict(best)
    training.adopt()
    assert all(torch.equal(mask, masks[name]) for name, mask in training.masks().items())
