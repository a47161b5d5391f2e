"""Regions whose inputs, weights or results are of an unusual kind have the results and gradients of dense kernels."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sparsecore_cpu._kernels")

from kernel_examples import STORAGES
from region_examples import sparse
from torch import nn
from torch.nn import functional

from sparsecore_cpu.convolution import LayerKernels
from sparsecore_cpu.linear import SparseLinear


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.conv = nn.Linear(8, 8), nn.Linear(8, 8), nn.Conv2d(4, 4, 3, padding=1)
        self.gate = nn.Conv2d(4, 1, 1)
        self.register_buffer("numbers", torch.tensor([0, 1] * 4))


class TransposedInput(Layers):
    """The input's memory is not in the order of its dimensions, as that of an LSTM's output with batch_first."""

    shape = (4, 6, 8)

    def forward(self, x):
        return self.two(torch.relu(self.one(x.transpose(0, 1))).transpose(0, 1))


class OneTensorTwice(Layers):
    """Two inputs of a region are the same tensor, as ``contiguous`` and ``to`` return their argument."""

    shape = (5, 8)

    def forward(self, x):
        return self.one(x) * self.two(x.contiguous().to(torch.float32))


class TwoLayouts(Layers):
    """One tensor is read as images and as vectors."""

    shape = (2, 4, 6, 8)

    def forward(self, x):
        return self.one(x).square().sum() + (self.conv(x) * torch.linspace(0, 1, 8)).sum()


class OneChannel(Layers):
    """A factor for each image, and one for each pixel, over all channels."""

    shape = (3, 4, 6, 8)

    def forward(self, x):
        y = self.conv(x)
        return y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True))) + y * torch.sigmoid(self.gate(y))


class IntegerFactor(Layers):
    """A factor for each feature that is no float32."""

    shape = (5, 8)

    def forward(self, x):
        return self.two(self.one(x) * self.numbers)


class InPlaceUnknown(Layers):
    """A function in place that the kernels do not compute, and a view that is written to."""

    shape = (5, 8)

    def forward(self, x):
        y = functional.hardtanh(self.one(x), -0.3, 0.4, inplace=True)
        hidden = self.two(y)
        hidden[:, :4].mul_(2)
        return hidden.view(-1, 8) + y


class Relu6(Layers):
    """The activation function of mobile networks, which torch calls a hardtanh."""

    shape = (3, 4, 6, 8)

    def forward(self, x):
        return self.one(nn.ReLU6(inplace=True)(self.conv(x)))


class AddedWeight(Layers):
    """A sparse tensor is an operand of a sum."""

    shape = (8, 8)

    def forward(self, x):
        return self.one(x) + self.two.weight


def results_of(cls, kernels, storage):
    torch.manual_seed(0)
    model = cls()
    training = sparse(model, storage, kernels=kernels)
    x = torch.linspace(-3, 5, torch.Size(cls.shape).numel()).sin().reshape(cls.shape).requires_grad_()
    out = model(x)
    (out * torch.linspace(-1, 2, out.numel()).reshape(out.shape)).sum().backward()
    masks = training.masks()
    found = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return [out.detach(), x.grad, {name: one * masks.get(name, 1) for name, one in found.items()}]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(
    "cls", [TransposedInput, OneTensorTwice, TwoLayouts, OneChannel, IntegerFactor, InPlaceUnknown, Relu6, AddedWeight]
)
def test_results_and_gradients_are_those_of_dense_kernels(cls, storage):
    dense, found = results_of(cls, "dense", storage), results_of(cls, "sparse", storage)
    torch.testing.assert_close(found, dense, rtol=1e-4, atol=1e-5)


class Features(nn.Module):
    """Returns its features, too."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        features = functional.relu(self.second(functional.relu(self.norm(self.first(x))))).mean((2, 3))
        return features, self.head(features)


BACKBONE = ("first", "norm", "second")


