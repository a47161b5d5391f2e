"""The PyTorch backend: the same experiments on CPU and CUDA, and sparse training for anyone's own model."""

try:
    import torch  # noqa: F401
except ModuleNotFoundError:
    from sparsecore.errors import PluginError, needs

    raise PluginError(needs("the backend 'torch'", "PyTorch", "torch")) from None

from sparsecore_torch.arrays import TorchArrays
from sparsecore_torch.experiment.backend import TorchBackend
from sparsecore_torch.sparse_training import export
from sparsecore_torch.sparse_training.optimizers.state import describe_optimizer
from sparsecore_torch.sparse_training.sparsify import sparsify
from sparsecore_torch.sparse_training.training import SparseTraining

__all__ = ["SparseTraining", "TorchArrays", "TorchBackend", "describe_optimizer", "export", "sparsify"]
