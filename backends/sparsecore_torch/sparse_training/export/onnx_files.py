"""Export of a sparse training as an ONNX file; the training itself continues."""

import copy
import inspect
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsecore.errors import InputError, SparsecoreError
from sparsecore.extras import require
from sparsecore_torch._torch_internals.tensors import tree_leaves, tree_map_only
from sparsecore_torch.sparse_training.checks import check_destination
from sparsecore_torch.sparse_training.export.plain import squashed_copy
from sparsecore_torch.sparse_training.training import SparseTraining

_SETTINGS = ("to", "dtype", "output_dtype", "stash_type")
"""Attributes of nodes that hold the number of an element type."""


def in_float32(path: Path) -> tuple[bytes, str] | None:
    """Return the model of a file with float32 in place of float16 and bfloat16; the file stays as it is.

    Args:
        path: of the ONNX file.

    Returns:
        The serialized model and the names of the types that it had; None where it had neither.
    """
    onnx: Any = import_module("onnx")
    model = onnx.load(path)
    single, halves = (
        onnx.TensorProto.FLOAT,
        {onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.BFLOAT16: "bfloat16"},
    )
    found = set()
    nodes = list(_nodes(model))
    for tensor in _model_tensors(model, nodes):
        if tensor.data_type in halves:
            found.add(halves[tensor.data_type])
            numbers = np.asarray(onnx.numpy_helper.to_array(tensor)).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(numbers, tensor.name))
    for kind in _types(model):
        if kind.elem_type in halves:
            found.add(halves[kind.elem_type])
            kind.elem_type = single
    for attribute in (one for node in nodes for one in node.attribute):
        if attribute.name in _SETTINGS and attribute.i in halves:
            found.add(halves[attribute.i])
            attribute.i = single
    return (model.SerializeToString(), " and ".join(sorted(found))) if found else None


def _graphs(model: Any) -> Iterator[Any]:
    """The graph and the graphs within its nodes."""
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]


def _nodes(model: Any) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def _model_tensors(model: Any, nodes: Iterable[Any]) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from graph.initializer
    for attribute in (one for node in nodes for one in node.attribute):
        yield from attribute.tensors
        if attribute.HasField("t"):
            yield attribute.t


def _types(model: Any) -> Iterator[Any]:
    values = [value for graph in _graphs(model) for value in (*graph.input, *graph.output, *graph.value_info)]
    values += [value for function in model.functions for value in function.value_info]
    for value in values:
        kind = value.type
        while kind.WhichOneof("value") in {"sequence_type", "optional_type"}:
            kind = getattr(kind, kind.WhichOneof("value")).elem_type
        if kind.HasField("tensor_type"):
            yield kind.tensor_type


def to_onnx(
    training: SparseTraining,
    example_inputs: Any,
    path: str | os.PathLike[str],
    *,
    kwargs: Mapping[str, Any] | None = None,
    tolerance: float = 1e-4,
    **options: Any,
) -> None:
    """Write an ONNX file of the model as it is now, in evaluation mode, with its zeros.

    onnxruntime runs the file on the example inputs before it is moved to its path: either the result is a file that
    computes what the model computes, or there is none. It is a single file unless the options have
    ``external_data=True``.

    A model in float16 or bfloat16 is compared in float32: onnxruntime has few operations in bfloat16 on the CPU, and in
    half precision two correct results differ by more than the tolerance. The file stays as it is; a copy of its graph
    in float32 is run and compared with a copy of the model in float32.

    Args:
        training: is not changed.
        example_inputs: the positional arguments of one call of the model: a tensor, or a tuple of what it takes; ``()``
            where all are in ``kwargs``.
        path: of the file; an existing one is replaced.
        kwargs: the arguments of the call by keyword.
        tolerance: how far outputs may differ from the model's, relative and absolute.
        options: of ``torch.onnx.export``: ``input_names``, ``dynamic_shapes``, ``opset_version`` and so on.

    Raises:
        InputError: the packages for ONNX are not installed, the folder of the file does not exist, the path is a
            folder, the model cannot be called with these inputs, or its weights are not those of the training
            (:meth:`SparseTraining.check`).
        SparsecoreError: the file does not compute what the model computes.
    """
    path = Path(path)
    _check_installed()
    check_destination(path)
    model = squashed_copy(training).eval()
    inputs = _Inputs(example_inputs if isinstance(example_inputs, tuple) else (example_inputs,), dict(kwargs or {}))
    _check_accepted(model, inputs)
    with TemporaryDirectory(dir=path.parent) as folder:
        _export(model, inputs, Path(folder) / path.name, {"external_data": False, **options})
        _check_runs_alike(model, inputs, Path(folder) / path.name, tolerance)
        for written in Path(folder).iterdir():
            written.replace(path.parent / written.name)


