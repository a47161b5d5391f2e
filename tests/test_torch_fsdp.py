"""One network whose parameters FSDP2 has spread over two processes: the same topologies and values as unsharded."""

import copy
import gc
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import numpy as np
import torch.distributed as dist
from processes import call
from rank_examples import STEPS, ByGradient, alone, network, optimizer_of, share, trained, whole
from torch import nn

from sparsecore.errors import InputError
from sparsecore_torch import sparsify


def sharded(seed: int) -> nn.Module:
    """Of layers with 24, 16 and 3 outputs: the shards of the last are uneven."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, mesh = network(seed), init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def follows() -> dict[str, Any]:
    """Training with every weight matrix sparse, the uneven one too."""
    model = sharded(0)
    optimizer = optimizer_of(model)
    sparse = sparsify(model, optimizer, strategy=ByGradient(), sparsity=0.7)
    results = trained(model, sparse, share(), optimizer)
    state = {
        name: whole(optimizer.state[sparse.model.get_parameter(name)]["momentum_buffer"]) for name in sparse.masks()
    }
    results["state"] = [float(state[name][~mask].abs().sum()) for name, mask in sparse.masks().items()]
    results["ledger"] = [sparse.memory().values.theoretical, sparse.memory().values.measured]
    return results


def uneven(model: nn.Module) -> dict[str, Any]:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sparse = sparsify(model, optimizer, strategy=ByGradient(), sparsity=0.5, include="*.weight")
    part = share() if dist.is_initialized() else slice(None)
    return trained(model, sparse, part, optimizer)


class Clearing(torch.optim.SGD):
    """Writes to the gradients before and after its step."""

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        self._multiply(3.0)
        loss = super().step(closure)
        self._multiply(0.0)
        return loss

    @torch.no_grad()
    def _multiply(self, factor: float) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad.mul_(factor)


def cleared(model: nn.Module) -> dict[str, Any]:
    optimizer = Clearing(model.parameters(), lr=0.05)
    sparse = sparsify(model, optimizer, strategy=ByGradient(), sparsity=0.5, include="*.weight")
    return trained(model, sparse, share() if dist.is_initialized() else slice(None), optimizer)


def resumed() -> bool:
    """Whether a training goes on from its state dict as if it had not stopped."""
    model = sharded(0)
    optimizer = optimizer_of(model)
    sparse = sparsify(model, optimizer, strategy=ByGradient(), sparsity=0.7)
    trained(model, sparse, share(), optimizer)
    other = sharded(1)
    other_optimizer = optimizer_of(other)
    other_sparse = sparsify(other, other_optimizer, strategy=ByGradient(), sparsity=0.7)
    other.load_state_dict(model.state_dict())
    other_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch would share the tensors
    other_sparse.load_state_dict(sparse.state_dict())
    ends = [
        trained(model, sparse, share(), optimizer),
        trained(other, other_sparse, share(), other_optimizer),
    ]
    other_sparse.squash()
    return ends[0] == ends[1]


def adopted() -> dict[str, Any]:
    """Weights of an earlier moment are noticed and taken up, and an average of DTensors is masked."""
    model = sharded(0)
    optimizer = optimizer_of(model)
    sparse = sparsify(model, optimizer, strategy=ByGradient(), sparsity=0.7)
    best = {name: value.clone() for name, value in model.state_dict().items()}
    trained(model, sparse, share(), optimizer)
    model.load_state_dict(best)
    try:
        sparse.check()
        noticed = False
    except InputError:
        noticed = True
    sparse.adopt()
    sparse.check()
    names = list(sparse.masks())
    inactive = [float(whole(best[name])[~sparse.masks()[name]].abs().sum()) for name in names]
    ones = {name: torch.ones_like(value) for name, value in model.state_dict().items()}
    sparse.mask_(ones)
    masked = sum(int(whole(ones[name]).count_nonzero()) for name in names)
    trained(model, sparse, share(), optimizer)
    return {"noticed": noticed, "inactive": inactive, "masked": masked, "size": sparse.topology.size}


def refused() -> str:
    model = sharded(0)
    try:
        sparsify(model, optimizer_of(model), storage="compact")
    except InputError as error:
        return str(error)
    raise AssertionError("nothing was raised")


def on_two_ranks() -> dict[str, Any]:
    """All that is tested here, in one start of two processes."""
    dist.init_process_group("gloo")
    results = {"follows": follows(), "uneven": uneven(sharded(0)), "resumed": resumed(), "refused": refused()}
    results |= {"adopted": adopted(), "cleared": cleared(sharded(0))}
    gc.collect()  # what holds the group keeps its threads running, into the end of the interpreter
    dist.destroy_process_group()
    return results


@pytest.fixture(scope="module")
def answers() -> list[dict[str, Any]]:
    return [ended.answer for ended in call(on_two_ranks)]


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("which", ["follows", "uneven", "cleared"])
def test_sharded_training_equals_unsharded_training(answers: list[dict[str, Any]], which: str) -> None:
    expected = {
        "follows": alone,
        "uneven": lambda: uneven(network(0)),
        "cleared": lambda: cleared(network(0)),
    }[which]()
    assert expected["updates"] == STEPS // 3
    for answer in answers:
        assert answer[which]["topologies"] == expected["topologies"]
        np.testing.assert_allclose(answer[which]["weights"], expected["weights"], rtol=0, atol=1e-12)
        assert answer[which]["inactive"] == [0.0] * len(expected["inactive"])


@pytest.mark.integration
def test_momentum_of_inactive_weights_is_zero_on_every_shard(answers: list[dict[str, Any]]) -> None:
    for answer in answers:
        assert answer["follows"]["state"] == [0.0, 0.0]


@pytest.mark.integration
def test_the_ledger_counts_the_shards_of_a_rank(answers: list[dict[str, Any]]) -> None:
    # 10·24 + 24 + 24·16 + 16 entries of 8 bytes in halves; of the last layer's 3·16 + 3 the first rank has two rows
    shared = (10 * 24 + 24 + 24 * 16 + 16) // 2
    assert [answer["follows"]["ledger"][0] for answer in answers] == [8 * (shared + 2 * 17), 8 * (shared + 17)]
    assert all(answer["follows"]["ledger"][1] >= answer["follows"]["ledger"][0] for answer in answers)


@pytest.mark.integration
def test_sharded_training_resumes_from_its_state_dict(answers: list[dict[str, Any]]) -> None:
    assert [answer["resumed"] for answer in answers] == [True, True]


@pytest.mark.integration
def test_weights_from_another_step_are_noticed_and_adopted(answers: list[dict[str, Any]]) -> None:
    for answer in answers:
        assert answer["adopted"]["noticed"]
        assert answer["adopted"]["inactive"] == [0.0, 0.0]
        assert answer["adopted"]["masked"] == answer["adopted"]["size"]


@pytest.mark.integration
def test_compact_storage_of_shards_is_refused(answers: list[dict[str, Any]]) -> None:
    assert "fully_shard" in answers[0]["refused"]
