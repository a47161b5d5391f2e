"""Compact storage on a CUDA device."""

import pytest

torch = pytest.importorskip("torch")

from compact_examples import INPUTS, OPTIMIZERS, STRATEGIES, Convolutions, Mlp, Transformer
from torch import nn

from sparsecore_torch import sparsify
from sparsecore_torch.sparse_training.export import to_csr

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def trained(make, storage, device="cuda", optimizer=OPTIMIZERS["sgd"], strategy="dpr", half=False, steps=16):
    torch.manual_seed(1)
    model = make().to(device)
    trains = optimizer(model.parameters())
    training = sparsify(
        model, trains, strategy=STRATEGIES[strategy](), sparsity=0.7, include="*weight*", storage=storage
    )
    scaler = torch.amp.GradScaler(device, enabled=half)
    for number in range(steps):
        given = INPUTS[make](torch.Generator().manual_seed(number)).to(device)
        trains.zero_grad()
        with torch.autocast(device, torch.float16, enabled=half):
            output = model(given).flatten(0, -2)
            loss = nn.functional.cross_entropy(output, torch.arange(len(output), device=device) % output.shape[-1])
        scaler.scale(loss).backward()
        scaler.step(trains)
        scaler.update()
    return model, training


@pytest.mark.parametrize("strategy", ["dpr", "gradient"])
@pytest.mark.parametrize("make", [Mlp, Transformer, Convolutions])
def test_compact_training_equals_training_with_masks(make, strategy):
    (_, masked), (_, compact) = (trained(make, storage, strategy=strategy) for storage in ("masked", "compact"))
    assert compact.values().is_cuda
    assert compact.updates == 3
    assert torch.equal(compact.topology.positions, masked.topology.positions)
    torch.testing.assert_close(compact.values(), masked.values())


@pytest.mark.parametrize("fused", [False, True])
def test_half_precision_with_a_scaler_trains_like_masks(fused):
    def adamw(parameters):
        return torch.optim.AdamW(parameters, lr=0.01, fused=fused)

    model, training = trained(Transformer, "compact", optimizer=adamw, strategy="gradient", half=True)
    assert training.updates >= 2
    assert training.values().isfinite().all()
    assert model.sparse_values.dtype is torch.float32


def test_no_dense_weight_stays_in_device_memory():
    model = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(8))).cuda()
    trains = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsify(model, trains, strategy="static", include="*weight", storage="compact")
    given = torch.randn(2, 1024, device="cuda")
    model(given).sum().backward()  # libraries take their workspaces now
    before = torch.cuda.memory_allocated()
    output = model(given)
    assert torch.cuda.memory_allocated() - before < 4 * 1024 * 1024  # less than one weight
    output.sum().backward()


def test_csr_matrices_are_on_the_device_and_multiply_there():
    model, training = trained(Mlp, "compact")
    matrix = to_csr(training)["2.weight"]
    given = torch.randn(5, 20, device="cuda")
    torch.testing.assert_close((matrix @ given.t()).t(), nn.functional.linear(given, model[2].weight.detach()))
