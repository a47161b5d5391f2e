"""Gradients of compact storage are joined in memory that is used again, and are those of masks whatever is computed."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sparsecore_cpu._kernels")

from region_examples import sparse
from torch import nn

from sparsecore_torch.sparse_training.storage.joined_gradients import GradientMemory


class Branches(nn.Module):
    """Three layers with regions of their own and no common gradients; the last weight is read outside of it, too."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (nn.Linear(8, 8, bias=False) for _ in range(3))

    def forward(self, x):
        one = torch.sin(self.one(x))
        two = torch.sin(self.two(one.detach()))
        return one, two, torch.sin(self.three(two.detach())) @ self.three.weight


X = torch.linspace(-3, 5, 48).sin().reshape(6, 8)


def prepared(storage, sparsity):
    torch.manual_seed(0)
    model = Branches()
    return model, sparse(model, storage, sparsity=sparsity)


def by_masks(sparsity, *losses):
    """The gradients of active weights that ordinary backward passes of dense layers give, one behind another."""
    model, training = prepared("masked", sparsity)
    plain = Branches().double()
    plain.load_state_dict(model.state_dict())
    for loss in losses:
        loss(plain(X.double())).backward()
    gradients = {name: one.grad for name, one in plain.named_parameters()}
    return torch.cat(
        [
            torch.zeros(int(mask.sum())) if gradients[name] is None else gradients[name][mask]
            for name, mask in training.masks().items()
        ]
    )


def first(outputs):
    return outputs[0].square().sum()


def second(outputs):
    return (outputs[1] * torch.linspace(0, 1, 48, dtype=outputs[1].dtype).reshape(6, 8)).sum()


def third(outputs):
    return outputs[2].square().mean()


def both(outputs):
    return first(outputs) + second(outputs) + third(outputs)


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
def test_backward_passes_in_any_order_give_the_gradients_of_masks(sparsity):
    model, _ = prepared("compact", sparsity)
    values = model.sparse_values

    def check(*losses):
        torch.testing.assert_close(values.grad.double(), by_masks(sparsity, *losses).double(), rtol=1e-4, atol=1e-5)
        values.grad = None

    for _ in range(2):  # from the second time on in memory that is used again
        both(model(X)).backward()
        check(both)
    outputs = model(X)
    first(outputs).backward()
    kept = values.grad.clone()
    given = values.grad
    values.grad = None
    second(outputs).backward()  # what the first pass has returned stays as it is
    torch.testing.assert_close(given, kept)
    check(second)
    outputs = model(X)
    for loss in (first, second, third):
        loss(outputs).backward()
    check(first, second, third)
    outputs = model(X)
    both(outputs).backward(retain_graph=True)
    kept, given = values.grad.clone(), values.grad
    values.grad = None
    both(outputs).backward()
    torch.testing.assert_close(given, kept)
    check(both)
    one, other = model(X), model(X)
    both(other).backward()
    both(one).backward()
    check(both, both)


def test_a_vector_is_used_again_only_when_nothing_refers_to_it():
    memory = GradientMemory()
    vector = memory.take(6)
    address = vector.ctypes.data
    part = torch.from_numpy(vector[2:4])
    del vector
    assert memory.take(6).ctypes.data != address
    del part
    assert address in {one.ctypes.data for one in (memory.take(6), memory.take(6))}
    assert memory.take(7).size == 7


def test_all_weights_active_are_read_without_a_copy():
    model, _ = prepared("compact", 0.0)
    with torch.no_grad():
        assert model.one.weight.data_ptr() == model.sparse_values.data_ptr()
    model, _ = prepared("compact", 0.5)
    assert model.one.weight.untyped_storage().data_ptr() != model.sparse_values.untyped_storage().data_ptr()
