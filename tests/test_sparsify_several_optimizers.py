"""One training of parameters that several optimizers hold: an update follows when each of them has stepped."""

import copy

import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import assert_inactive_is_zero, loss_at, mlp, often, train_by
from torch import nn

from sparsecore.errors import InputError
from sparsecore.strategy import Every
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.snfs import SparseMomentum
from sparsecore_torch import sparsify

STRATEGIES = {
    "dpr": lambda: often(every=2),
    "rigl": lambda: RigL(schedule=Every(steps=2)),
    "snfs": lambda: SparseMomentum(schedule=Every(steps=3)),
    "deepr": lambda: "deepr",
}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)


def halves(model):
    return [model[0], model[4]], [model[2]]


def two_sgd(model):
    return [sgd([one for layer in half for one in layer.parameters()]) for half in halves(model)]


def muon_and_adamw(model):
    matrices = [model[0].weight, model[2].weight]
    others = [one for one in model.parameters() if all(one is not matrix for matrix in matrices)]
    return [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(others, lr=0.01)]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("include", ["*weight", ["0.weight", "4.weight"], "2.weight"])
def test_two_optimizers_train_as_one_that_holds_all_parameters(strategy, include):
    results = []
    for make in (lambda model: [sgd(model.parameters())], two_sgd):
        model = mlp()
        optimizers = make(model)
        given = optimizers if len(optimizers) > 1 else optimizers[0]
        training = sparsify(
            model,
            given,
            strategy=STRATEGIES[strategy](),
            sparsity=0.7,
            include=include,
            total_steps=30,
            steps_per_epoch=5,
        )
        train_by(model, optimizers, range(9))
        results.append((training, model, optimizers))
    (one, whole, _), (several, split, optimizers) = results
    assert several.step == one.step == 9
    assert several.updates == one.updates > 1
    assert several.topology.sha256() == one.topology.sha256()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), split.parameters(), strict=True))
    assert several.memory() == one.memory()
    for optimizer, layers in zip(optimizers, halves(split), strict=True):
        names = {id(layer.weight): f"{index}.weight" for index, layer in enumerate(split) if layer in layers}
        masks = several.masks()
        for parameter, state in optimizer.state.items():
            if (name := names.get(id(parameter))) in masks:
                assert not state["momentum_buffer"][~masks[name]].any()


def test_muon_and_adamw_share_a_training_that_resumes_bit_for_bit():
    def make():
        model = mlp()
        optimizers = muon_and_adamw(model)
        return model, optimizers, sparsify(model, optimizers, strategy=often(every=3), sparsity=0.6, include="*weight")

    model, optimizers, training = make()
    train_by(model, optimizers, range(5))
    saved = copy.deepcopy([one.state_dict() for one in (training, model, *optimizers)])
    train_by(model, optimizers, range(5, 11))
    assert training.updates == 3
    assert (model[0].weight != 0).sum() <= training.topology.counts[0]
    assert_inactive_is_zero(model, optimizers[1], training)
    other, again, resumed = make()
    for one, state in zip((resumed, other, *again), saved, strict=True):
        one.load_state_dict(state)
    train_by(other, again, range(5, 11))
    assert resumed.topology.sha256() == training.topology.sha256()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_gradients_may_be_cleared_between_the_steps_and_steps_may_have_closures():
    ends = []
    for with_closures in (False, True):
        model = mlp()
        first, second = optimizers = two_sgd(model)
        training = sparsify(model, optimizers, strategy=RigL(schedule=Every(steps=2)), sparsity=0.7, total_steps=30)
        for step in range(4):
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = loss_at(model, step)
            loss.backward()
            first.step((lambda loss=loss: loss) if with_closures else None)
            first.zero_grad()
            second.step((lambda loss=loss: loss) if with_closures else None)
        assert training.updates == 2
        ends.append((training.topology.sha256(), [one.clone() for one in model.parameters()]))
    model = mlp()
    optimizers = two_sgd(model)
    training = sparsify(model, optimizers, strategy=RigL(schedule=Every(steps=2)), sparsity=0.7, total_steps=30)
    train_by(model, optimizers, range(4))
    for digest, parameters in ends:
        assert digest == training.topology.sha256()
        assert all(torch.equal(a, b) for a, b in zip(parameters, model.parameters(), strict=True))


