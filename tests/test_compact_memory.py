"""Compact storage keeps no dense weight in memory, and its graphs and errors release everything."""

import copy
import gc
import weakref

import pytest

torch = pytest.importorskip("torch")

from compact_examples import Mlp, Transformer, loss_of, started, train
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparsecore_torch import sparsify


class Watch(TorchDispatchMode):
    """Weakly refers to the memory that operations take up."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        results = operation(*args, **(kwargs or {}))
        given = {storage._cdata for storage in storages((args, kwargs))}
        for storage in storages(results):
            if storage._cdata not in given:
                self.seen[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return results

    def living(self, least):
        """How many pieces of memory, of at least so many bytes, are there still."""
        return sum(size >= least and not one.expired() for one, size in self.seen.values())


def storages(tree):
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class Wide(nn.Module):
    """Weights much larger than activations: products, convolution, and attention with its views of one weight."""

    def __init__(self):
        super().__init__()
        self.rise = nn.Linear(16, 64)
        self.attention = nn.TransformerEncoderLayer(64, 2, 64, dropout=0.0, batch_first=True)
        self.images = nn.Conv2d(64, 64, 3, padding=1)
        self.fall = nn.Linear(64, 64)

    def forward(self, given):
        hidden = self.attention(self.rise(given))
        hidden = self.images(hidden.transpose(1, 2).reshape(-1, 64, 1, 2)).flatten(2).transpose(1, 2)
        return self.fall(torch.tanh(hidden))


WEIGHT = 64 * 64 * 2
"""Bytes of the smallest large weight in bfloat16; all activations of one are smaller."""


def sparse_wide(storage):
    torch.manual_seed(0)
    model = Wide()
    trains = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsify(model, trains, strategy="static", include="*weight", exclude="*norm*", storage=storage)
    return model, trains


def passed(model, autocast=False):
    with Watch() as watch, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = model(torch.randn(2, 2, 16))
    gc.collect()
    return watch, output


@pytest.mark.parametrize("autocast", [False, True])
def test_no_dense_weight_lives_from_forward_to_backward(autocast):
    model, _ = sparse_wide("compact")
    watch, output = passed(model, autocast=autocast)
    assert output.requires_grad
    assert watch.living(least=WEIGHT) == 0
    weights = sum(size >= WEIGHT for _, size in watch.seen.values())
    assert weights >= 6  # so many were there for their layer's computation
    output.float().square().sum().backward()
    assert model.sparse_values.grad.any()


@pytest.mark.parametrize("before", [0, 2])
def test_dense_parameters_and_their_state_are_gone_after_sparsify(before):
    torch.manual_seed(0)
    model = Mlp()
    trains = torch.optim.Adam(model.parameters())
    train(model, trains, before)
    held = [one for one in model.parameters() if one.ndim == 2]
    held += [content for one in held for content in trains.state[one].values() if content.ndim == 2]
    assert len(held) == (9 if before else 3)
    gone = [StorageWeakRef(one.untyped_storage()) for one in held]
    del held
    sparsify(model, trains, include="*weight", strategy="static", storage="compact")
    gc.collect()
    assert all(one.expired() for one in gone)


def test_the_memory_watch_sees_tensors_that_are_held():
    model, _ = sparse_wide("compact")
    with Watch() as watch:
        held = model.fall.weight
        product = (torch.ones(1, 64) @ held.detach().t()).sum()
    assert watch.living(least=WEIGHT) == 1
    del held, product
    assert watch.living(least=WEIGHT) == 0


def test_no_dense_weight_lives_on_in_a_compiled_model():
    torch._dynamo.reset()
    model, _ = sparse_wide("compact")
    called = torch.compile(model, backend="aot_eager")
    passed(called)[1].sum().backward()
    watch, _output = passed(called)
    assert watch.living(least=WEIGHT) == 0


def test_nothing_dense_remains_after_a_step():
    model, trains = sparse_wide("compact")
    with Watch() as watch:
        model(torch.randn(2, 2, 16)).square().sum().backward()
        trains.step()
    large = [size for one, size in watch.seen.values() if not one.expired() and size >= 64 * 64 * 4]
    assert not large  # the gradient of the values is in memory of its own, which is used again
    assert model.sparse_values.grad.shape == model.sparse_values.shape


def test_reused_memory_is_not_mistaken_for_a_weight():
    class Reuses(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, given):
            for _ in range(20):
                addresses.add(self.inner[2].weight.data_ptr())  # made and let go of
                other = torch.full_like(given, 2.0)
                met.append(other.data_ptr() in addresses)
                given = given * other  # saves what may lie where a weight has lain
            return given

    torch.manual_seed(0)
    outer = Reuses(Mlp())
    sparsify(
        outer, torch.optim.SGD(outer.parameters(), lr=0.1), include="*weight", strategy="static", storage="compact"
    )
    addresses, met = set(), []
    given = torch.ones(16, 20, requires_grad=True)
    outer(given).sum().backward()
    if not any(met):
        pytest.skip("this allocator has not used memory again")
    torch.testing.assert_close(given.grad, torch.full_like(given, 2.0**20))


def test_a_weight_that_is_changed_in_place_is_kept_as_it_is():
    class Doubles(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3, bias=False)

        def forward(self, given):
            return nn.functional.linear(given, self.layer.weight.mul_(2.0))

    model = Doubles()
    sparsify(model, torch.optim.SGD(model.parameters(), lr=0.1), include="*", strategy="static", storage="compact")
    given = torch.randn(5, 4, requires_grad=True)
    dense = model.layer.weight.detach()
    model(given).sum().backward()
    torch.testing.assert_close(given.grad, (2 * dense.sum(0)).expand(5, 4))


def test_changing_values_between_forward_and_backward_raises_an_error():
    model, trains, _ = started(Mlp, "compact")
    first, second = (loss_of(model, torch.randn(3, 6)) for _ in range(2))
    first.backward()
    trains.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        second.backward()


def test_moving_weights_between_forward_and_backward_raises_an_error():
    model, trains, training = started(Mlp, "compact")
    product = model[4].weight.sum()  # whose backward needs no values
    for _ in range(5):
        train(model, trains, 1)
    assert training.updates == 1
    with pytest.raises(RuntimeError, match="have been reallocated"):
        product.backward()


def test_changing_an_activation_in_place_raises_an_error_as_in_torch():
    class Spoils(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, given):
            hidden = self.layer(given)
            output = hidden.sin()
            hidden.detach().zero_()
            return output

    model = Spoils()
    sparsify(
        model, torch.optim.SGD(model.parameters(), lr=0.1), include="*weight", strategy="static", storage="compact"
    )
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        model(torch.randn(2, 4)).sum().backward()


def test_a_graph_without_a_backward_pass_is_released():
    model, _, _ = started(Mlp, "compact")
    gc.disable()
    try:
        output = model(torch.randn(3, 6))
        hidden = weakref.ref(output)
        del output
        assert hidden() is None
        with Watch() as watch:
            output = model[1](model[0](torch.randn(3, 6)))
            whole = loss_of(model, torch.randn(3, 6))
        del output, whole
        assert watch.living(least=1) == 0  # tanh saves what it returns, which must not hold itself
    finally:
        gc.enable()


def test_an_error_in_the_forward_pass_leaves_nothing_in_memory():
    model, trains, _ = started(Mlp, "compact")
    twin, twins, _ = started(Mlp, "compact")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.randn(3, 5))
    assert hooks_on_saved_tensors() is None
    assert train(model, trains, 7) == train(twin, twins, 7)


class Interrupted(nn.Module):
    interrupts = True

    def forward(self, given):
        if self.interrupts:
            raise KeyboardInterrupt
        return given


def test_training_continues_after_an_interrupted_forward_pass():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), Interrupted(), nn.Linear(8, 3))
    trains = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsify(model, trains, include="*weight", strategy="static", storage="compact")
    twin = copy.deepcopy(model)
    with pytest.raises(KeyboardInterrupt):
        model(torch.ones(2, 6))
    for one in (model, twin):
        one[1].interrupts = False
        with torch.no_grad():
            one.sparse_values.mul_(2.0)
        one(torch.ones(2, 6)).sum().backward()
    assert torch.equal(model.sparse_values.grad, twin.sparse_values.grad)
    assert hooks_on_saved_tensors() is None


def hooks_on_saved_tensors():
    return torch._C._autograd._top_saved_tensors_default_hooks(False)


def test_a_tied_weight_is_stored_once():
    model, _, training = started(Transformer, "compact")
    assert training.topology.layout.names.count("embedding.weight") == 1
    assert "head.weight" not in training.topology.layout.names
    assert torch.equal(model.head.weight, model.embedding.weight)
