"""Loading weights from another step: adopted with their topology or refused, never silently zeroed."""

import copy
import itertools
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from sparsify_examples import (
    assert_inactive_is_zero,
    everything,
    loss_at,
    mlp,
    often,
    sgd,
    states_of,
    train,
)
from torch import nn

from sparsecore.engine.schedules import Every
from sparsecore.errors import InputError
from sparsecore_strategies.deepr import DeepRewiring
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.set import SparseEvolution
from sparsecore_strategies.srigl import StructuredRigL
from sparsecore_torch import sparsify
from sparsecore_torch.sparse_training import export

NAMES = ("0.weight", "2.weight")
USES = ("step", "values", "squash", "to_csr", "squashed_copy", "check", "follow")
STRATEGIES = {
    "dpr": often,
    "set": lambda: SparseEvolution(schedule=Every(steps=2)),
    "rigl": lambda: RigL(schedule=Every(steps=3)),
}


def started(storage="masked", strategy="dpr", make=sgd, **options):
    model = mlp()
    optimizer = make(model)
    given = STRATEGIES[strategy]() if isinstance(strategy, str) else strategy
    settings = {"sparsity": 0.75, "seed": 7, "total_steps": 1000, **options}
    return model, optimizer, sparsify(model, optimizer, strategy=given, storage=storage, **settings)


def restored(**options):
    """A model that has loaded the weights of an earlier moment, from before some of them moved."""
    parts = started(**options)
    train(*parts[:2], range(5))
    best, loss = copy.deepcopy(parts[0].state_dict()), loss_at(parts[0], 0).item()
    topology = parts[2].topology
    train(*parts[:2], range(5, 11))
    assert parts[2].topology.sha256() != topology.sha256()
    parts[0].load_state_dict(best)
    return *parts, best, loss, topology


def nonzero(state):
    return {name: state[name] != 0 for name in NAMES}


# with masks


def uses(model, optimizer, training):
    def step():
        loss_at(model, 1).backward()
        optimizer.step()

    return {
        "step": step,
        "values": training.values,
        "squash": training.squash,
        "to_csr": lambda: export.to_csr(training),
        "squashed_copy": lambda: export.squashed_copy(training),
        "check": training.check,
        "follow": lambda: training.follow(sgd(model)),
    }


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


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kernels", ["dense", "sparse"])
def test_adopted_weights_are_the_loaded_ones_and_train_on(strategy, kernels):
    if kernels == "sparse":
        pytest.importorskip("sparsecore_cpu")
    model, optimizer, training, best, loss, _ = restored(strategy=strategy, kernels=kernels)
    size = training.topology.size
    training.adopt()
    assert loss_at(model, 0).item() == pytest.approx(loss, rel=1e-5)
    assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())
    assert training.topology.size == size
    masks, matrices, plain = training.masks(), export.to_csr(training), export.squashed_copy(training).state_dict()
    values = training.values()
    for name, weights in nonzero(best).items():
        assert not (weights & ~masks[name]).any()
        assert torch.equal(plain[name], best[name])
        assert torch.equal(matrices[name].to_dense(), best[name])
        assert torch.equal(values[training.topology.slots(name)], best[name][masks[name]])
    assert_inactive_is_zero(model, optimizer, training)
    train(model, optimizer, range(11, 16))
    assert training.topology.size == size
    assert_inactive_is_zero(model, optimizer, training)
    training.squash()
    assert sum(int(model.state_dict()[name].count_nonzero()) for name in NAMES) <= size


def test_active_zero_weights_fill_up_missing_positions():
    _, _, training, best, _, topology = restored(strategy="set")
    before = training.masks()
    counts = training.topology.counts.tolist()
    training.adopt()
    assert training.topology.counts.tolist() == counts == topology.counts.tolist()
    for name, weights in nonzero(best).items():
        added = training.masks()[name] & ~weights
        assert not (added & ~before[name]).any()  # they have been active up to now


def test_optimizer_state_is_carried_by_position():
    model, optimizer, training, *_ = restored()
    before = {name: states_of(optimizer, p)["momentum_buffer"].clone() for name, p in model.named_parameters()}
    training.adopt()
    for name in NAMES:
        now = states_of(optimizer, model.get_parameter(name))["momentum_buffer"]
        assert torch.equal(now, before[name] * training.masks()[name])


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


def test_too_many_nonzero_weights_are_refused_with_both_numbers():
    model, optimizer, training = started()
    train(model, optimizer, range(3))
    topology = training.topology
    nn.init.normal_(model[2].weight)
    many = int(sum(model.get_parameter(name).count_nonzero() for name in NAMES))
    with pytest.raises(InputError, match=f"{many} nonzero weights.* {topology.size} ") as refused:
        training.adopt()
    assert "mask_" in str(refused.value)
    assert training.topology is topology
    training.mask_(model)
    train(model, optimizer, range(3))
    assert_inactive_is_zero(model, optimizer, training)