@pytest.mark.parametrize("include", [["0.weight", "4.weight"], "*weight"])
def test_compact_storage_takes_several_optimizers(include):
    ends = []
    for storage in ("masked", "compact"):
        model = mlp()
        optimizers = two_sgd(model)
        training = sparsify(
            model, optimizers, strategy=["set", often()], sparsity=0.7, include=include, storage=storage, seed=2
        )
        train_by(model, optimizers, range(3))
        saved = copy.deepcopy([one.state_dict() for one in (model, training, *optimizers)])
        train_by(model, optimizers, range(3, 7))
        for one, state in zip((model, training, *optimizers), saved, strict=True):
            one.load_state_dict(state)
        train_by(model, optimizers, range(3, 7))
        ends.append(training.values())
        training.squash()
        assert sum(len(group["params"]) for one in optimizers for group in one.param_groups) == 6
    assert torch.equal(*ends)


def test_a_step_that_one_optimizer_misses_does_not_count_and_a_row_of_them_is_refused():
    model = mlp()
    first, second = two_sgd(model)
    training = sparsify(model, [first, second], strategy=often(every=2), sparsity=0.5)
    train_by(model, [first, second], range(3))
    train_by(model, [second], range(3, 5))  # as a GradScaler skips the first
    assert (training.step, training.updates) == (3, 1)
    assert_inactive_is_zero(model, second, training)
    train_by(model, [first, second], range(5, 6))
    assert (training.step, training.updates) == (4, 2)
    with pytest.raises(InputError, match=r"SGD.* in a row without one of SGD.*follow"):
        train_by(model, [first], range(6, 30))
    with pytest.raises(InputError, match="does not hold 1 of the 2"):
        training.follow([first])


@pytest.mark.parametrize(
    ("choose", "words"),
    [
        (lambda *_: [], ["empty"]),
        (lambda first, _: [first, first], ["SGD", "twice"]),
        (lambda first, _: [first, torch.optim.Adam([nn.Parameter(torch.zeros(2))])], ["SGD, Adam", "2.weight"]),
        (lambda first, second: [first, second, sgd([*second.param_groups[0]["params"]])], ["several", "2.weight"]),
        (lambda first, _: [first, "adam"], ["adam"]),
    ],
)
def test_optimizers_that_cannot_share_a_training_are_refused_and_nothing_has_changed(choose, words):
    model = mlp()
    optimizers = two_sgd(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError) as error:
        sparsify(model, choose(*optimizers), sparsity=0.5, include="*weight")
    assert all(word in str(error.value) for word in words), error.value
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    training = sparsify(model, optimizers, sparsity=0.5, include="*weight")
    train_by(model, optimizers, range(2))
    assert training.step == 2


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_a_training_goes_on_with_other_optimizers(storage):
    model = mlp()
    single = sgd(model.parameters())
    include = ["0.weight", "4.weight"]
    training = sparsify(model, single, strategy=often(), sparsity=0.5, include=include, storage=storage)
    train_by(model, [single], range(2))
    of_second = [model[2].weight, model[2].bias]
    others = [one for one in model.parameters() if all(one is not other for other in of_second)]
    several = [sgd(others), sgd(of_second)]
    training.follow(several)
    train_by(model, several, range(2, 5))
    again = sgd(model.parameters())
    training.follow(again)
    train_by(model, [again], range(5, 7))
    assert (training.step, training.updates) == (7, 3)
    training.squash()
    assert len(list(model.parameters())) == 6
