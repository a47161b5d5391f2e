"""What has been trained sparsely, for others: CSR tensors, plain modules, ONNX files. The training itself goes on."""

import copy
import os
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparsecore.errors import InputError, SparsecoreError
from sparsecore.topology import Topology
from sparsecore_torch.materialize import places
from sparsecore_torch.sparsifying.training import SparseTraining
from sparsecore_torch.storages.compact_modules import make_dense


def to_csr(training: SparseTraining) -> dict[str, Tensor]:
    """Every sparse tensor as a ``torch.sparse_csr`` matrix, on the device of the training.

    Returns:
        By name, a matrix with a row for each entry of the tensor's first side: a linear layer's weight has its own
        shape (out, in), a convolution's is (out, in·height·width). Each weight that exists is stored, also where its
        value happens to be zero; indices are int64.

    Raises:
        InputError: the model's weights are not those of the training (:meth:`SparseTraining.check`).
    """
    topology, values = training.topology, training.values()
    return {name: _csr(topology, index, values) for index, name in enumerate(topology.layout.names)}


def squashed_copy(training: SparseTraining) -> nn.Module:
    """A plain copy of the model as it is now, zeros baked in; the training and its model stay as they are.

    Raises:
        InputError: the model's weights are not those of the training (:meth:`SparseTraining.check`).
    """
    training.check()
    copied = copy.deepcopy(training.model)
    make_dense(copied)
    return copied


def to_onnx(
    training: SparseTraining,
    example_inputs: Any,
    path: str | os.PathLike[str],
    *,
    tolerance: float = 1e-4,
    **options: Any,
) -> None:
    """Write the ONNX file of the model as it is now, in evaluation mode, zeros baked in.

    The file is run by onnxruntime on the example inputs before it is put in its place: there is one that computes what
    the model computes, or none. It is a single one, as long as ``external_data=True`` is not among the options.

    Args:
        training: goes on as if nothing had happened.
        example_inputs: the arguments of one call of the model: a tensor, or a tuple of what it takes.
        path: of the file; one that is there is replaced.
        tolerance: how far outputs may lie from the model's, relative and absolute.
        options: of ``torch.onnx.export``: ``input_names``, ``dynamic_shapes``, ``opset_version`` and so on.

    Raises:
        InputError: the packages for ONNX are not installed, or the folder of the file does not exist.
        SparsecoreError: the file does not compute what the model computes.
    """
    path = Path(path)
    _check_installed()
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {str(path.parent)!r} to write {path.name} to")
    model = squashed_copy(training).eval()
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    with TemporaryDirectory(dir=path.parent) as folder:
        _export(model, inputs, Path(folder) / path.name, {"external_data": False, **options})
        _check_runs_alike(model, inputs, Path(folder) / path.name, tolerance)
        for written in Path(folder).iterdir():
            written.replace(path.parent / written.name)


def _csr(topology: Topology, index: int, values: Tensor) -> Tensor:
    rows = topology.layout.shapes[index][0]
    columns = topology.layout.sizes[index] // rows
    inside = places(topology, index)
    starts = torch.arange(rows + 1, device=inside.device) * columns
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return torch.sparse_csr_tensor(
            torch.searchsorted(inside, starts),
            inside % columns,
            values[topology.bounds[index] : topology.bounds[index + 1]],
            (rows, columns),
            check_invariants=True,
        )


def _check_installed() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(name)
        except ModuleNotFoundError:
            raise InputError(f"ONNX files need the package {name}: pip install 'sparsecore-engine[onnx]'") from None


def _export(model: nn.Module, inputs: tuple[Any, ...], path: Path, options: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        # the exporter's own, of parts of torch that it uses itself
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        torch.onnx.export(model, inputs, path, **{"dynamo": True, "verbose": False, **options})


@torch.no_grad()
def _check_runs_alike(model: nn.Module, inputs: tuple[Any, ...], path: Path, tolerance: float) -> None:
    ours = [_host(output) for output in _tensors(model(*inputs))]
    theirs = _run(path, [_host(tensor) for tensor in _tensors(inputs)])
    if len(ours) != len(theirs):
        raise SparsecoreError(f"the ONNX file gives {len(theirs)} outputs, the model {len(ours)}; nothing was written")
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if one.shape != other.shape or not np.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True):
            raise SparsecoreError(
                f"output {number} of the ONNX file is not the model's within {tolerance:g}; nothing was written"
            )


def _run(path: Path, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    runtime = import_module("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    outputs: list[NDArray[Any]] = session.run(None, dict(zip(names, inputs, strict=True)))
    return outputs


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _host(tensor: Tensor) -> NDArray[Any]:
    host: NDArray[Any] = tensor.detach().cpu().numpy()
    return host