def test_a_strategy_that_remembers_each_weight_needs_its_state_dict():
    model, optimizer, training = started(strategy=DeepRewiring(l1=1e-2, temperature=1e-3))
    train(model, optimizer, range(5))
    saved = copy.deepcopy([one.state_dict() for one in (model, training)])
    train(model, optimizer, range(5, 15))
    assert training.topology.sha256() != topology_of(saved[1], training).sha256()
    model.load_state_dict(saved[0])
    with pytest.raises(InputError, match="DeepRewiring remembers something of each weight"):
        training.adopt()
    training.load_state_dict(saved[1])
    train(model, optimizer, range(5))


def topology_of(saved, training):
    return training.topology.at(saved["positions"])


@pytest.mark.filterwarnings("ignore::sparsecore.errors.SparsityWarning")
@pytest.mark.parametrize("group", [None, 3])
def test_adopted_groups_keep_their_number_of_weights(group):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3))
    optimizer = sgd(model)
    strategy = StructuredRigL(group=group, schedule=Every(steps=2), drop_fraction=0.5)
    training = sparsify(model, optimizer, strategy=strategy, sparsity=0.6, total_steps=100, seed=1)
    train(model, optimizer, range(4))
    best = copy.deepcopy(model.state_dict())
    with torch.no_grad():  # some of the best weights happen to be zero
        active = best["2.weight"].nonzero()
        best["2.weight"][tuple(active[::4].T)] = 0.0

    def numbers():
        return {name: mask.reshape(-1, group or mask.shape[1]).sum(1) for name, mask in training.masks().items()}

    expected = numbers()
    train(model, optimizer, range(4, 10))
    model.load_state_dict(best)
    training.adopt()
    for name, counts in numbers().items():
        assert torch.equal(counts, expected[name])


def test_units_are_adopted_whole():
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=often(), sparsity=0.5, units="2x2", seed=3)
    train(model, optimizer, range(4))
    best = copy.deepcopy(model.state_dict())
    train(model, optimizer, range(4, 10))
    model.load_state_dict(best)
    with torch.no_grad():
        row, column = model[2].weight.nonzero()[0]
        model[2].weight[row, column] = 0.0  # a unit is there as long as one of its weights is
    training.adopt()
    mask = training.masks()["2.weight"].reshape(5, 2, 6, 2).transpose(1, 2).reshape(-1, 4).sum(1)
    assert set(mask.tolist()) == {0, 4}
    assert training.masks()["2.weight"][row, column]
    train(model, optimizer, range(4, 8))


def test_a_checkpoint_without_a_training_state_can_be_adopted_by_a_new_training():
    model, optimizer, training = started()
    train(model, optimizer, range(6))
    plain = export.squashed_copy(training).state_dict()
    fresh, other, again = started()
    fresh.load_state_dict(plain)
    again.adopt()
    train(fresh, other, [6])
    assert again.topology.size == training.topology.size


# all three, in any order


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


# compact storage


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


def test_shares_are_never_more_than_wanted():
    from sparsecore_torch.sparse_training.state_dict import _shares

    generator = np.random.default_rng(0)
    for _ in range(50):
        wanted = generator.integers(-3, 6, 7)
        total = int(generator.integers(0, np.maximum(wanted, 0).sum() + 1))
        shares = _shares(wanted, total, generator)
        assert shares.sum() == total
        assert (shares <= np.maximum(wanted, 0)).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0.0, 1.0), rows=st.integers(1, 6), columns=st.integers(1, 7))
def test_adopted_weights_are_as_many_as_before_and_none_is_left_out(seed, share, rows, columns):
    from sparsecore.engine.engine import Engine
    from sparsecore.engine.topology import Layout
    from sparsecore_strategies.static import Static
    from sparsecore_torch.arrays import TorchArrays
    from sparsecore_torch.sparse_training.state_dict import adopted

    layout = Layout.of({"a": (rows, columns), "b": (3, 4), "c": (2, 2, 3)})
    engine = Engine(layout, [Static()], arrays=TorchArrays(torch.device("cpu")), seed=seed)
    state = engine.start(0.5)
    generator = np.random.default_rng(seed)
    nonzero = np.sort(generator.permutation(layout.size)[: int(share * state.topology.size)])
    after = adopted(engine, state, torch.from_numpy(nonzero)).topology
    positions, before = set(after.positions.tolist()), set(state.topology.positions.tolist())
    assert after.size == len(positions) == len(before)
    assert set(nonzero.tolist()) <= positions <= before | set(nonzero.tolist())
    loaded = [int(((nonzero >= first) & (nonzero < last)).sum()) for first, last in pairwise(layout.offsets)]
    if all(mine <= whole for mine, whole in zip(loaded, state.topology.counts, strict=True)):
        assert after.counts.tolist() == state.topology.counts.tolist()
