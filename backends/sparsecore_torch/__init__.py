"""The PyTorch backend: experiments on CPU and CUDA devices, and ``sparsify`` for a user's own model."""

from sparsecore.extras import require

require("torch", "cattrs", "tomli_w", extra="torch", purpose="the backend 'torch'")

from sparsecore_torch.arrays import TorchArrays
from sparsecore_torch.experiment.backend import TorchBackend
from sparsecore_torch.sparse_training import export
from sparsecore_torch.sparse_training.averages import sparse_avg_fn
from sparsecore_torch.sparse_training.optimizers.state import describe_optimizer
from sparsecore_torch.sparse_training.sparsify import sparsify
from sparsecore_torch.sparse_training.training import SparseTraining

__all__ = ["SparseTraining", "TorchArrays", "TorchBackend", "describe_optimizer", "export", "sparse_avg_fn", "sparsify"]
