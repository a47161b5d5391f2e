"""What torch computes in double precision, to compare the CPU backend's operations with."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from cpu_examples import HALVES, MACHINES, Array, Outcome, assert_close, in_kernels
from torch import Tensor

from sparsecore_cpu import runtime
from sparsecore_cpu.runtime import Runtime

Forward = Callable[[Tensor, list[Tensor]], Tensor]
"""From images (batch, channels, height, width), or vectors, and weights to outputs of either kind."""


def in_torch(forward: Forward, x: Array, weights: Sequence[Any], direction: Array | None) -> Outcome:
    """Outputs and gradients; images are (batch, height, width, channels) as in the CPU backend.

    Args:
        forward: computes the outputs.
        x: images or vectors.
        weights: the weights, as the backend has them.
        direction: of the outputs' shape; the gradients are those of the outputs times it. None: none are computed.
    """
    there = _to_torch(x).requires_grad_()
    dense = [torch.from_numpy(one.to_array().astype(float)).requires_grad_() for one in weights]
    output = forward(there, dense)
    if direction is None:
        return Outcome(_to_numpy(output), None, [])
    output.backward(_to_torch(direction))
    assert there.grad is not None
    by_weight = [
        np.zeros(len(one.positions)) if tensor.grad is None else tensor.grad.numpy().reshape(-1)[one.positions]
        for one, tensor in zip(weights, dense, strict=True)
    ]
    return Outcome(_to_numpy(output), _to_numpy(there.grad), by_weight)


def check_against_torch(
    ours: Callable[[Any, Any, list[Any]], Any],
    theirs: Forward,
    x: Array,
    weights: Sequence[Any] = (),
    *,
    rounding: float = 1e-5,
    machines: Sequence[Runtime] = MACHINES,
) -> None:
    """With all kernels, outputs and all gradients are torch's; images are stored as float32.

    Args:
        ours: computes the outputs by the operations of the backend.
        theirs: computes them by torch.
        x: images (batch, height, width, channels) or vectors.
        weights: the weights, as the backend has them.
        rounding: the largest error, of the largest entry of each array, or of 1.
        machines: the kernels.
    """
    shape = in_torch(theirs, x, weights, None).output.shape
    direction = in_halves(np.random.default_rng(9).standard_normal(shape).astype(np.float32))
    expected = in_torch(theirs, x, weights, direction)
    for machine in machines:
        assert_close(in_kernels(machine, ours, x, list(weights), direction), expected, rounding)


def check_halves_against_torch(
    ours: Callable[[Any, Any, list[Any]], Any], theirs: Forward, x: Array, weights: Sequence[Any] = ()
) -> None:
    """The same with images that are stored as bfloat16, up to its rounding."""
    check_against_torch(ours, theirs, in_halves(x), weights, rounding=0.02, machines=HALVES)


def in_halves(x: Array) -> Array:
    """Numbers that bfloat16 represents exactly."""
    return runtime.read(runtime.rounded(x))


def _to_torch(array: Array) -> Tensor:
    tensor = torch.from_numpy(array.astype(float))
    return tensor.permute(0, 3, 1, 2).contiguous() if array.ndim == 4 else tensor


def _to_numpy(tensor: Tensor) -> Array:
    array = tensor.detach()
    return (array.permute(0, 2, 3, 1) if array.ndim == 4 else array).numpy()
