"""Compact storage in two processes under DistributedDataParallel."""

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist
from compact_examples import STRATEGIES, Mlp, batches
from processes import call
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sparsecore_torch import sparsify

STEPS = 17


def trained(strategy, size):
    """Topology and values after some steps, on this rank's part of each batch, with clipping."""
    rank = dist.get_rank() if size > 1 else 0
    torch.manual_seed(1)
    model = Mlp().double()
    trains = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    chosen = STRATEGIES[strategy]()
    training = sparsify(model, trains, strategy=chosen, sparsity=0.7, include="*weight", storage="compact")
    called = DistributedDataParallel(model) if size > 1 else model
    for given in batches(model, STEPS):
        classes = torch.arange(len(given)) % 3
        trains.zero_grad()
        nn.functional.cross_entropy(called(given.chunk(size)[rank]), classes.chunk(size)[rank]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        trains.step()
    return training.updates, training.topology.positions.tolist(), training.values().tolist()


def trained_on_a_rank(*strategies):
    dist.init_process_group("gloo")
    try:
        return [trained(strategy, dist.get_world_size()) for strategy in strategies]
    finally:
        dist.destroy_process_group()


@pytest.mark.integration
def test_two_processes_train_as_one_process_does():
    strategies = ["dpr", "gradient"]
    first, second = (ended.answer for ended in call(trained_on_a_rank, *strategies))
    assert first == second
    for strategy, (updates, positions, values) in zip(strategies, first, strict=True):
        alone = trained(strategy, 1)
        assert updates == alone[0] == STEPS // 5
        assert positions == alone[1]
        assert values == pytest.approx(alone[2], rel=1e-9, abs=1e-12)
