"""No parameter is made sparse twice, whatever it is held by, and none that shares its memory with another one."""

import copy
import gc

import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import assert_inactive_is_zero, everything, loss_at, mlp, sgd, train
from torch import nn

from sparsecore.errors import InputError
from sparsecore_torch import sparsify

STORAGES = ["masked", "compact"]


def shared_linear(weight):
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    module.weight = weight
    return module


def holding(weight):
    """A model of its own that holds a parameter of another one."""
    return nn.Sequential(shared_linear(weight), nn.Linear(weight.shape[0], 4))


def view(weight):
    return nn.Parameter(weight.detach().view(-1).view(weight.shape))


def transposed(weight):
    return nn.Parameter(weight.detach().t())


def part(weight):
    return nn.Parameter(weight.detach()[2:5])


@pytest.mark.filterwarnings("ignore::sparsecore.errors.LostWeightsWarning")  # positions are drawn anew on purpose
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("again", [lambda weight: weight, view, transposed, part], ids=["same", "view", "t", "part"])
def test_a_parameter_in_training_is_refused_in_another_model(again, storage):
    model = mlp()
    other = holding(again(model[2].weight))
    first = sgd(model)
    training = sparsify(model, first, include="*weight", sparsity=0.5, storage=storage)
    optimizer = sgd(other)
    before = everything(other, optimizer)
    with pytest.raises(InputError, match=r"0\.weight.* in sparse training already"):
        sparsify(other, optimizer, include="0.weight", sparsity=0.5)
    assert everything(other, optimizer) == before
    training.squash()
    ended = sparsify(other, optimizer, include="0.weight", sparsity=0.5)
    assert int(other[0].weight.count_nonzero()) <= ended.topology.size


def test_two_trainings_of_one_parameter_are_refused():
    shared = nn.Parameter(torch.randn(16, 20))
    first, second = holding(shared), holding(shared)
    training = sparsify(first, sgd(first), include="0.weight", sparsity=0.5)
    with pytest.raises(InputError, match="in sparse training already"):
        sparsify(second, sgd(second), include="0.weight", sparsity=0.5, seed=1)
    assert int(shared.count_nonzero()) == training.topology.size == 160


def test_a_parameter_that_is_tied_afterwards_is_refused():
    model = mlp()
    training = sparsify(model, sgd(model), include="2.weight", sparsity=0.5)
    other = nn.Sequential(nn.Linear(12, 10), nn.Linear(10, 3))
    other[0].weight = model[2].weight
    with pytest.raises(InputError, match=r"0\.weight.* in sparse training already"):
        sparsify(other, sgd(other), include="0.weight")
    assert int(other[0].weight.count_nonzero()) == training.topology.size


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("make", [view, transposed, part], ids=["view", "t", "part"])
@pytest.mark.parametrize("include", [["0.weight", "1.weight"], "0.weight", "1.weight"], ids=str)
def test_views_of_one_memory_are_refused_by_name(make, include, storage):
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 3))
    model[1].weight = make(model[0].weight)
    optimizer = sgd(model)
    before = everything(model, optimizer)
    with pytest.raises(InputError, match=r"0\.weight and 1\.weight are views of the same memory"):
        sparsify(model, optimizer, include=include, sparsity=0.5, storage=storage)
    assert everything(model, optimizer) == before
    sparsify(model, optimizer, include="2.weight", sparsity=0.5, storage=storage)  # what is left dense may be views


def test_a_view_that_only_the_optimizer_holds_is_refused():
    model = mlp()
    optimizer = torch.optim.SGD([*model.parameters(), view(model[2].weight)], lr=0.1)
    with pytest.raises(InputError, match=r"2\.weight and a parameter of the optimizer"):
        sparsify(model, optimizer, include="2.weight")


def test_disjoint_parts_of_one_storage_are_accepted():
    memory = torch.randn(20, 40)
    halves = [memory[:, :20], memory[:, 20:], memory.new_empty(0)]
    rows = [nn.Parameter(half) for half in halves[:2]]
    flat = torch.randn(200)
    model = nn.ParameterDict(
        {
            "left": rows[0],
            "right": rows[1],
            "even": nn.Parameter(flat[::2].view(10, 10)),
            "odd": nn.Parameter(flat[1::2].view(10, 10)),
        }
    )
    training = sparsify(model, sgd(model), include="*", sparsity=0.5)
    assert int((memory != 0).sum() + (flat != 0).sum()) == training.topology.size == 500


@pytest.mark.parametrize("collected", [True, False], ids=["collected", "held"])
def test_a_training_that_is_no_longer_referred_to_frees_its_tensors(collected):
    model = mlp()
    held = [sgd(model)]
    sparsify(model, held[0], include="2.weight", sparsity=0.5)
    if collected:
        held.clear()
        gc.collect()
        optimizer = sgd(model)
        with torch.no_grad():
            model[2].weight.normal_()
        training = sparsify(model, optimizer, include="2.weight", sparsity=0.5, seed=5, strategy="static")
        loss_at(model, 0).backward()
        gradient = model[2].weight.grad
        # the masks of the first training are gone: the gradient reaches all weights of the second
        assert torch.equal(gradient != 0, training.masks()["2.weight"] & (gradient != 0))
        train(model, optimizer, range(3))
        assert int(model[2].weight.count_nonzero()) == training.topology.size
    else:
        gc.collect()
        with pytest.raises(InputError, match="in sparse training already"):
            sparsify(model, held[0], include="2.weight", sparsity=0.5)


def test_an_uncollected_training_does_not_block_a_new_one():
    model = mlp()
    gc.disable()  # as often in a notebook, nothing is collected between two runs of a cell
    try:
        for _ in range(3):
            optimizer = sgd(model)
            torch.optim.lr_scheduler.StepLR(optimizer, 2)  # puts a step on the instance, which refers to it
            training = sparsify(model, optimizer, strategy="static", sparsity=0.5)
            train(model, optimizer, range(3))
            assert_inactive_is_zero(model, optimizer, training)
            del optimizer, training
    finally:
        gc.enable()


def test_a_compact_model_without_its_training_is_refused_with_the_remedy():
    model = mlp()
    sparsify(model, sgd(model), sparsity=0.5, storage="compact")
    for left in (copy.deepcopy(model), model):
        gc.collect()
        with pytest.raises(InputError, match=r"compact storage.*squash"):
            sparsify(left, sgd(left), sparsity=0.5)


def test_a_model_that_is_collected_leaves_nothing_behind():
    def forgotten():
        model = mlp()
        sparsify(model, sgd(model), sparsity=0.5)

    from sparsecore_torch.sparse_training import checks

    gc.collect()
    others = len(checks._CLAIMS)  # of models that other tests still hold
    forgotten()
    gc.collect()
    assert len(checks._CLAIMS) == others