@attrs.frozen(eq=False)
class _Inputs:
    """The arguments of one call of a model.

    Attributes:
        positional: the positional arguments.
        by_keyword: the keyword arguments.
    """

    positional: tuple[Any, ...]
    by_keyword: dict[str, Any]

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, in the order in which the exporter names the inputs of a graph."""
        return _tensors((self.positional, self.by_keyword))

    def in_float32(self) -> "_Inputs":
        """Return the same arguments, with half precision in float32."""
        return _Inputs(*tree_map_only(Tensor, _in_float32, (self.positional, self.by_keyword)))


def _check_installed() -> None:
    require("onnx", "onnxscript", "onnxruntime", extra="onnx", purpose="an ONNX file")


def _check_accepted(model: nn.Module, inputs: _Inputs) -> None:
    try:
        inspect.signature(model.forward).bind(*inputs.positional, **inputs.by_keyword)
    except TypeError as error:
        raise InputError(
            f"the model cannot be called with {len(inputs.positional)} example inputs and the keywords "
            f"{', '.join(inputs.by_keyword) or 'none'}: {error}"
        ) from None


def _export(model: nn.Module, inputs: _Inputs, path: Path, options: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        # the exporter's own warning about parts of torch that it uses
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        options = {"dynamo": True, "verbose": False, "kwargs": inputs.by_keyword, **options}
        torch.onnx.export(model, inputs.positional, path, **options)


@torch.no_grad()
def _check_runs_alike(model: nn.Module, inputs: _Inputs, path: Path, tolerance: float) -> None:
    file: Path | bytes = path
    how = ""
    if wider := in_float32(path):
        file, halves = wider
        model, inputs, how = _model_in_float32(model), inputs.in_float32(), f", both in float32 in place of {halves}"
    ours = [_host(output) for output in _tensors(model(*inputs.positional, **inputs.by_keyword))]
    theirs = _run(file, [_host(tensor) for tensor in inputs.tensors])
    if len(ours) != len(theirs):
        raise SparsecoreError(f"the ONNX file gives {len(theirs)} outputs, the model {len(ours)}; nothing was written")
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if one.shape != other.shape or not np.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True):
            raise SparsecoreError(
                f"output {number} of the ONNX file is not the model's within {tolerance:g}{how}; nothing was written"
            )


def _model_in_float32(model: nn.Module) -> nn.Module:
    copied = copy.deepcopy(model)
    for tensor in (*copied.parameters(), *copied.buffers()):
        tensor.data = _in_float32(tensor.data)
    return copied


def _in_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in {torch.float16, torch.bfloat16} else tensor


def _run(file: Path | bytes, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    runtime = import_module("onnxruntime")
    try:
        session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has many error classes of its own
        raise SparsecoreError(
            f"onnxruntime cannot run the ONNX file on the CPU, and nothing was written unchecked: {error}"
        ) from error
    names = [node.name for node in session.get_inputs()]
    if len(names) != len(inputs):
        raise SparsecoreError(
            f"the ONNX file takes {len(names)} inputs ({', '.join(names)}), and the example has {len(inputs)} tensors; "
            "nothing was written"
        )
    outputs: list[NDArray[Any]] = session.run(None, dict(zip(names, inputs, strict=True)))
    return outputs


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _host(tensor: Tensor) -> NDArray[Any]:
    host: NDArray[Any] = tensor.detach().cpu().numpy()
    return host
