"""Averages of weights have as many weights as the training where its positions are known, or are refused."""

import copy

import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import everything, loss_at, mlp, sgd, train
from torch import nn
from torch.optim.swa_utils import (
    AveragedModel,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
)

from sparsecore.engine.schedules import Every
from sparsecore.errors import InputError
from sparsecore_strategies.set import SparseEvolution
from sparsecore_torch import sparse_avg_fn, sparsify
from sparsecore_torch.sparse_training import export

NAMES = ("0.weight", "2.weight")


def started(storage="masked", strategy=None):
    model = mlp()
    optimizer = sgd(model)
    strategy = strategy or SparseEvolution(schedule=Every(steps=2))
    return model, optimizer, sparsify(model, optimizer, strategy=strategy, sparsity=0.75, seed=7, storage=storage)


def nonzero(tensors, prefix=""):
    return sum(int(tensors[prefix + name].count_nonzero()) for name in NAMES)


def assert_masked(tensors, training, prefix=""):
    for name, mask in training.masks().items():
        assert not tensors[prefix + name][~mask].any(), name


AVERAGES = {
    "equal": {},
    "ema": {"multi_avg_fn": get_ema_multi_avg_fn(0.9)},
    "with buffers": {"avg_fn": get_ema_avg_fn(0.9), "use_buffers": True},
}


@pytest.mark.parametrize("case", AVERAGES)
def test_an_average_of_torch_is_dense_until_it_is_masked(case):
    model, optimizer, training = started()
    averaged = AveragedModel(model, **AVERAGES[case])
    for step in range(12):
        train(model, optimizer, [step])
        averaged.update_parameters(model)
    before = copy.deepcopy(averaged.state_dict())
    assert nonzero(before, "module.") > 1.5 * training.topology.size
    training.mask_(averaged)
    after = averaged.state_dict()
    assert_masked(after, training, "module.")
    for name, mask in training.masks().items():
        assert torch.equal(after["module." + name][mask], before["module." + name][mask])
    others = set(after) - {f"module.{name}" for name in NAMES}
    assert all(torch.equal(after[name], before[name]) for name in others)


def test_a_hand_made_average_is_masked_as_a_state_dict():
    model, optimizer, training = started()
    average = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(12):
        train(model, optimizer, [step])
        for name, value in model.state_dict().items():
            average[name].lerp_(value, 0.1)
    assert nonzero(average) > training.topology.size
    training.mask_(average)
    assert_masked(average, training)
    model.load_state_dict(average)
    training.squash()  # nothing is left that is not active
    assert nonzero(model.state_dict()) == nonzero(average)


@pytest.mark.parametrize(
    "wrap", [lambda model: torch.compile(model, backend="eager"), nn.DataParallel], ids=["compiled", "parallel"]
)
def test_names_may_have_a_prefix(wrap):
    model, _, training = started()
    copied = wrap(copy.deepcopy(model))
    for parameter in copied.parameters():
        nn.init.ones_(parameter)
    training.mask_(copied)
    inner = next(iter(copied.children()))
    assert nonzero(inner.state_dict()) == training.topology.size
    states = {f"inner.0.{name}": torch.ones_like(value) for name, value in model.state_dict().items()}
    training.mask_(states)
    assert nonzero(states, "inner.0.") == training.topology.size


def test_an_average_copied_into_the_model_is_masked_there():
    model, optimizer, training = started()
    for parameter in model.parameters():
        parameter.data.fill_(0.5)
    with pytest.raises(InputError, match="mask_"):
        training.squash()
    training.mask_(model)
    train(model, optimizer, range(2))
    training.squash()


