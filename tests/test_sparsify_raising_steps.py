"""A step that raises leaves gradients, weights and the training unchanged, so that it can be repeated."""

import pytest

torch = pytest.importorskip("torch")

import attrs
from sparsify_examples import GrowByGradient, loss_at, mlp, often, train
from wrapped_optimizers import HookedLookahead

from sparsecore.engine.hooks import hookimpl
from sparsecore.engine.schedules import Every
from sparsecore_strategies.topkast import TopKast
from sparsecore_torch import sparsify


class Interrupted(torch.optim.SGD):
    """Raises at the requested step, before it has changed anything."""

    raises = False

    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        if self.raises:
            raise RuntimeError("an error of the device")
        super().step()
        return loss


@attrs.frozen(eq=False)
class InPlaceOfSteps:
    """Each update takes the place of a step."""

    @hookimpl
    def replaces_step(self):
        return True


STACKS = {
    "silent weights": lambda: TopKast(schedule=Every(steps=3)),
    "no update": lambda: "static",
    "an update": lambda: often(every=3),
    "an update by gradient": lambda: [often(every=3), GrowByGradient()],
    "an update in place of the step": lambda: [often(every=3), GrowByGradient(), InPlaceOfSteps()],
}


def started(stack, wrap=lambda inner: inner, storage="masked"):
    model = mlp()
    inner = Interrupted(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = wrap(inner)
    training = sparsify(model, optimizer, strategy=STACKS[stack](), sparsity=0.75, storage=storage)
    train(model, optimizer, range(2))
    return model, inner, optimizer, training


@pytest.mark.parametrize("with_closure", [False, True], ids=["plain", "closure"])
@pytest.mark.parametrize("stack", STACKS)
def test_a_step_that_raises_keeps_its_gradients_and_can_be_repeated(stack, with_closure):
    def step(model, optimizer, number):
        optimizer.zero_grad()
        if with_closure:

            def closure():
                optimizer.zero_grad()
                loss = loss_at(model, number)
                loss.backward()
                return loss

            optimizer.step(closure)
        else:
            loss_at(model, number).backward()
            optimizer.step()

    model, inner, optimizer, training = started(stack)
    inner.raises = True
    with pytest.raises(RuntimeError, match="an error of the device"):
        step(model, optimizer, 2)
    inner.raises = False
    assert training.step == 2
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    assert len(optimizer.param_groups[0]["params"]) == 6
    twin, _, same, expected = started(stack)
    for number in range(2, 6):
        step(model, optimizer, number)
        step(twin, same, number)
    assert (training.step, training.updates) == (expected.step, expected.updates)
    assert torch.equal(training.topology.positions, expected.topology.positions)
    for mine, its in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize("stack", STACKS)
def test_a_step_that_has_raised_may_be_repeated_with_the_gradients_that_are_there(stack):
    model, inner, optimizer, training = started(stack)
    twin, _, same, expected = started(stack)
    for net, trains in ((model, optimizer), (twin, same)):
        trains.zero_grad()
        loss_at(net, 2).backward()
    inner.raises = True
    with pytest.raises(RuntimeError, match="an error of the device"):
        optimizer.step()
    inner.raises = False
    optimizer.step()
    same.step()
    train(model, optimizer, range(3, 6))
    train(twin, same, range(3, 6))
    assert torch.equal(training.topology.positions, expected.topology.positions)
    assert torch.equal(training.values(), expected.values())


@pytest.mark.parametrize("stack", STACKS)
def test_training_continues_after_a_closure_that_raises(stack):
    model, _, optimizer, training = started(stack)
    twin, _, same, expected = started(stack)

    def closure():
        loss_at(model, 9).backward()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    train(model, optimizer, range(2, 6))
    train(twin, same, range(2, 6))
    assert torch.equal(training.topology.positions, expected.topology.positions)
    assert torch.equal(training.values(), expected.values())


def test_a_wrapper_that_raises_after_the_inner_step_loses_no_step():
    model, _, optimizer, training = started("an update", HookedLookahead)

    def fail():
        raise RuntimeError("an error of the device")

    optimizer.parameters = fail  # of which Lookahead makes its slow weights, in each second step
    train(model, optimizer, [2])
    with pytest.raises(RuntimeError, match="an error of the device"):
        train(model, optimizer, [3])
    del optimizer.parameters
    train(model, optimizer, range(4, 7))
    assert training.step == 7
    assert training.updates == 2


def test_a_step_that_calls_super_is_one_step():
    torch.optim.SGD(
        mlp().parameters(), lr=0.1
    )  # from the first instance on, torch runs the hooks of this class as well
    _, _, _, training = started("an update in place of the step")
    assert training.step == 2


def test_a_step_that_catches_an_error_of_super_is_one_step():
    class Patient(torch.optim.SGD):
        def step(self):
            for group in self.param_groups:
                group["lr"] = "no number"
            with pytest.raises(TypeError):
                super().step()
            for group in self.param_groups:
                group["lr"] = 0.1
            super().step()

    model = mlp()
    torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = Patient(model.parameters(), lr=0.1)
    training = sparsify(model, optimizer, strategy="static", sparsity=0.75)
    train(model, optimizer, range(3))
    assert training.step == 3


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_a_step_that_raises_leaves_silent_weights_silent(storage):
    model, inner, optimizer, training = started("silent weights", storage=storage)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loss = loss_at(model, 9)
    values = training.values().clone()
    loss.backward()
    inner.raises = True
    with pytest.raises(RuntimeError, match="an error of the device"):
        optimizer.step()
    assert torch.equal(loss_at(model, 9), loss)
    with pytest.raises(RuntimeError, match="an error of the device"):
        optimizer.step()
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(RuntimeError, match="an error of the device"):
        optimizer.step()
    silent = training.state_dict()["silent"]
    assert torch.count_nonzero(silent) > 0
    assert torch.equal(training.values(), values)
    training.squash()
    assert torch.equal(loss_at(model, 9), loss)
