"""Gradients that no step follows, steps that change nothing, and Parameters that are replaced are noticed."""

import gc
import types

import pytest

torch = pytest.importorskip("torch")

from pairwise import every_pair
from sparsify_examples import assert_inactive_is_zero, loss_at, mlp, sgd, train
from torch import nn
from torch.nn.utils import prune

from sparsecore.errors import InputError
from sparsecore_torch import sparsify

STORAGES = ("masked", "compact")


def started(storage="masked", make=sgd, **options):
    model = mlp()
    optimizer = make(model)
    return model, optimizer, sparsify(model, optimizer, strategy="static", sparsity=0.75, storage=storage, **options)


def train_with(optimizer, model, steps, *, set_to_none):
    for number in steps:
        optimizer.zero_grad(set_to_none=set_to_none)
        loss_at(model, number).backward()
        optimizer.step()


class OldStyle(torch.optim.Optimizer):
    """Writes past torch's count of writes, as optimizers of earlier years do; ``step`` may be past the hooks, too."""

    def __init__(self, params, lr=0.05):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data.add_(p.grad.data, alpha=-group["lr"])


@every_pair(
    make=[sgd, lambda model: torch.optim.Adam(model.parameters()), lambda model: OldStyle(model.parameters())],
    storage=STORAGES,
    set_to_none=[True, False],
)
def test_an_optimizer_that_replaces_another_in_mid_training_is_noticed(make, storage, set_to_none):
    model, optimizer, training = started(storage)
    train(model, optimizer, range(2))
    other = make(model)
    with pytest.raises(InputError, match=r"step\(\) of the SGD that sparsify was given.*training.follow\(optimizer\)"):
        train_with(other, model, range(10), set_to_none=set_to_none)
    assert training.step == 2


@pytest.mark.parametrize("storage", STORAGES)
def test_a_step_that_is_put_on_the_instance_is_noticed(storage):
    model, optimizer, training = started(storage)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(0.1 * p.grad)

    optimizer.step = types.MethodType(step, optimizer)
    with pytest.raises(InputError, match=r"A step\(\) that is set on the instance has to call the one of its class"):
        train(model, optimizer, range(6))
    assert training.step == 0


def test_an_instance_step_that_calls_the_original_causes_no_warning():
    model, optimizer, training = started()
    own = optimizer.step
    optimizer.step = lambda: own()  # noqa: PLW0108 (as schedulers of learning rates do)
    train(model, optimizer, range(6))
    assert training.step == 6


@pytest.mark.parametrize("storage", STORAGES)
def test_a_tensor_that_leaves_the_param_groups_is_noticed(storage):
    model, optimizer, _ = started(storage)
    train(model, optimizer, range(2))
    optimizer.param_groups[0]["params"] = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
    model.zero_grad()
    loss_at(model, 2).backward()
    with pytest.raises(InputError, match=r"SGD no longer holds .* in its param groups"):
        optimizer.step()


@pytest.mark.parametrize("storage", STORAGES)
def test_steps_that_change_nothing_are_noticed(storage):
    class Idle(torch.optim.SGD):
        is_idle = False

        def step(self):
            return None if self.is_idle else super().step()

    model, optimizer, _ = started(storage, lambda model: Idle(model.parameters(), lr=0.1))
    train(model, optimizer, range(2))
    optimizer.is_idle = True
    with pytest.raises(InputError, match=r"10 steps of Idle in a row have left .* as it was"):
        train(model, optimizer, range(15))


def replaced(model):
    model[2].weight = nn.Parameter(model[2].weight.detach().clone())


def loaded(model):
    model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)


@pytest.mark.parametrize("replace", [replaced, loaded])
def test_a_parameter_that_is_replaced_is_noticed_at_the_next_step_and_when_training_is_saved(replace):
    model, optimizer, training = started()
    train(model, optimizer, [0])
    replace(model)
    for ask in (training.state_dict, training.summary, training.values):
        with pytest.raises(InputError, match=r"weight was replaced by a new Parameter"):
            ask()
    with pytest.raises(InputError, match=r"weight was replaced by a new Parameter"):
        train(model, optimizer, [1])


@pytest.mark.parametrize("storage", STORAGES)
def test_a_module_that_is_replaced_is_noticed_at_the_next_step_and_when_training_is_saved(storage):
    model, optimizer, training = started(storage)
    train(model, optimizer, [0])
    model[2] = nn.Linear(12, 10)
    for ask in (training.state_dict, training.summary):
        with pytest.raises(InputError, match=r"2\.weight is no longer in the model.*squash"):
            ask()
    with pytest.raises(InputError, match=r"2\.weight is no longer in the model"):
        train(model, optimizer, [1])


