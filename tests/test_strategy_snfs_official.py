"""SNFS next to dense training by SGD with masks, as the authors' code does it: weights, momentum and positions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from engine_oracles import whole_shares

from sparsecore.engine.schedules import Every
from sparsecore_strategies.snfs import SparseMomentum

torch = pytest.importorskip("torch")

from sparsify_examples import loss_at, mlp

from sparsecore_torch import sparsify

TOTAL, EVERY = 40, 4


def optimizer_of(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05, nesterov=True)


class Official:
    """Masks on a dense model whose optimizer sees dense gradients; written after reading TimDettmers/sparse_learning.

    Two things differ: the number of weights is exact, where the authors round each tensor's share down and correct the
    sum later, and the room that a tensor fills is a whole number.
    """

    def __init__(self, model, masks):
        self.parameters = {name: one for name, one in model.named_parameters() if name in masks}
        self.model, self.optimizer = model, optimizer_of(model)
        self.masks = {name: mask.clone() for name, mask in masks.items()}
        self.steps = 0
        self.apply()

    def apply(self):
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.mul_(self.masks[name])

    def momentum(self, name):
        return self.optimizer.state[self.parameters[name]]["momentum_buffer"]

    def step(self):
        self.optimizer.zero_grad()
        loss_at(self.model, self.steps, (6,)).backward()
        self.optimizer.step()
        self.apply()
        self.steps += 1
        if self.steps % EVERY == 0 and self.steps < TOTAL:
            self.truncate()

    def truncate(self):
        rate = 0.005 + (0.5 - 0.005) / 2 * (1 + math.cos(math.pi * self.steps / TOTAL))
        means = {name: self.momentum(name)[mask].double().abs().mean().item() for name, mask in self.masks.items()}
        removed, room = {}, {}
        for name, mask in self.masks.items():
            sparsity = 1 - mask.sum().item() / mask.numel()
            grows = means[name] * len(means) > sum(means.values())
            own = min(rate, sparsity) if sparsity < 0.2 and grows else rate
            removed[name] = math.ceil(round(own * mask.sum().item(), 9))
            zeros = mask.numel() - mask.sum().item()
            room[name] = math.floor(0.99 * (zeros + removed[name]) + 1e-9)
            order = self.parameters[name].detach().abs().flatten().sort().indices
            mask.view(-1)[order[: zeros + removed[name]]] = False
        total = sum(removed.values())
        scale = max(Fraction(mean).denominator for mean in means.values())
        wanted = whole_shares(total, [int(Fraction(mean) * scale) for mean in means.values()], [total] * len(means))
        grown = [min(each, most) for each, most in zip(wanted, room.values(), strict=True)]
        left = [most - each for most, each in zip(room.values(), grown, strict=True)]
        more = whole_shares(total - sum(grown), [1] * len(left), left)
        for (name, mask), count in zip(self.masks.items(), map(sum, zip(grown, more, strict=True)), strict=True):
            score = self.momentum(name).abs() * ~mask
            mask.view(-1)[score.flatten().sort(descending=True).indices[:count]] = True
        self.apply()


@pytest.mark.parametrize("storage", ["masked", "compact"])
@pytest.mark.parametrize("sparsity", [0.1, 0.6])
def test_weights_momentum_and_positions_are_those_of_dense_training_with_masks(storage, sparsity):
    model = mlp(1)
    strategy = SparseMomentum(schedule=Every(steps=EVERY))
    options = {"include": "*weight", "storage": storage, "total_steps": TOTAL, "seed": 2}
    optimizer = optimizer_of(model)
    twin = mlp(1)
    training = sparsify(model, optimizer, strategy=strategy, sparsity=sparsity, **options)
    official = Official(twin, training.masks())
    grown = 0
    for step in range(24):
        before = training.topology
        optimizer.zero_grad()
        loss_at(model, step, (6,)).backward()
        optimizer.step()
        official.step()
        grown += len(np.setdiff1d(training.topology.host_positions, before.host_positions))
        masks = training.masks()
        assert all(torch.equal(masks[name], mask) for name, mask in official.masks.items()), step
        held = {p.numel(): (p, state["momentum_buffer"]) for p, state in optimizer.state.items()}
        for name, mask in official.masks.items():
            if storage == "masked":
                parameter = model.get_parameter(name)
                values, momentum = parameter[mask], optimizer.state[parameter]["momentum_buffer"][mask]
            else:
                values, momentum = (one[training.topology.slots(name)] for one in held[training.topology.size])
            torch.testing.assert_close(values, official.parameters[name][mask])
            torch.testing.assert_close(momentum, official.momentum(name)[mask])
    assert training.updates == 6
    assert grown > 0
