"""A training that a module holds: under which name, and what copies of it are."""

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import everything, loss_at, mlp, often, sgd, train
from torch import nn

from sparsecore.errors import InputError
from sparsecore_torch import SparseTraining, sparsify


class Holder(nn.Module):
    """A network that keeps its sparse training, as a LightningModule would."""

    def __init__(self, storage="masked"):
        super().__init__()
        self.net = mlp()
        self.optimizer = sgd(self.net)
        self.sparse_training = sparsify(
            self.net, self.optimizer, strategy=often(every=1), sparsity=0.75, storage=storage
        )

    def forward(self, x):
        return self.net(x)


class OverItsFlag(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()
        self.training = sparsify(self.net, sgd(self.net))


class OfAnotherModule(nn.Linear):
    """A class with an own way to set attributes, like LightningModule's."""

    def __setattr__(self, name, value):
        super().__setattr__(name, value)


def test_assigning_a_training_to_module_training_is_refused():
    with pytest.raises(InputError, match=r"self.training is torch's own flag.*self.sparse_training = sparsify"):
        OverItsFlag()
    model = mlp()
    training = sparsify(model, sgd(model))
    for module in (nn.Module(), OfAnotherModule(2, 2), model):
        with pytest.raises(InputError, match="another name"):
            module.training = training
        with pytest.raises(InputError, match="another name"):
            setattr(module, "training", training)  # noqa: B010
        assert module.training is True
        module.trainer = training
        assert module.trainer is training
    assert isinstance(training, SparseTraining)
    assert not isinstance(training, nn.Module)


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_a_deep_copy_of_a_module_with_its_training_is_plain_and_the_original_continues(storage):
    holder = Holder(storage)
    train(holder, holder.optimizer, range(2))
    copied = copy.deepcopy(holder)
    before = everything(copied, copied.optimizer)
    train(holder, holder.optimizer, range(2, 4))
    assert (holder.sparse_training.step, holder.sparse_training.updates) == (4, 4)
    assert everything(copied, copied.optimizer) == before
    with pytest.raises(InputError, match="this is a copy of a sparse training"):
        _ = copied.sparse_training.topology
    copied.sparse_training.squash()
    assert "a copy" in repr(copied.sparse_training)
    loss_at(copied, 0).backward()


def test_a_module_that_holds_its_training_can_be_pickled():
    holder = Holder()
    train(holder, holder.optimizer, range(2))
    again = pickle.loads(pickle.dumps(holder))
    for mine, its in zip(again.parameters(), holder.parameters(), strict=True):
        assert torch.equal(mine, its)
    with pytest.raises(InputError, match="copy of a sparse training"):
        again.sparse_training.state_dict()
    train(again, again.optimizer, [2])
    assert again.net[0].weight.count_nonzero() > holder.net[0].weight.count_nonzero()


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_of_a_training_says_that_it_is_a_copy(copying):
    model = mlp()
    training = sparsify(model, sgd(model))
    copied = copying(training)
    with pytest.raises(InputError, match=r"copy of a sparse training.*state dicts"):
        copied.summary()
    assert training.step == 0
