"""ONNX graphs whose numbers of half precision are in float32: what can be run, and compared, anywhere."""

from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

_SETTINGS = ("to", "dtype", "output_dtype", "stash_type")
"""Attributes of nodes that hold the number of a type of elements."""


def in_float32(path: Path) -> tuple[bytes, str] | None:
    """The model of a file with float32 wherever it has float16 or bfloat16; the file stays as it is.

    Returns:
        The model and which of the two types it has, in words; None where it has neither.
    """
    onnx: Any = import_module("onnx")
    model = onnx.load(path)
    single, halves = (
        onnx.TensorProto.FLOAT,
        {onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.BFLOAT16: "bfloat16"},
    )
    found = set()
    nodes = list(_nodes(model))
    for tensor in _tensors(model, nodes):
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
    """The graph and those within its nodes."""
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


def _tensors(model: Any, nodes: Iterable[Any]) -> Iterator[Any]:
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
