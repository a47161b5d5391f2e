"""Transforms of torch.func, forward mode and batched gradients give what a plain dense model gives, or a sentence."""

import pytest

torch = pytest.importorskip("torch")

from kernel_examples import always
from pairwise import every_pair
from sparsify_examples import mlp, sgd, train
from torch import nn
from torch.autograd import forward_ad

from sparsecore.errors import InputError
from sparsecore_torch import sparsify
from sparsecore_torch._torch_internals.autograd import are_transforms_active, is_batched, is_forward_mode_active
from sparsecore_torch.sparse_training.export import squashed_copy

STORED = [(storage, kernels) for storage in ("masked", "compact") for kernels in ("dense", "sparse")]


def in_forward_mode(model, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(model(forward_ad.make_dual(x, x.flip(0)))).tangent


TRANSFORMS = {
    "vmap": lambda model, x: torch.func.vmap(model)(x),
    "grad": lambda model, x: torch.func.grad(lambda one: model(one).sum())(x[0]),
    "per-sample gradients": lambda model, x: torch.func.vmap(torch.func.grad(lambda one: model(one).square().sum()))(x),
    "jvp": lambda model, x: torch.func.jvp(model, (x,), (x.flip(0),))[1],
    "jacrev": lambda model, x: torch.func.jacrev(model)(x[0]),
    "jacfwd": lambda model, x: torch.func.jacfwd(model)(x[0]),
    "hessian": lambda model, x: torch.func.hessian(lambda one: model(one).square().sum())(x[0]),
    "forward mode": in_forward_mode,
    "jacobian": torch.autograd.functional.jacobian,
}


def sparse_model(storage, kernels):
    if kernels == "sparse":
        pytest.importorskip("sparsecore_cpu._kernels")
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, sparsity=0.5, storage=storage, kernels=kernels)
    train(model, optimizer, [0])
    return model, optimizer, training


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own, for forward mode
@every_pair(name=TRANSFORMS, storage=["masked", "compact"], kernels=["dense", "sparse"])
def test_transforms_equal_those_of_a_plain_copy_and_are_refused_by_the_sparse_kernels(storage, kernels, name):
    model, optimizer, training = sparse_model(storage, kernels)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    expected = TRANSFORMS[name](squashed_copy(training), x)
    if kernels == "sparse" and name != "jacobian":  # which makes ordinary backward passes
        with pytest.raises(InputError, match=r"torch\.func.*forward mode.*kernels='dense'.*squashed_copy"):
            TRANSFORMS[name](model, x)
    else:
        torch.testing.assert_close(TRANSFORMS[name](model, x), expected)
    train(model, optimizer, [1])
    assert training.step == 2


@pytest.mark.parametrize(("storage", "kernels"), STORED)
def test_functional_calls_accept_other_values(storage, kernels):
    model, _, training = sparse_model(storage, kernels)
    x = torch.randn(4, 6)
    other = {name: torch.full_like(parameter, 0.5) for name, parameter in model.named_parameters()}
    if storage == "masked":
        other = {name: one * training.masks().get(name, 1.0) for name, one in other.items()}
    plain = squashed_copy(training)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.copy_(0.5 * training.masks().get(name, torch.ones(())))
    torch.testing.assert_close(torch.func.functional_call(model, other, (x,)), plain(x))
    if storage == "compact":
        before = model(x)
        for weight in (torch.ones(6, 6), nn.Parameter(torch.ones(6, 6))):
            with pytest.raises(InputError, match=r"the weight of this Linear is in compact storage, .* sparse_values"):
                torch.func.functional_call(model, {"0.weight": weight}, (x,))
        with pytest.raises(InputError, match=r"weight of this Linear .* drawn anew"):
            model[0].reset_parameters()
        torch.testing.assert_close(model(x), before)

    def loss(parameters):
        return torch.func.functional_call(model, parameters, (x,)).square().sum()

    if kernels == "sparse":
        with pytest.raises(InputError, match=r"torch\.func"):
            torch.func.grad(loss)(other)
        return
    gradients = torch.func.grad(loss)(other)
    plain(x).square().sum().backward()
    if storage == "compact":
        entries = [plain.get_parameter(name).grad[mask] for name, mask in training.masks().items()]
        torch.testing.assert_close(gradients["sparse_values"], torch.cat(entries))
    else:
        torch.testing.assert_close(gradients["0.weight"], plain[0].weight.grad)


@pytest.mark.parametrize(("storage", "kernels"), STORED)
def test_batched_gradients_equal_single_ones_or_are_refused(storage, kernels):
    model, _, training = sparse_model(storage, kernels)
    always(training)
    x = torch.randn(4, 6)
    directions = torch.eye(12).view(12, 4, 3)

    def at_once(model):
        return torch.autograd.grad(model(x), list(model.parameters()), directions, is_grads_batched=True)

    if kernels == "sparse":
        with pytest.raises(InputError, match=r"one backward pass at a time.*kernels='dense'"):
            at_once(model)
        return
    one_by_one = [torch.autograd.grad(model(x), list(model.parameters()), direction) for direction in directions]
    for mine, its in zip(at_once(model), zip(*one_by_one, strict=True), strict=True):
        torch.testing.assert_close(mine, torch.stack(its))
    if storage == "masked":
        assert not at_once(model)[0][:, ~training.masks()["0.weight"]].any()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_active_transforms_are_detected_only_inside_them():
    seen = []
    torch.func.vmap(lambda x: seen.append(are_transforms_active()) or x)(torch.ones(2))
    with forward_ad.dual_level():
        seen.append(is_forward_mode_active())
    assert seen == [True, True]
    assert not are_transforms_active()
    assert not is_forward_mode_active()
    x = torch.ones(3, requires_grad=True)
    (2 * x).register_hook(lambda gradient: seen.append(is_batched(gradient)))
    y = 2 * x
    y.register_hook(lambda gradient: seen.append(is_batched(gradient)))
    torch.autograd.grad(y, x, torch.eye(3), is_grads_batched=True, retain_graph=True)
    torch.autograd.grad(y, x, torch.ones(3))
    assert seen[2:] == [True, False]


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated", "ignore:`torch.jit.script` is deprecated")
@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated", "ignore:`torch.jit.trace_method` is deprecated")
@pytest.mark.parametrize(("storage", "kernels"), STORED)
def test_exports_compute_the_same_or_say_what_to_export(storage, kernels):
    model, optimizer, training = sparse_model(storage, kernels)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    plain = squashed_copy(training)
    expected = plain(x)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)
    if (storage, kernels) != ("masked", "dense"):
        for module in (model, nn.Sequential(model)):
            with pytest.raises(InputError, match=r"torch\.jit\.script .*squashed_copy"):
                torch.jit.script(module)
            with pytest.raises(InputError, match=r"torch\.fx\.symbolic_trace .*squashed_copy"):
                torch.fx.symbolic_trace(module)
    else:
        torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), expected)
    if storage == "compact":
        with pytest.raises(InputError, match=r"torch\.jit\.trace .*squashed_copy.*to_onnx"):
            torch.jit.trace(model, (x,))
    else:
        torch.testing.assert_close(torch.jit.trace(model, (x,))(x), expected)
    torch.testing.assert_close(torch.jit.script(plain)(x), expected)
    torch.testing.assert_close(torch.jit.trace(plain, (x,))(x), expected)
    train(model, optimizer, [1])
    assert training.step == 2