REFUSED = {
    "another model": (lambda _: nn.Linear(3, 3), r"no tensor of the name 0\.weight"),
    "another shape": (
        lambda model: {**model.state_dict(), "2.weight": torch.ones(3)},
        r"2\.weight has the shape \(3,\)",
    ),
    "one is missing": (lambda model: {"0.weight": model.state_dict()["0.weight"]}, r"no tensor of the name 2\.weight"),
    "twice": (lambda model: nn.ModuleDict({"a": copy.deepcopy(model), "b": copy.deepcopy(model)}), "2 times"),
    "parameters": (lambda model: list(model.parameters()), "given list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_average_that_cannot_be_masked_is_refused_and_unchanged(case):
    make, sentence = REFUSED[case]
    model, optimizer, training = started()
    target = make(model)
    before = everything(model, optimizer)
    with pytest.raises(InputError, match=sentence):
        training.mask_(target)
    assert everything(model, optimizer) == before


@pytest.mark.parametrize("average", [get_ema_avg_fn(0.9), get_swa_avg_fn()], ids=["ema", "swa"])
def test_a_sparse_average_stays_sparse_and_does_not_shrink_late_growth(average):
    model, optimizer, training = started()
    averaged = AveragedModel(model, avg_fn=sparse_avg_fn(average))
    history = []
    for step in range(12):
        train(model, optimizer, [step])
        averaged.update_parameters(model)
        history.append({name: model.state_dict()[name].double() for name in NAMES})
        assert_masked(averaged.state_dict(), training, "module.")
        assert nonzero(averaged.state_dict(), "module.") <= training.topology.size
    for name in NAMES:  # by the definition: since the last step at which the weight was zero
        for index in history[-1][name].nonzero()[::3].tolist():
            values = [moment[name][tuple(index)].item() for moment in history]
            begin = max((step + 1 for step, value in enumerate(values) if value == 0), default=0)
            expected = values[begin]
            for step in range(begin + 1, len(values)):
                expected = average(torch.tensor(expected), torch.tensor(values[step]), step).item()
            actual = averaged.module.state_dict()[name][tuple(index)].item()
            assert actual == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_sparse_average_of_dense_weights_equals_the_plain_average():
    torch.manual_seed(0)
    plain, sparse, average = torch.randn(50), torch.randn(50), get_ema_avg_fn(0.9)
    assert torch.equal(sparse_avg_fn(average)(plain, sparse, 3), average(plain, sparse, 3))


@pytest.mark.parametrize("options", [{}, {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}], ids=["equal", "ema"])
def test_compact_storage_notices_an_average_before_weights_move(options):
    model, optimizer, training = started("compact")
    averaged = AveragedModel(model, **options)
    train(model, optimizer, [0])
    averaged.update_parameters(model)
    topology = training.topology
    with pytest.raises(InputError, match="storage='masked'"):
        train(model, optimizer, [1])
    assert training.topology is topology


def test_compact_storage_averages_weights_that_do_not_move():
    model, optimizer, training = started("compact", "static")
    averaged = AveragedModel(model)
    for step in range(4):
        train(model, optimizer, [step])
        averaged.update_parameters(model)
    assert loss_at(averaged, 0).isfinite()
    assert training.topology.size == len(averaged.module.sparse_values)


def test_copies_that_are_not_averages_do_not_block_updates():
    model, optimizer, training = started("compact")
    teacher, learner = copy.deepcopy(model), copy.deepcopy(model)
    other = sgd(learner)
    for step in range(5):
        train(model, optimizer, [step])
        train(learner, other, [step])
        loss_at(teacher, step)
    assert training.updates == 2
    plain = export.squashed_copy(training)
    with torch.no_grad():
        plain[0].weight.mul_(2)
    train(model, optimizer, range(5, 9))


@pytest.mark.parametrize("make", ["average of names", "average of the state dict"])
def test_a_hand_made_average_of_compact_values_is_refused_when_it_is_loaded(make):
    model, optimizer, training = started("compact")
    source = {
        "average of names": lambda: {name: value.detach() for name, value in model.named_parameters()},
        "average of the state dict": model.state_dict,
    }[make]
    average = {name: value.clone() for name, value in source().items()}
    for step in range(4):
        train(model, optimizer, [step])
        for name, value in source().items():
            if value.is_floating_point():
                average[name].lerp_(value, 0.1)

    def use():
        model.load_state_dict(average)
        model(torch.zeros(1, 6))

    with pytest.raises(InputError, match="topology"):
        use()
    assert training.updates == 2
