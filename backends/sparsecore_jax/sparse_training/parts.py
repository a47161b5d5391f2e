"""The parts that a sparse training consists of."""

from collections.abc import Mapping
from typing import Any

import attrs

from sparsecore.engine.groups import EngineGroups
from sparsecore_jax.sparse_training.learning_rates import LearningRate
from sparsecore_jax.sparse_training.selection import Selection
from sparsecore_jax.sparse_training.state_entries import StateEntries
from sparsecore_jax.sparse_training.tensors import SparseTensors


@attrs.frozen(eq=False)
class TrainingParts:
    """The parts of a sparse training.

    Attributes:
        engines: decide which weights move, one for each group of tensors.
        tensors: the sparse tensors.
        selection: why the other parameters are dense.
        entries: what the optimizer's state has of single weights.
        optimizer: the user's.
        sparsity: the requested sparsity, where it was given by group that of each tensor.
        learning_rate: of a step, for strategies that compute with it.
    """

    engines: EngineGroups
    tensors: SparseTensors
    selection: Selection
    entries: StateEntries
    optimizer: Any
    sparsity: float | Mapping[str, float]
    learning_rate: LearningRate
