"""Linear layers on vectors that lie side by side in a plane: by the kernels of sparse layers, or by BLAS."""

import math
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore_cpu import _kernels
from sparsecore_cpu.inference.execution import PlaneCompiler
from sparsecore_cpu.inference.planes import Plane
from sparsecore_cpu.inference.program import NO_CEILING, ConvolutionNode
from sparsecore_cpu.linear import linear_kernels, sparsity_pattern
from sparsecore_cpu.runtime import Runtime

_DENSE_FOR_ONE = 0.12
"""The density from which on BLAS multiplies a matrix with one vector faster than the kernels for single weights."""

_DENSE = 0.75
"""The same for several vectors."""


def linear(rows: PlaneCompiler, node: ConvolutionNode, x: Plane, add: Plane | None) -> Plane:
    """min(max(x·weightᵀ + bias + add, floor), ceiling).

    Args:
        rows: receives the calls.
        node: weight, (out, in), bias, floor and ceiling.
        x: vectors.
        add: vectors that are added, of the same number; None: there are none.
    """
    density = len(node.weight.values) / math.prod(node.weight.shape)
    is_dense = density > (_DENSE_FOR_ONE if x.frame.width == 1 else _DENSE)
    return (_dense if is_dense else _sparse)(rows, node, x, add)


def handle_of(plane: Plane, runtime: Runtime) -> _kernels.Activation:
    """A plane as vectors of its channels, one for each float of a channel, for kernels that work by entry.

    Args:
        plane: of any frame.
        runtime: whose kernels read it.
    """
    frame, lanes = plane.frame, runtime.kernels.lanes
    memory = plane.rooms.reshape(1, 1, plane.channels, frame.room // lanes, lanes)
    return _kernels.Activation(memory, 0, frame.room, features=True)


def _sparse(rows: PlaneCompiler, node: ConvolutionNode, x: Plane, add: Plane | None) -> Plane:
    pattern = sparsity_pattern(node.weight.shape, node.weight.positions)
    runtime, out = rows.runtime, rows.planes.take(node.weight.shape[0], x.frame)
    written, start = handle_of(out, runtime), None if add is None else handle_of(add, runtime)
    values = np.ascontiguousarray(node.weight.values)
    forward = linear_kernels(runtime.kernels.name).forward
    rows.calls.append_threaded(partial(forward, handle_of(x, runtime), written, start, pattern, values, None))
    rectified = (node.floor, node.ceiling) == (0.0, NO_CEILING)
    if rectified or np.any(node.bias):
        affine = runtime.kernels.affine_relu if rectified else runtime.kernels.affine
        ones, bias = np.ones(out.channels, np.float32), node.bias.astype(np.float32)
        rows.calls.append_threaded(partial(affine, written, written, ones, bias))
    if node.is_bounded and not rectified:
        rows.calls.append(partial(np.clip, out.runs, node.floor, node.ceiling, out=out.runs))
    return out


def _dense(rows: PlaneCompiler, node: ConvolutionNode, x: Plane, add: Plane | None) -> Plane:
    out = rows.planes.take(node.weight.shape[0], x.frame)
    weight = node.weight.to_array().astype(np.float32)
    bias = node.bias.astype(np.float32)[:, None]
    if x.frame.width == 1:
        vectors = x.features, out.features, bias[:, 0]
        rows.calls.append(partial(_vector_product, weight, vectors, add.features if add else None))
    else:
        rows.calls.append(partial(_matrix_product, weight, (x.runs, out.runs, bias), add.runs if add else None))
    if node.is_bounded:
        rows.calls.append(partial(np.clip, out.runs, node.floor, node.ceiling, out=out.runs))
    return out


def _vector_product(weight: NDArray[Any], vectors: tuple[NDArray[Any], ...], add: NDArray[Any] | None) -> None:
    x, out, bias = vectors
    product = np.dot(weight, np.ascontiguousarray(x))
    product += bias
    np.copyto(out, product if add is None else product + add)


def _matrix_product(weight: NDArray[Any], runs: tuple[NDArray[Any], ...], add: NDArray[Any] | None) -> None:
    x, out, bias = runs
    np.matmul(weight, x, out=out)
    np.add(out, bias, out=out)
    if add is not None:
        np.add(out, add, out=out)
