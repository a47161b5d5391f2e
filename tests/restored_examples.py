"""Models that have loaded the weights of an earlier moment, for the tests of restoring."""

import copy

import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import (
    loss_at,
    mlp,
    often,
    sgd,
    train,
)

from sparsecore.engine.schedules import Every
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.set import SparseEvolution
from sparsecore_torch import sparsify
from sparsecore_torch.sparse_training import export

NAMES = ("0.weight", "2.weight")
USES = ("step", "values", "squash", "to_csr", "squashed_copy", "check", "follow")
STRATEGIES = {
    "dpr": often,
    "set": lambda: SparseEvolution(schedule=Every(steps=2)),
    "rigl": lambda: RigL(schedule=Every(steps=3)),
}


def started(storage="masked", strategy="dpr", make=sgd, **options):
    model = mlp()
    optimizer = make(model)
    given = STRATEGIES[strategy]() if isinstance(strategy, str) else strategy
    settings = {"sparsity": 0.75, "seed": 7, "total_steps": 1000, **options}
    return model, optimizer, sparsify(model, optimizer, strategy=given, storage=storage, **settings)


def restored(**options):
    """A model that has loaded the weights of an earlier moment, from before some of them moved."""
    parts = started(**options)
    train(*parts[:2], range(5))
    best, loss = copy.deepcopy(parts[0].state_dict()), loss_at(parts[0], 0).item()
    topology = parts[2].topology
    train(*parts[:2], range(5, 11))
    assert parts[2].topology.sha256() != topology.sha256()
    parts[0].load_state_dict(best)
    return *parts, best, loss, topology


def nonzero(state):
    return {name: state[name] != 0 for name in NAMES}


def uses(model, optimizer, training):
    def step():
        loss_at(model, 1).backward()
        optimizer.step()

    return {
        "step": step,
        "values": training.values,
        "squash": training.squash,
        "to_csr": lambda: export.to_csr(training),
        "squashed_copy": lambda: export.squashed_copy(training),
        "check": training.check,
        "follow": lambda: training.follow(sgd(model)),
    }


def topology_of(saved, training):
    return training.topology.at(saved["positions"])
