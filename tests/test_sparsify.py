"""``sparsify`` is sparse training: exact zeros, a fixed number of weights, survivors as they were; as spelled out."""

import copy

import pytest

torch = pytest.importorskip("torch")

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsify_examples import (
    FRESH,
    Oracle,
    assert_inactive_is_zero,
    convnet,
    loss_at,
    mlp,
    often,
    sgd,
    sparse_parameters,
    states_of,
    train,
)
from torch import nn

from sparsecore.engine.schedules import Every
from sparsecore_strategies.deepr import DeepRewiring
from sparsecore_strategies.set import SparseEvolution
from sparsecore_torch import sparsify

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "nesterov, foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, foreach=True),
    "sgd, fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05, amsgrad=True),
    "adam, foreach": lambda p: torch.optim.Adam(p, lr=0.05, foreach=True),
    "adam, fused": lambda p: torch.optim.Adam(p, lr=0.05, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.05),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.05),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.05),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
    "adadelta": torch.optim.Adadelta,
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.05),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.05),
}
STRATEGIES = {
    "dpr": lambda: often("30%"),
    "set": lambda: SparseEvolution(schedule=Every(steps=2)),
    "deepr": lambda: DeepRewiring(l1=1e-2, temperature=1e-4),
}
SHAPES = {"mlp": (6,), "convnet": (2, 5, 5)}
MODELS = {"mlp": mlp, "convnet": convnet}


@settings(max_examples=20)
@given(
    model=st.sampled_from(sorted(MODELS)),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    strategy=st.sampled_from(sorted(STRATEGIES)),
    sparsity=st.sampled_from([0.5, 0.75, 0.9]),
    seed=st.integers(0, 99),
    regrow_pruned=st.sampled_from([False, True, "keep"]),
)
def test_training_equals_a_loop_with_explicit_masks(model, optimizer, strategy, sparsity, seed, regrow_pruned):
    ours, theirs = MODELS[model](seed), MODELS[model](seed)
    ours_optimizer, theirs_optimizer = (OPTIMIZERS[optimizer](net.parameters()) for net in (ours, theirs))
    options = {"sparsity": sparsity, "seed": seed, "regrow_pruned": regrow_pruned}
    training = sparsify(ours, ours_optimizer, strategy=STRATEGIES[strategy](), **options)
    names = training.topology.layout.names
    oracle = Oracle(theirs, theirs_optimizer, names, [STRATEGIES[strategy]()], **options)
    for step in range(6):
        train(ours, ours_optimizer, [step], shape=SHAPES[model])
        oracle.step(lambda step=step: loss_at(theirs, step, SHAPES[model]))
        assert np.array_equal(training.topology.positions.numpy(), oracle.state.topology.positions)
        for name, parameter in ours.named_parameters():
            other = dict(theirs.named_parameters())[name]
            assert torch.equal(parameter, other), name
            for mine, its in zip(
                states_of(ours_optimizer, parameter).values(), states_of(theirs_optimizer, other).values(), strict=True
            ):
                assert torch.equal(mine, its), name
    assert training.updates == oracle.state.clock.updates > 0


@settings(max_examples=20)
@given(data=st.data())
def test_the_number_of_weights_is_fixed_and_survivors_keep_value_and_state(data):
    sides = data.draw(st.lists(st.integers(3, 12), min_size=2, max_size=4))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    layers = [nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in zip([6, *sides], [*sides, 3], strict=True)]
    model = nn.Sequential(*layers)
    optimizer = OPTIMIZERS[data.draw(st.sampled_from(sorted(OPTIMIZERS)))](model.parameters())
    training = sparsify(
        model, optimizer, strategy=often(every=3), sparsity=data.draw(st.just(0.0) | st.floats(0.6, 0.9))
    )
    size = training.topology.size
    for step in range(1, 7):
        if step % 3 == 0:  # what a step without an update would have led to
            plain, plain_optimizer = _without_update(model, optimizer)
            train(plain, plain_optimizer, [step])
        before = training.masks()
        train(model, optimizer, [step])
        assert training.topology.size == size
        assert_inactive_is_zero(model, optimizer, training)
        if step % 3 == 0:
            after = training.masks()
            for name, parameter in sparse_parameters(model, training).items():
                stays, grew = before[name] & after[name], after[name] & ~before[name]
                expected = dict(plain.named_parameters())[name]
                assert torch.equal(parameter[stays], expected[stays])
                assert not parameter[grew].any()
                for key, state in states_of(optimizer, parameter).items():
                    assert torch.equal(state[stays], states_of(plain_optimizer, expected)[key][stays])
                    assert (state[grew] == torch.tensor(FRESH.get(key, 0.0))).all()


def _without_update(model, optimizer):
    """Copies that train by multiplied masks and never move a weight."""
    plain = copy.deepcopy(model)
    plain_optimizer = copy.deepcopy(optimizer)
    for group, own in zip(plain_optimizer.param_groups, [list(plain.parameters())], strict=True):
        states = [plain_optimizer.state.pop(parameter, {}) for parameter in group["params"]]
        group["params"] = own
        plain_optimizer.state.update({p: state for p, state in zip(own, states, strict=True) if state})
    for parameter in plain.parameters():
        if parameter.ndim > 1:
            mask = (parameter != 0).detach()
            parameter.register_hook(lambda gradient, mask=mask: gradient * mask)
    return plain, plain_optimizer


