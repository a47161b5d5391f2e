"""Regions hand out the gradients of inactive weights in the steps in which a strategy asks for them."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sparsecore_cpu._kernels")

from kernel_examples import CLOSE, STORAGES, always
from region_examples import MODELS
from torch import nn

from sparsecore.engine.schedules import Every, Piecewise
from sparsecore_strategies.gse import GuidedExploration
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.snfs import SparseMomentum
from sparsecore_torch import sparsify
from sparsecore_torch.sparse_training.regions import region
from sparsecore_torch.sparse_training.regions.program import Program


class Twice(nn.Module):
    """A matrix that is multiplied by twice, with another batch each time, and one that sees the inputs of the model."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.last = nn.Linear(9, 16), nn.Linear(16, 16, bias=False), nn.Linear(16, 5)

    def forward(self, x):
        y = torch.relu(self.first(x))
        y = torch.tanh(self.again(y)) + self.again(y.flip(0)[:, :3]).sum(1, keepdim=True)
        return self.last(y)


def twice():
    torch.manual_seed(1)
    return Twice(), (torch.randn(4, 7, 9),)


LINEAR = {"feed-forward": MODELS["feed-forward"], "twice": twice}
STRATEGIES = {
    "rigl": lambda: RigL(drop_fraction=Piecewise({0: 0.3}), schedule=Every(steps=2)),
    "snfs": lambda: SparseMomentum(schedule=Every(steps=2)),
    "gse": lambda: GuidedExploration(schedule=Every(steps=2)),
}


def trained(make, kernels, storage, strategy, step, *, is_measured=False):
    """The topology and the losses of six steps."""
    model, inputs = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    matrices = [name for name, one in model.named_parameters() if one.ndim > 1]
    training = sparsify(
        model,
        optimizer,
        strategy=STRATEGIES[strategy](),
        sparsity=0.7,
        include=matrices,
        storage=storage,
        kernels=kernels,
        total_steps=6,
    )
    if kernels == "sparse" and not is_measured:
        always(training)
    losses = [step(model, optimizer, inputs).detach() for _ in range(6)]
    assert training.updates >= 2
    return {name: mask.nonzero() for name, mask in training.masks().items()}, losses


def plain_step(model, optimizer, inputs):
    optimizer.zero_grad()
    loss = model(*inputs).square().mean()
    loss.backward()
    optimizer.step()
    return loss


def clipped_step_of_two_batches(model, optimizer, inputs):
    """Two batches are added up, and the norm of the gradients is clipped; the first one is passed through again."""
    optimizer.zero_grad()
    total = 0
    for factor in (1.0, -0.5):
        loss = (model(*inputs) - factor).square().mean()
        loss.backward(retain_graph=factor > 0)
        if factor > 0:
            loss.backward()
        total = total + loss
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    return total


@pytest.fixture
def left_to_torch(monkeypatch):
    """For each pass of a region whether torch computed it because the kernels do not have all gradients."""
    seen, own = [], Program.needs_torch

    def needs_torch(self, given):
        seen.append(own(self, given))
        return seen[-1]

    monkeypatch.setattr(Program, "needs_torch", needs_torch)
    return seen


@pytest.mark.parametrize("step", [plain_step, clipped_step_of_two_batches])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", LINEAR)
def test_linear_layers_get_the_gradients_of_all_positions_without_torch(name, storage, strategy, step, left_to_torch):
    topology, losses = trained(LINEAR[name], "sparse", storage, strategy, step)
    assert left_to_torch
    assert not any(left_to_torch)
    expected, dense_losses = trained(LINEAR[name], "dense", storage, strategy, step)
    torch.testing.assert_close(losses, dense_losses, **CLOSE)
    torch.testing.assert_close(topology, expected)


@pytest.mark.parametrize("storage", STORAGES)
def test_regions_with_convolutions_are_torch_s_in_the_steps_that_ask_for_all_gradients(storage, left_to_torch):
    topology, losses = trained(MODELS["residual"], "sparse", storage, "rigl", plain_step)
    assert set(left_to_torch) == {False, True}
    expected, dense_losses = trained(MODELS["residual"], "dense", storage, "rigl", plain_step)
    torch.testing.assert_close(losses, dense_losses, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(topology, expected)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("storage", STORAGES)
def test_gradients_of_a_measurement_are_none_of_those_that_a_strategy_sees(storage, strategy, monkeypatch):
    measured, own = [], region.Region._ways

    def ways(self, *given):
        measured.append(own(self, *given))
        return measured[-1]

    monkeypatch.setattr(region.Region, "_ways", ways)
    topology, losses = trained(twice, "sparse", storage, strategy, plain_step, is_measured=True)
    assert measured
    expected, dense_losses = trained(twice, "dense", storage, strategy, plain_step)
    torch.testing.assert_close(losses, dense_losses, **CLOSE)
    torch.testing.assert_close(topology, expected)