@pytest.mark.parametrize("storage", STORAGES)
def test_wrapping_renaming_and_replacing_dense_modules_causes_no_warning(storage):
    model, optimizer, training = started(storage)
    model[2] = nn.Sequential(nn.Identity(), model[2])
    model[4] = nn.Linear(10, 3)
    train(model, optimizer, range(2))
    model[2] = nn.ModuleList([model[2]])[0]
    train(model, optimizer, range(2, 4))
    assert training.step == 4


def test_compact_values_that_are_replaced_are_noticed():
    model, optimizer, _ = started("compact")
    loaded(model)
    with pytest.raises(InputError, match=r"sparse_values was replaced by a new Parameter"):
        train(model, optimizer, [1])


@pytest.mark.parametrize("move", ["parametrized", "pruned by torch", "half and back"])
def test_a_parameter_that_stays_the_same_object_continues_training(move):
    model, optimizer, training = started()
    train(model, optimizer, [0])
    if move == "parametrized":
        nn.utils.parametrize.register_parametrization(model[2], "weight", nn.Identity())
    elif move == "pruned by torch":
        prune.identity(model[2], "weight")
    else:
        model.half().float()
    train(model, optimizer, range(3))
    assert training.step == 4
    parameter = next(p for name, p in model[2].named_parameters(recurse=True) if "bias" not in name)
    assert not parameter[~training.masks()["2.weight"]].any()


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("make", [sgd, lambda model: OldStyle(model.parameters())])
def test_usual_training_loops_cause_no_warning(storage, make):
    model, optimizer, training = started(storage, make)
    best = {key: value.clone() for key, value in model.state_dict().items()}
    for number in range(40):
        optimizer.zero_grad()
        loss_at(model, number).backward()
        if number % 5 == 1:  # accumulated, in many parts
            for part in range(20):
                loss_at(model, part).backward()
        if number % 5 == 2:
            for part in range(8):  # batches that are left out
                optimizer.zero_grad()
                loss_at(model, part).backward()
        if number % 5 == 3:  # a checkpoint between batches, and a perturbation
            model.load_state_dict(best)
            optimizer.zero_grad()
            loss_at(model, number).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.0)
            loss_at(model, number).backward()
        optimizer.step()
    assert training.step == 40


def test_a_closure_that_tries_many_weights_is_one_step():
    model, optimizer, training = started()

    def closure():
        for _ in range(10):
            optimizer.zero_grad()
            loss = loss_at(model, 0)
            loss.backward()
            with torch.no_grad():
                model[0].weight.mul_(1.01)
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert training.step == 3
    assert_inactive_is_zero(model, optimizer, training)


@pytest.mark.parametrize("rate", [0.0, 1e-30])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW, OldStyle])
def test_steps_with_a_vanishing_learning_rate_count(make, rate):
    model, optimizer, training = started(make=lambda model: make(model.parameters(), lr=rate))
    train(model, optimizer, range(9))
    assert training.step == 9


@pytest.mark.filterwarnings("error")
def test_a_training_deleted_with_its_optimizer_warns_once_at_the_next_gradient():
    model = mlp()
    sparsify(model, sgd(model), sparsity=0.75)
    gc.collect()
    optimizer = sgd(model)
    with pytest.warns(
        UserWarning, match=r"the SGD that sparsify was given no longer exists.*Keep what sparsify returns"
    ):
        loss_at(model, 0).backward()
    train(model, optimizer, range(3))


@pytest.mark.filterwarnings("error")
def test_uncollected_training_reports_no_missed_steps():
    model = mlp()
    gc.disable()
    try:
        sparsify(model, sgd(model), sparsity=0.75)  # neither is referred to any more
        optimizer = sgd(model)
        with pytest.warns(UserWarning, match=r"the SGD that sparsify was given no longer exists"):
            train(model, optimizer, range(6))
        train(model, optimizer, range(6))
    finally:
        gc.enable()


@pytest.mark.parametrize("storage", STORAGES)
def test_after_squash_missed_steps_are_not_checked(storage):
    model, optimizer, training = started(storage)
    train(model, optimizer, [0])
    training.squash()
    other = sgd(model)
    train(model, other, range(8))
    replaced(model)
    assert not any(parameter._backward_hooks for parameter in model.parameters())
