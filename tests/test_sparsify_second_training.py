"""Several trainings of one model on different tensors: each goes on as if it were alone, and they end in any order."""

import copy
import itertools

import pytest

torch = pytest.importorskip("torch")

from pairwise import every_pair
from sparsify_examples import assert_inactive_is_zero, mlp, often, sgd, train_by
from torch import nn

from sparsecore.errors import InputError
from sparsecore.strategy import Every
from sparsecore_strategies.set import SparseEvolution
from sparsecore_torch import sparsify
from sparsecore_torch.sparse_training import export

STORAGES = ["masked", "compact"]
PAIRS = list(itertools.product(STORAGES, STORAGES))
ENDS = {"0.weight": {"sparsity": 0.7}, "2.weight": {"sparsity": 0.5, "seed": 3}}


def strategies():
    return {"0.weight": often(every=2), "2.weight": SparseEvolution(schedule=Every(steps=3))}


def begun(model, optimizer, storages):
    pairs = zip(ENDS.items(), storages, strict=True)
    return [
        sparsify(model, optimizer, include=name, strategy=strategies()[name], storage=storage, **options)
        for (name, options), storage in pairs
    ]


def together():
    """The same by one training with two groups, whose first is drawn with the seed of the first training."""
    model = mlp()
    optimizer = sgd(model)
    first = sparsify(model, optimizer, include="0.weight", strategy=strategies()["0.weight"], **ENDS["0.weight"])
    second = sparsify(model, optimizer, include="2.weight", strategy=strategies()["2.weight"], **ENDS["2.weight"])
    return model, optimizer, first, second


@pytest.mark.parametrize("storages", PAIRS)
def test_each_training_moves_its_own_weights_as_with_masks_and_they_end_in_any_order(storages):
    expected, reference, *_ = together()
    train_by(expected, [reference], range(8))
    for order in ([0, 1], [1, 0]):
        model = mlp()
        optimizer = sgd(model)
        before = [id(one) for one in optimizer.param_groups[0]["params"]]
        trainings = begun(model, optimizer, storages)
        train_by(model, [optimizer], range(8))
        assert [one.updates for one in trainings] == [4, 2]
        assert [list(one.topology.layout.names) for one in trainings] == [["0.weight"], ["2.weight"]]
        for index in order:
            trainings[index].squash()
            train_by(model, [optimizer], range(0))
            other = trainings[1 - index]
            if index == order[0]:
                assert other.values().numel() == other.topology.size
        for one, same in zip(model.parameters(), expected.parameters(), strict=True):
            assert torch.equal(one, same)
        held = optimizer.param_groups[0]["params"]
        assert [id(one) for one in held] == [id(one) for one in model.parameters()]
        assert len(held) == len(before)
        train_by(model, [optimizer], range(8, 10))


@pytest.mark.parametrize("storages", PAIRS)
def test_when_one_has_ended_the_other_goes_on(storages):
    model = mlp()
    optimizer = sgd(model)
    first, second = begun(model, optimizer, storages)
    train_by(model, [optimizer], range(3))
    active = first.topology.size
    first.squash()
    train_by(model, [optimizer], range(3, 9))
    assert second.step == 9
    assert int((model[0].weight != 0).sum()) > active
    assert int((model[2].weight != 0).sum()) <= second.topology.size
    third = sparsify(model, optimizer, include="0.weight", start="magnitude", sparsity=0.5, storage=storages[0])
    train_by(model, [optimizer], range(9, 11))
    assert (second.step, third.step) == (11, 2)
    second.squash()
    third.squash()
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in mlp().named_parameters()]


@pytest.mark.parametrize("storages", PAIRS)
@pytest.mark.parametrize("backwards", [False, True])
def test_state_dicts_are_independent_and_resume_bit_for_bit(storages, backwards):
    model = mlp()
    optimizer = sgd(model)
    trainings = begun(model, optimizer, storages)
    train_by(model, [optimizer], range(5))
    saved = copy.deepcopy([one.state_dict() for one in (*trainings, model, optimizer)])
    assert list(saved[0]["tensors"]) == ["0.weight"]
    assert list(saved[1]["tensors"]) == ["2.weight"]
    train_by(model, [optimizer], range(5, 10))
    again = mlp(seed=5)
    second = sgd(again)
    resumed = begun(again, second, storages)
    pairs = list(zip((*resumed, again, second), saved, strict=True))
    for one, state in pairs[::-1] if backwards else pairs:
        one.load_state_dict(state)
    train_by(again, [second], range(5, 10))
    for one, other in zip(trainings, resumed, strict=True):
        assert one.topology.sha256() == other.topology.sha256()
        assert torch.equal(one.values(), other.values())
    with pytest.raises(InputError, match="another training"):
        resumed[0].load_state_dict(saved[1])


