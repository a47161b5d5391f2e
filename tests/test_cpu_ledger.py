"""The memory ledger counts what the CPU backend keeps in addition to the flat vectors: its lists of weights."""

import gc
import math
import weakref
from typing import Any

import pytest

pytest.importorskip("sparsecore_cpu._kernels")

from test_numpy_learner import batch_of, reallocation_of, task_of

from sparsecore.learning.protocols import Learner, Task
from sparsecore_cpu import CpuBackend
from sparsecore_cpu.weighted import CachedLists
from sparsecore_models.lenet import LeNet


def trained(density: float = 0.1) -> tuple[Learner, Task]:
    """After a step of a network of linear layers, each of which has a list for each direction but the first."""
    task = task_of("float32", model=LeNet((20, 10)), density=density)
    learner = CpuBackend(1).learner(task)
    learner.train(batch_of(range(16)), 0.1)
    return learner, task


def twice(task: Task) -> int:
    """Entries by output, of all weights, and by input, of those of all layers but the first."""
    return 2 * task.topology.size - int(task.topology.counts[0])


def test_sparse_linear_layers_keep_no_copies_of_values() -> None:
    learner, task = trained()
    dense = (p for p in task.parameters if p.trained and not p.sparse)
    weights = task.topology.size + sum(math.prod(parameter.shape) for parameter in dense)
    values = learner.memory().values
    assert values.theoretical == values.measured == 4 * weights


def test_positions_of_weights_as_the_kernels_read_them_count_as_indices() -> None:
    learner, task = trained()
    before = CpuBackend(1).learner(task).memory().indices
    indices = learner.memory().indices
    assert before.theoretical == indices.theoretical == task.topology.positions.nbytes
    grown = indices.measured - before.measured
    # 16 bits for each weight in each direction, and where the weights of each row start, in at most three tables
    rows = sum(sum(shape) for shape in task.topology.layout.shapes)
    assert 2 * twice(task) < grown <= 2 * twice(task) + 3 * 4 * 3 * rows


def test_dense_linear_layers_keep_no_copies_of_values_either() -> None:
    learner, task = trained(density=1.0)
    memory = learner.memory()
    assert memory.values.measured == memory.values.theoretical
    assert memory.indices.measured > memory.indices.theoretical + 2 * twice(task)


def test_lists_of_former_positions_are_neither_kept_nor_counted() -> None:
    others = {id(one) for one in gc.get_objects() if type(one) is CachedLists}  # which other tests may keep
    learner, task = trained()
    made = (one for one in gc.get_objects() if type(one) is CachedLists and id(one) not in others)
    gone: list[Any] = [weakref.ref(one) for one in made]
    assert gone
    learner.reallocate(reallocation_of(task, learner.values))
    gc.collect()
    assert not any(one() for one in gone)
    assert learner.memory().values.measured == learner.memory().values.theoretical