@pytest.mark.parametrize("frozen", [("first",), ("second",), ("norm",), BACKBONE, (*BACKBONE, "head")], ids="+".join)
def test_frozen_layers_have_no_gradient_and_results_that_need_none_say_so(frozen):
    found = []
    for kernels in ("dense", "sparse"):
        torch.manual_seed(0)
        model = Features()
        training = sparse(model, kernels=kernels)
        for name in frozen:
            getattr(model, name).requires_grad_(False)
        features, out = model(torch.ones(5, 3, 7, 8).cumsum(3).cos())
        if out.requires_grad:
            out.square().sum().backward()
        masks = training.masks()
        gradients = {
            name: None if one.grad is None else one.grad * masks.get(name, 1) for name, one in model.named_parameters()
        }
        found.append((features.detach(), out.detach(), features.requires_grad, out.requires_grad, gradients))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_of_a_frozen_layer_no_gradient_of_weights_is_computed(monkeypatch):
    computed = []
    for cls in (LayerKernels, SparseLinear):
        for method in ("backward", "backward_weight"):
            original = getattr(cls, method)
            monkeypatch.setattr(
                cls, method, lambda self, *args, run=original: computed.append(type(self)) or run(self, *args)
            )
    model = Features()
    sparse(model)
    model.second.weight.requires_grad_(False)
    model.head.weight.requires_grad_(False)
    model(torch.ones(5, 3, 7, 8))[1].sum().backward()
    assert computed == [LayerKernels]  # that of the first convolution
    model.first.requires_grad_(False)
    model.norm.requires_grad_(False)
    model(torch.ones(5, 3, 7, 8))[1].sum().backward()
    assert computed == [LayerKernels]


def test_what_is_not_a_number_stays_so_through_relu():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.MaxPool2d(2)
    )
    sparse(model, sparsity=0.1)
    model.eval()
    x = torch.zeros(3, 1, 8, 8)
    x[1, 0, 4, 4] = float("nan")
    assert model(x).isnan().flatten(1).any(1).tolist() == [False, True, False]


class Observed(nn.Module):
    """Returns a hidden tensor, too, and hooks another one."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        hidden = torch.relu(self.one(x))
        hooked = self.two(hidden)
        out = self.three(torch.tanh(hooked))
        hooked.register_hook(lambda gradient: 3 * gradient)
        return hidden, out


def test_hidden_tensors_that_are_returned_or_hooked_have_their_whole_gradient():
    found = []
    for kernels in ("dense", "sparse"):
        torch.manual_seed(0)
        model = Observed()
        sparse(model, kernels=kernels)
        x = torch.randn(5, 6, requires_grad=True)
        hidden, out = model(x)
        hidden.retain_grad()
        (out.square().sum() + hidden.sum()).backward()
        found.append([hidden, out, hidden.grad, x.grad, model.one.bias.grad])
    torch.testing.assert_close(*found)


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        hidden = torch.relu(self.trunk(x))
        return self.one(hidden), self.two(hidden)


@pytest.mark.parametrize("storage", STORAGES)
def test_weights_that_the_loss_does_not_depend_on_have_no_gradient(storage):
    torch.manual_seed(0)
    model = Heads()
    sparse(model, storage)
    model(torch.randn(5, 6))[0].sum().backward()
    parameters = dict(model.named_parameters())
    unused = {name for name, one in parameters.items() if one.grad is None}
    assert unused == ({"two.weight", "two.bias"} if storage == "masked" else {"two.bias"})


class Differentiating(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (force,) = torch.autograd.grad(self.two(torch.tanh(self.one(x))).sum(), x)
        return self.two(torch.tanh(self.one(force)))


def test_a_model_may_differentiate_in_its_forward_pass():
    found = []
    for kernels in ("dense", "sparse"):
        torch.manual_seed(0)
        model = Differentiating()
        sparse(model, kernels=kernels)
        out = model(torch.randn(5, 6))
        out.sum().backward()
        found.append([out, model.one.bias.grad])
    torch.testing.assert_close(*found)


def test_regions_are_float32_whatever_the_default_dtype():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    sparse(model)
    x = torch.randn(5, 6)
    torch.manual_seed(1)
    expected = model(x)
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(1)
        out = model(x)
        out.sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(out, expected)


def test_bfloat16_without_autocast_is_the_error_that_it_is_in_torch():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    sparse(model)
    with pytest.raises(RuntimeError, match="same dtype"):
        model(torch.ones(5, 6, dtype=torch.bfloat16))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # Dynamo reads it of each tensor
def test_a_compiled_function_may_call_the_backward_pass():
    found = []
    for kernels in ("dense", "sparse"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        training = sparse(model, "compact", kernels=kernels)

        def pass_both_ways(x, model=model):
            model(x).square().mean().backward()

        torch.compile(pass_both_ways, backend="eager")(torch.ones(4, 6))
        found.append([one.grad for one in model.parameters()])
        training.squash()
    torch.testing.assert_close(*found)