@pytest.mark.parametrize("name", ["dpr", "set", "deepr", "static"])
def test_one_call_makes_a_model_sparse(name):
    model = mlp()
    optimizer = sgd(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    training = sparsify(model, optimizer, strategy=name, sparsity=0.8)
    assert list(model.state_dict()) == list(before)
    assert all(type(parameter) is nn.Parameter for parameter in model.parameters())
    for tensor, mask in training.masks().items():
        signs = [-1, 1] if name == "deepr" else [1]  # DeepR gives a connection the sign that it has for good
        kept = model.state_dict()[tensor]
        assert not kept[~mask].any()
        assert all(any(x == y * sign for sign in signs) for x, y in zip(kept[mask], before[tensor][mask], strict=True))
    train(model, optimizer, range(105))
    assert_inactive_is_zero(model, optimizer, training)
    assert training.step == 105
    assert training.updates == {"static": 0, "deepr": 105}.get(name, 1)


def test_dpr_by_name_ends_its_updates_when_the_end_is_known():
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, total_steps=104)
    train(model, optimizer, range(104))  # 0.95 · 104 < 100
    assert training.updates == 0


def test_a_stack_is_bottom_first():

    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=["set", often(every=5)], sparsity=0.5, steps_per_epoch=1)
    train(model, optimizer, range(9))
    assert training.updates == 1  # DPR's schedule, not SET's


def test_sparsity_is_the_requested_one():
    model = mlp()
    training = sparsify(model, sgd(model), sparsity=0.75)
    assert training.sparsity == 0.75
    assert [int(mask.sum()) for mask in training.masks().values()] == [72 // 4, 120 // 4]


def test_state_of_an_optimizer_that_has_stepped_before_is_masked_too():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, range(3))
    loss_at(model, 3).backward()
    training = sparsify(model, optimizer, sparsity=0.9)
    assert_inactive_is_zero(model, optimizer, training)
    assert not model[0].weight.grad[~training.masks()["0.weight"]].any()
    assert states_of(optimizer, model[0].weight)["exp_avg"].any()


def test_tensors_of_several_dtypes_train_together():
    model = nn.ModuleDict(
        {"wide": nn.Linear(6, 8).double(), "narrow": nn.Linear(8, 8).bfloat16(), "end": nn.Linear(8, 3)}
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    training = sparsify(model, optimizer, strategy=often(), sparsity=0.5)
    before = {name: p.detach().clone() for name, p in sparse_parameters(model, training).items()}
    for step in range(6):
        optimizer.zero_grad()
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        hidden = model["narrow"](model["wide"](x.double()).relu().bfloat16()).relu()
        model["end"](hidden.float()).square().sum().backward()
        optimizer.step()
        assert_inactive_is_zero(model, optimizer, training)
    assert training.updates == 3
    assert training.values().dtype == torch.float64
    assert all(not torch.equal(before[name], p) for name, p in sparse_parameters(model, training).items())


@pytest.mark.filterwarnings("ignore::sparsecore.errors.LostWeightsWarning")  # positions are drawn anew on purpose
def test_squash_returns_a_plain_dense_model():
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=often(), sparsity=0.8)
    train(model, optimizer, range(4))
    zeros = {name: ~mask for name, mask in training.masks().items()}
    training.squash()
    training.squash()  # once more does no harm
    assert all(not p._backward_hooks for p in model.parameters())
    assert not any(value for key, value in vars(optimizer).items() if "hook" in key)
    assert all(not model.state_dict()[name][zero].any() for name, zero in zeros.items())
    train(model, optimizer, [5])
    assert all(model.state_dict()[name][zero].any() for name, zero in zeros.items())
    again = sparsify(model, optimizer, sparsity=0.5)
    assert again.sparsity == 0.5


@pytest.mark.parametrize(
    "use",
    [
        lambda training: training.summary(),
        lambda training: training.state_dict(),
        lambda training: training.load_state_dict({}),
        lambda training: training.topology,
        lambda training: training.sparsity,
        lambda training: training.step,
        lambda training: training.values(),
        lambda training: training.masks(),
        lambda training: training.memory(),
        lambda training: training.model,
    ],
)
def test_after_squash_every_call_says_that_the_training_has_ended(use):
    model = mlp()
    training = sparsify(model, sgd(model))
    training.squash()
    with pytest.raises(ValueError, match="has ended with squash"):
        use(training)


def test_the_ledger_counts_bytes():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    training = sparsify(model, optimizer, strategy="static", sparsity=0.75)
    train(model, optimizer, range(2))
    parameters, masked, weights = 72 + 12 + 120 + 10 + 30 + 3, 72 + 120, 18 + 30
    ledger = training.memory()
    assert ledger.values.theoretical == ledger.values.measured == 4 * parameters
    assert ledger.gradients.theoretical == ledger.gradients.measured == 4 * parameters
    assert ledger.indices.theoretical == ledger.indices.measured == masked + 4 * weights
    assert ledger.optimizer_state.theoretical == ledger.optimizer_state.measured == 2 * 4 * parameters + 6 * 4
    optimizer.zero_grad()
    assert training.memory().gradients.measured == 0


def test_the_repr_of_a_training_and_of_its_memory_is_one_line():
    model = nn.Sequential(nn.Linear(20, 100), nn.ReLU(), nn.Linear(100, 4))
    training = sparsify(model, torch.optim.SGD(model.parameters(), lr=0.1), sparsity=0.9)
    assert repr(training) == "<SparseTraining at step 0, 0 updates, sparsity 0.9000>"
    assert str(training.memory()).startswith("12.")
    assert "values 10.0 kB, indices 2.8 kB" in str(training.memory())
    assert repr(training.summary()) == str(training.summary())
    training.squash()
    assert repr(training) == "<SparseTraining, ended>"
