"""Tensors all of whose weights are active are trained as dense ones, and masked again once some are not."""

import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import loss_at, mlp, sgd, train
from torch.utils._python_dispatch import TorchDispatchMode

from sparsecore_torch import sparsify
from sparsecore_torch.sparse_training.storage.gradient_masks import BitMask

OPTIMIZERS = {
    "sgd": sgd,
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, amsgrad=True),
}


class Recorded(TorchDispatchMode):
    """Records the operations of torch, by name."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.add(operation._schema.name)
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_steps_at_sparsity_zero_are_those_of_a_dense_network_and_apply_no_mask(make):
    dense, sparse = mlp(), mlp()
    by_dense, by_sparse = make(dense), make(sparse)
    training = sparsify(sparse, by_sparse, strategy="static", sparsity=0.0)
    train(dense, by_dense, range(3))
    train(sparse, by_sparse, range(2))
    with Recorded() as recorded:
        by_sparse.zero_grad()
        loss_at(sparse, 2).backward()
        by_sparse.step()
    assert training.step == 3
    for one, other in zip(dense.parameters(), sparse.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert "aten::add_" in recorded.names
    assert not any("bitwise" in name or "where" in name or "nonzero" in name for name in recorded.names)


def test_a_mask_that_is_no_longer_full_masks_again():
    mask = BitMask(torch.full((2, 3), -1, dtype=torch.int8), torch.zeros(2, 3))
    tensor = torch.arange(6.0).view(2, 3) + 1
    for _ in range(2):
        assert mask.is_full
        mask.fill(tensor)
        assert tensor.min() == 1
        assert mask.inactive_run(1) is None
        gone = torch.tensor([0, 4])
        mask.move(gone, torch.empty(0, dtype=torch.int64))
        assert not mask.is_full
        masked = mask.filled(tensor)
        assert masked.flatten().tolist() == [0, 2, 3, 4, 0, 6]
        mask.move(torch.empty(0, dtype=torch.int64), gone)
    mask.change(torch.zeros(2, 3, dtype=torch.int8))
    mask.fill(tensor)
    assert not tensor.any()


def test_a_tensor_that_an_update_prunes_is_masked_from_then_on():
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy="gmp", sparsity=0.5, total_steps=8, seed=1)
    train(model, optimizer, range(8))
    assert training.sparsity > 0
    weights = [layer.weight for layer in model if isinstance(layer, torch.nn.Linear)]
    state = [optimizer.state[weight]["momentum_buffer"] for weight in weights]
    for weight, momentum in zip(weights, state, strict=True):
        assert not momentum[weight == 0].any()
        assert not weight.grad[weight == 0].any()
