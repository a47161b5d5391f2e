"""Full tensors of compact storage that torch multiplies by have their gradients where all gradients are joined."""

import copy

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sparsecore_cpu._kernels")

from region_examples import sparse
from torch import nn

from sparsecore.errors import InputError
from sparsecore_torch.sparse_training.storage import joined_gradients

GIVEN = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0))


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 8, bias=False)
        self.three = nn.Linear(8, 4)

    def forward(self, x):
        hidden = torch.relu(self.one(x))
        return self.three(hidden + self.two(hidden))


def made(**options):
    torch.manual_seed(1)
    plain = Layers()
    model = copy.deepcopy(plain)
    training = sparse(model, "compact", **{"sparsity": 0.0, **options})
    training.use_kernels("dense")
    return plain, model, training


def once(model):
    model(GIVEN).square().sum().backward()


def kept(model):
    loss = model(GIVEN).square().sum()
    loss.backward(retain_graph=True)
    loss.backward()


def accumulated(model):
    once(model)
    model(GIVEN[:2]).sum().backward()


@pytest.mark.parametrize("run", [once, kept, accumulated])
def test_gradients_are_those_of_plain_torch(run):
    plain, model, _ = made()
    for _ in range(2):
        run(plain)
        run(model)
    expected = torch.cat([layer.weight.grad.flatten() for layer in (plain.one, plain.two, plain.three)])
    torch.testing.assert_close(model.sparse_values.grad, expected)
    torch.testing.assert_close(model.one.bias.grad, plain.one.bias.grad)


def test_gradients_are_written_where_they_are_joined(monkeypatch):
    _, model, _ = made()
    once(model)  # in the first step it was measured what computes
    places = []
    join = joined_gradients.JoinedGradient.join

    def spied(self, gradients, *args, **kwargs):
        places.extend((one.data_ptr(), self._parts[index].ctypes.data) for index, one in enumerate(gradients))
        return join(self, gradients, *args, **kwargs)

    monkeypatch.setattr(joined_gradients.JoinedGradient, "join", spied)
    model.sparse_values.grad = None
    once(model)
    assert len(places) == 3
    assert all(given == part for given, part in places)


@pytest.mark.parametrize("lowered", [False, True], ids=["float32", "autocast"])
def test_tensors_that_are_not_full_and_autocast_are_computed_as_before(lowered):
    found = []
    for kernels in ("dense", "sparse"):
        torch.manual_seed(1)
        model = Layers()
        training = sparse(model, "compact", sparsity={"one.*": 0.0, "two.*": 0.5, "three.*": 0.0}, kernels=kernels)
        if kernels == "sparse":
            training.use_kernels("dense")
        with torch.autocast("cpu", torch.bfloat16, enabled=lowered):
            loss = model(GIVEN).square().sum()
        loss.backward()
        found.append(model.sparse_values.grad)
    torch.testing.assert_close(*found)


def test_second_derivatives_are_refused():
    _, model, _ = made()
    with pytest.raises(InputError, match="differentiated once"):
        torch.autograd.grad(model(GIVEN).square().sum(), model.sparse_values, create_graph=True)
