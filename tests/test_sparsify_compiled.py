"""A compiled model, or a compiled step of the optimizer, trains the same and is compiled once."""

import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import (
    loss_at,
    mlp,
    often,
    sgd,
    train,
)
from test_sparsify_loops import weights_after
from torch._dynamo.testing import CompileCounterWithBackend

from sparsecore_torch import sparsify


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("first", ["compile", "sparsify"])
def test_a_compiled_model_is_compiled_once_and_trains_the_same(backend, first):
    torch._dynamo.reset()
    expected = weights_after(mlp())
    counter = CompileCounterWithBackend(backend)
    model = mlp()
    if first == "compile":
        compiled = torch.compile(model, backend=counter)
        optimizer = sgd(model)
        training = sparsify(compiled, optimizer, strategy=often(), sparsity=0.75)
    else:
        optimizer = sgd(model)
        training = sparsify(model, optimizer, strategy=often(), sparsity=0.75)
        compiled = torch.compile(model, backend=counter)
    train(compiled, optimizer, [0])
    assert counter.frame_count == 1
    train(compiled, optimizer, range(1, 8))
    assert training.updates == 4
    assert counter.frame_count == 1
    assert training.topology.layout.names == ("0.weight", "2.weight")
    for mine, its in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(mine, its)


def test_a_model_that_ran_compiled_before_is_not_compiled_again():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    model = mlp()
    compiled = torch.compile(model, backend=counter)
    optimizer = sgd(model)
    train(compiled, optimizer, range(2))
    training = sparsify(compiled, optimizer, strategy=often(), sparsity=0.75)
    train(compiled, optimizer, range(4))
    assert training.updates == 2
    assert counter.frame_count == 1


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch's own, as it traces optimizers
def test_a_compiled_optimizer_step_is_compiled_once():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    expected = weights_after(mlp())
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=often(), sparsity=0.75)
    step = torch.compile(lambda: optimizer.step(), backend=counter)  # noqa: PLW0108
    frames = []
    for number in range(8):
        optimizer.zero_grad()
        loss_at(model, number).backward()
        step()
        frames.append(counter.frame_count)
    assert training.updates == 4
    assert frames[2:] == frames[2:3] * 6  # the first steps make the momenta
    for mine, its in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(mine, its)
