"""Exports: plain and smaller models, sparse matrices, small files, ONNX; the training itself continues."""

from sparsecore_torch.sparse_training.export.onnx_files import to_onnx
from sparsecore_torch.sparse_training.export.plain import squashed_copy, to_csr
from sparsecore_torch.sparse_training.export.semi_structured import to_semi_structured
from sparsecore_torch.sparse_training.export.slim import slim
from sparsecore_torch.sparse_training.export.sparse_files import load_sparse, save_sparse

__all__ = ["load_sparse", "save_sparse", "slim", "squashed_copy", "to_csr", "to_onnx", "to_semi_structured"]
