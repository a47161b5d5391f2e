"""Gradients in usual loops: those of inactive positions, dense ones for strategies, and updates in place of steps."""

import copy
import math

import attrs
import pytest

torch = pytest.importorskip("torch")

import numpy as np
from sparsify_examples import (
    GrowByGradient,
    assert_inactive_is_zero,
    loss_at,
    mlp,
    often,
    sgd,
    sparse_parameters,
    states_of,
    step_in,
    train,
)
from torch import nn

from sparsecore.engine.hooks import hookimpl
from sparsecore.toolbox.ranking import largest_free
from sparsecore_torch import sparsify
from sparsecore_torch.sparse_training import export


@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("strategy", ["static", "gradient growth"])
def test_nonfinite_gradients_at_inactive_positions_are_ignored(strange, strategy):
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    where = {}
    # registered first, so that it comes with the gradient
    model[0].weight.register_hook(lambda gradient: torch.where(where["inactive"], strange, gradient))
    stack = [often(every=1), GrowByGradient()] if strategy == "gradient growth" else strategy
    training = sparsify(model, optimizer, strategy=stack, sparsity=0.75)
    for number in range(4):
        where["inactive"] = ~training.masks()["0.weight"]
        optimizer.zero_grad()
        loss_at(model, number).backward()
        assert nn.utils.clip_grad_norm_(model.parameters(), 1.0).isfinite()
        optimizer.step()
        assert_inactive_is_zero(model, optimizer, training)
        assert all(parameter.isfinite().all() for parameter in model.parameters())
        assert all(entry.isfinite().all() for entry in states_of(optimizer, model[0].weight).values())


def test_nonfinite_entries_of_a_gradient_assigned_by_hand_are_ignored_at_inactive_positions():
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy="static", sparsity=0.75)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    for name, mask in training.masks().items():
        dict(model.named_parameters())[name].grad[mask] = 0.0
    optimizer.step()
    assert_inactive_is_zero(model, optimizer, training)
    assert model[0].weight.isfinite().all()


def dense_gradients(model, number):
    """Those of a dense model with the same weights."""
    plain = copy.deepcopy(model)
    plain.zero_grad()
    loss_at(plain, number).backward()
    return {name: parameter.grad.flatten().numpy() for name, parameter in plain.named_parameters()}


@pytest.mark.parametrize("way", ["plain", "closure", "scaled", "scaled, fused", "accumulated"])
def test_strategies_that_grow_by_gradient_see_all_of_it(way):
    model, strategy = mlp(), GrowByGradient()
    optimizer = sgd(model, nesterov=True, weight_decay=0.0, fused=way == "scaled, fused")
    training = sparsify(model, optimizer, strategy=[often(every=3), strategy], sparsity=0.75)
    scaler = torch.amp.GradScaler("cpu", enabled="scaled" in way)

    for number in range(6):
        expected = dense_gradients(model, number)
        before = training.topology
        step_in(way, model, optimizer, scaler, number)
        assert_inactive_is_zero(model, optimizer, training)
        for name, parameter in sparse_parameters(model, training).items():
            assert parameter.grad is None or not parameter.grad[~training.masks()[name]].any()
        if (number + 1) % 3 == 0:
            for name in before.layout.names:
                np.testing.assert_allclose(strategy.seen[-1][name], expected[name], rtol=1e-4, atol=1e-6)
    assert training.updates == len(strategy.seen) == 2


@attrs.frozen(eq=False)
class Pull:
    """An L1 term of the loss."""

    @hookimpl
    def perturb_gradient(self, values, weight_gradient):
        return weight_gradient + 0.5 * values.sign()


class DecaysInGradients(torch.optim.SGD):
    """Adds its weight decay to the gradients themselves, as many optimizers do."""

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            parameter.grad.add_(parameter.detach(), alpha=0.5)
        return super().step(closure)


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_what_strategies_and_the_optimizer_do_to_gradients_before_a_step_is_not_in_dense_ones(storage):
    model, strategy = mlp(), GrowByGradient()
    optimizer = DecaysInGradients(model.parameters(), lr=0.05)
    stack = [often(every=1), strategy, Pull()]
    training = sparsify(model, optimizer, strategy=stack, sparsity=0.75, storage=storage)
    for number in range(2):
        expected = dense_gradients(export.squashed_copy(training), number)
        train(model, optimizer, [number])
        for name, seen in strategy.seen[-1].items():
            np.testing.assert_allclose(seen, expected[name], rtol=1e-4, atol=1e-6)