@pytest.mark.parametrize("storages", PAIRS)
def test_copies_and_exports_are_plain_models(storages):
    model = mlp()
    optimizer = sgd(model)
    trainings = begun(model, optimizer, storages)
    train_by(model, [optimizer], range(4))
    inputs = torch.randn(3, 6)
    copied = copy.deepcopy(model)
    assert torch.equal(copied(inputs), model(inputs))
    plain = export.squashed_copy(trainings[0])
    assert torch.equal(plain(inputs), model(inputs))
    assert list(plain.state_dict()) == list(mlp().state_dict())


@every_pair(
    storage=STORAGES,
    second=STORAGES,
    options=[{}, {"include": "*"}, {"include": nn.Linear}, {"sparsity": {"0.*": 0.5}}],
)
def test_tensors_that_are_chosen_twice_are_refused_by_name_and_nothing_has_changed(storage, second, options):
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, include="0.weight", sparsity=0.5, storage=storage)
    values = training.values()
    with pytest.raises(InputError, match=r"0\.weight.*in sparse training already"):
        sparsify(model, optimizer, storage=second, **options)
    assert torch.equal(training.values(), values)
    train_by(model, [optimizer], range(2))
    assert training.step == 2


@pytest.mark.parametrize("storage", STORAGES)
def test_trainings_may_have_optimizers_of_their_own(storage):
    model = mlp()
    first = sgd(model[0])
    second = torch.optim.AdamW(nn.ModuleList([model[2], model[4]]).parameters(), lr=0.01)
    one = sparsify(model, first, include="0.weight", strategy=often(), sparsity=0.5, storage=storage)
    two = sparsify(model, second, include="2.weight", strategy=often(), sparsity=0.5, storage=storage)
    train_by(model, [first, second], range(4))
    train_by(model, [second], range(4, 6))
    assert (one.step, two.step) == (4, 6)
    one.squash()
    two.squash()
    assert_inactive_is_zero(model, first, sparsify(model, first, include="0.weight", start="nonzero"))


def test_wrappers_of_an_optimizer_stay_known_until_its_last_training_ends():
    from sparsecore_torch.sparse_training.optimizers.wrapped import layers_of, others_of

    class Wrapper:
        def __init__(self, optimizer):
            self.optimizer = optimizer
            self.state, self.param_groups = {}, optimizer.param_groups

        def step(self):
            self.optimizer.step()

    wrapper = Wrapper(sgd(mlp()))
    first, second = layers_of(wrapper), layers_of(wrapper)
    first.remember()
    second.remember()
    first.forget()
    assert others_of(wrapper.optimizer) == (wrapper,)
    second.forget()
    assert others_of(wrapper.optimizer) == ()


def test_two_tensors_of_one_module_in_compact_storage_belong_in_one_training():
    model = nn.Sequential(nn.Bilinear(6, 6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    model[1].other = nn.Parameter(torch.randn(6, 6))
    optimizer = sgd(model)
    sparsify(model, optimizer, include="1.weight", storage="compact")
    with pytest.raises(InputError, match=r"1\.other.*weight.*one training"):
        sparsify(model, optimizer, include="1.other", storage="compact")
    assert sparsify(model, optimizer, include="1.other").topology.size


def test_a_step_that_one_training_replaces_is_left_out_for_all():
    from sparsecore_strategies.rigl import RigL

    model = mlp()
    optimizer = sgd(model)
    rigl = sparsify(
        model, optimizer, include="2.weight", strategy=RigL(schedule=Every(steps=2)), sparsity=0.5, total_steps=20
    )
    other = sparsify(model, optimizer, include="0.weight", strategy="static", sparsity=0.5)
    train_by(model, [optimizer], range(1))
    before = other.values()
    train_by(model, [optimizer], range(1, 2))
    assert rigl.updates == 1
    assert torch.equal(other.values(), before)
    train_by(model, [optimizer], range(2, 30))
    assert (rigl.step, other.step) == (30, 30)


def test_state_dicts_of_a_dense_model_are_of_one_training_for_each_optimizer():
    model = mlp()
    optimizer = sgd(model)
    first, second = begun(model, optimizer, ["compact", "compact"])
    with pytest.raises(InputError, match="2 trainings"):
        second.keep_state_dicts_plain()
    second.squash()
    first.keep_state_dicts_plain()
    train_by(model, [optimizer], range(2))
    assert len(optimizer.state_dict()["state"]) == 6
    assert set(model.state_dict()) == set(mlp().state_dict())
    sparsify(model, optimizer, include="2.weight", start="magnitude", sparsity=0.5, storage="compact")
    with pytest.raises(InputError, match="2 trainings"):
        optimizer.state_dict()
