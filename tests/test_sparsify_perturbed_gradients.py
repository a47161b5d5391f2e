"""A strategy that changes gradients gets those that the optimizer is about to step by, in both storages."""

import copy

import pytest

torch = pytest.importorskip("torch")

from compact_examples import Mlp, batches, loss_of, started, train
from torch import nn

from sparsecore.engine.hooks import hookimpl
from sparsecore.errors import InputError
from sparsecore_torch import sparsify

STORAGES = ("masked", "compact")
CHANGE = 0.5
ROUNDS = 3


class Steeper:
    """Adds a number to every gradient of an active weight; nothing moves."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    @hookimpl
    def update_due(self):
        return False

    @hookimpl
    def perturb_gradient(self, weight_gradient):
        self.seen.append(float(weight_gradient.sum()))
        return weight_gradient + CHANGE


def steps_of(strategy, storage, take):
    """Take some steps; return the values before, between and after them, and the model, which is a plain one again."""
    torch.manual_seed(3)
    model = Mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    training = sparsify(model, optimizer, strategy=strategy, sparsity=0.6, include="*weight*", storage=storage)
    values = [training.values().clone()]
    for given in batches(model, ROUNDS):
        optimizer.zero_grad()
        take(model, optimizer, given)
        values.append(training.values().clone())
    training.squash()
    return values, model


def plainly(model, optimizer, given):
    loss_of(model, given).backward()
    optimizer.step()


def with_closure(model, optimizer, given):
    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, given)
        loss.backward()
        return loss

    optimizer.step(closure)


SCALE = 2.0**10


def scaled(model, optimizer, given):
    """A GradScaler leaves it to a fused optimizer to unscale the gradients."""
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    scaler.scale(loss_of(model, given)).backward()
    scaler.step(optimizer)


@pytest.mark.parametrize("take", [plainly, with_closure, scaled])
@pytest.mark.parametrize("storage", STORAGES)
def test_a_step_is_by_the_changed_gradient_and_inactive_weights_stay_zero(storage, take):
    steeper, plain = Steeper(), steps_of("static", storage, take)[0]
    changed, model = steps_of(steeper, storage, take)
    assert len(steeper.seen) == ROUNDS
    torch.testing.assert_close(changed[1], plain[1] - 0.1 * CHANGE, rtol=0, atol=1e-6)
    gradient = (plain[0] - plain[1]).sum() / 0.1
    assert steeper.seen[0] == pytest.approx(float(gradient), abs=1e-3)
    weights = torch.cat([layer.weight.flatten() for layer in model if isinstance(layer, nn.Linear)])
    assert int((weights != 0).sum()) == len(changed[0])


@pytest.mark.parametrize("storage", STORAGES)
def test_a_gradient_that_is_not_finite_is_not_changed_and_the_step_is_skipped(storage):
    steeper = Steeper()

    def overflowing(model, optimizer, given):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        scaler.scale(loss_of(model, given) * torch.inf).backward()
        scaler.step(optimizer)

    values, _ = steps_of(steeper, storage, overflowing)
    assert not steeper.seen
    assert all(torch.equal(values[0], each) for each in values)


def test_with_noise_and_pull_in_the_gradient_compact_training_equals_that_with_masks_bit_for_bit():
    trainings = []
    for storage in STORAGES:
        model, optimizer, training = started(Mlp, storage, strategy="gradient-deepr")
        train(model, optimizer, 8)
        trainings.append(training)
    masked, compact = trainings
    assert masked.updates == 8
    assert torch.equal(masked.topology.positions, compact.topology.positions)
    assert torch.equal(masked.values(), compact.values())
    assert masked.topology.sha256() != started(Mlp, "masked")[2].topology.sha256()


def test_a_saved_training_goes_on_with_the_same_noise():
    _, optimizer, training = started(Mlp, "masked", strategy="gradient-deepr")
    train(training.model, optimizer, 3)
    saved = copy.deepcopy([one.state_dict() for one in (training, training.model, optimizer)])
    _, other_optimizer, other = started(Mlp, "masked", strategy="gradient-deepr")
    for one, state in zip((other, other.model, other_optimizer), saved, strict=True):
        one.load_state_dict(state)
    train(training.model, optimizer, 3, start=3)
    train(other.model, other_optimizer, 3, start=3)
    assert torch.equal(training.values(), other.values())


def test_after_squash_gradients_are_those_of_the_loss():
    steeper, model = Steeper(), Mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsify(model, optimizer, strategy=steeper, include="*weight*").squash()
    train(model, optimizer, 2)
    assert not steeper.seen


def test_sparse_tensors_of_several_optimizers_are_refused_and_nothing_has_changed():
    model = Mlp()
    weights = [layer.weight for layer in model if isinstance(layer, nn.Linear)]
    biases = [layer.bias for layer in model if isinstance(layer, nn.Linear)]
    before = [weight.detach().clone() for weight in weights]
    optimizers = [torch.optim.SGD(weights[:1] + biases, lr=0.1), torch.optim.SGD(weights[1:], lr=0.1)]
    with pytest.raises(InputError, match=r"Steeper changes the gradients of all sparse tensors.* 2 optimizers"):
        sparsify(model, optimizers, strategy=Steeper(), include="*weight*")
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))
    one = [torch.optim.SGD(weights, lr=0.1), torch.optim.SGD(biases, lr=0.1)]
    assert sparsify(model, one, strategy=Steeper(), include="*weight*").step == 0