def test_gradient_growth_takes_the_steepest_free_positions():
    model, strategy = mlp(), GrowByGradient()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=[often("30%", every=2), strategy], sparsity=0.75)
    train(model, optimizer, [0])
    masks, expected = training.masks(), dense_gradients(model, 1)
    train(model, optimizer, [1])
    for name, mask in training.masks().items():
        grown, free = (mask & ~masks[name]).flatten().numpy(), ~masks[name].flatten().numpy()
        assert grown.any()
        steepness = np.abs(expected[name])
        assert steepness[grown].min() >= steepness[free & ~grown].max() - 1e-7


@attrs.frozen(eq=False)
class InPlaceOfSteps:
    """Every third step is left out for an update, as RigL has it."""

    @hookimpl
    def replaces_step(self):
        return True


@pytest.mark.parametrize("way", ["plain", "closure", "scaled, fused", "adam, fused", "adam, foreach"])
def test_an_update_that_replaces_a_step_skips_the_optimizer(way):
    model, gradients = mlp(), GrowByGradient()
    options = {"fused": "fused" in way, "foreach": "foreach" in way}
    make = torch.optim.AdamW if "adam" in way else torch.optim.SGD
    optimizer = make(model.parameters(), lr=0.05, weight_decay=0.1, **options)
    training = sparsify(model, optimizer, strategy=[often(every=3), gradients, InPlaceOfSteps()], sparsity=0.75)
    scaler = torch.amp.GradScaler("cpu", enabled="scaled" in way)

    def backward(number):
        optimizer.zero_grad()
        loss = loss_at(model, number)
        scaler.scale(loss).backward()
        return loss

    for number in range(1, 7):
        before = [parameter.detach().clone() for parameter in model.parameters()]
        momenta = [{k: v.clone() for k, v in states_of(optimizer, p).items()} for p in model.parameters()]
        masks, expected = training.masks(), dense_gradients(model, number)
        if way == "closure":
            assert optimizer.step(lambda number=number: backward(number)) > 0
        else:
            backward(number)
            scaler.step(optimizer)
            scaler.update()
        stays = {name: mask & masks[name] for name, mask in training.masks().items()}
        same = all(
            torch.equal(old[where], new[where]) and all(torch.equal(was[key][where], now[key][where]) for key in was)
            for (name, new), old, was, now in (
                (item, before[i], momenta[i], states_of(optimizer, item[1]))
                for i, item in enumerate(model.named_parameters())
            )
            for where in [stays.get(name, ...)]
        )
        assert same == (number % 3 == 0)
        assert all(parameter.grad is not None for parameter in model.parameters())
    for name in gradients.seen[-1]:
        np.testing.assert_allclose(gradients.seen[-1][name], expected[name], rtol=1e-4, atol=1e-6)
    assert (training.step, training.updates) == (6, 2)
    training.squash()
    assert not any(value for key, value in vars(optimizer).items() if "hook" in key)


@attrs.frozen(eq=False)
class Addresses:
    """Notes where the gradients lie that growth asks for."""

    seen: dict = attrs.field(factory=dict)

    @hookimpl
    def grow(self, occupied, counts, gradient):
        self.seen.update({name: gradient(name).data_ptr() for name in occupied.layout.names})
        return largest_free(occupied, counts, gradient)


@pytest.mark.parametrize("is_replaced", [True, False])
def test_dense_gradients_are_copied_only_where_the_optimizer_takes_a_step(is_replaced):
    model, addresses = mlp(), Addresses()
    strategies = [often(every=1), addresses, *([InPlaceOfSteps()] if is_replaced else [])]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    training = sparsify(model, optimizer, strategy=strategies, sparsity=0.75)
    before = training.masks()
    loss_at(model, 0).backward()
    optimizer.step()
    assert training.updates == 1
    for name, mask in training.masks().items():
        gradient = model.get_parameter(name).grad
        assert (addresses.seen[name] == gradient.data_ptr()) == is_replaced
        assert gradient[mask & before[name]].any()
        assert not gradient[~(mask & before[name])].any()


@attrs.frozen(eq=False)
class Steps:
    steps: int = 0


@attrs.frozen(eq=False)
class SeesAll:
    """Counts the steps whose gradients it has seen, dense."""

    @hookimpl
    def initial_strategy_state(self):
        return Steps()

    @hookimpl
    def observe(self, gradient, topology, strategy_state):
        gradients = [gradient(name) for name in topology.layout.names]
        assert [len(one) for one in gradients] == list(topology.layout.sizes)
        assert sum(one.count_nonzero() for one in gradients) > topology.size
        return Steps(strategy_state.steps + 1)


def test_observers_see_the_dense_gradients_of_every_step():
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=[often(every=3), SeesAll()], sparsity=0.9)
    train(model, optimizer, range(5))
    assert training.state_dict()["memories"]["SeesAll"]["scalars"] == {"steps": 5}
