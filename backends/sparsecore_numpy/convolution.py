"""Convolution and its gradients as matrix products, a few images at a time on every core.

A weight is laid out densely for the product and lives no longer; of its dense gradient the existing entries are kept.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore_numpy.machine import Machine
from sparsecore_numpy.memory import Memory
from sparsecore_numpy.patches import Images, Window, blocks, layer, pixels, spread
from sparsecore_numpy.weights import Operand
from sparsecore_numpy.workers import divided

_GRAIN = 2.5e7
"""Multiply-adds that are worth another thread."""

_NARROW = 32
_SMALL = 10**6
"""OpenBLAS's bound on the multiply-adds of a small product."""


def forward(machine: Machine, images: Images, weight: Operand, window: Window) -> Images:
    """The cross-correlation of images with a weight."""
    matrix = weight.dense(machine.memory, weight.by_tap).reshape(-1, weight.shape[0])
    output = machine.memory.take(len(images), *window.outputs(images.shape[1:]), weight.shape[0])

    def part(run: slice) -> None:
        patches = layer(machine.memory, window, images.shape[1:])
        for some in blocks(machine.memory, window, images.shape[1:], run):
            _multiply(patches.of(images[some]), matrix, pixels(output[some]))

    machine.workers.each(part, _runs(output, weight))
    return output


def backward(machine: Machine, images: Images, weight: Operand, window: Window, gradient: Images) -> Images:
    """Add to the weight's gradient, and return the images'."""
    is_convolution = window.stride == 1 and window.above < window.height and window.left < window.width
    return (_backward_turned if is_convolution else _backward_spread)(machine, images, weight, window, gradient)


def backward_weight(machine: Machine, images: Images, weight: Operand, window: Window, gradient: Images) -> None:
    """Add to the weight's gradient only."""

    def part(run: slice, products: "_Products") -> None:
        patches = layer(machine.memory, window, images.shape[1:])
        for some in blocks(machine.memory, window, images.shape[1:], run):
            products.add(patches.of(images[some]).T, pixels(gradient[some]))

    weight.accumulate(_summed(machine, gradient, weight, part), weight.by_tap)


def _backward_turned(machine: Machine, images: Images, weight: Operand, window: Window, gradient: Images) -> Images:
    """The images' gradient is a convolution with the turned kernel; its patches serve the weight's gradient too."""
    window = window.turned()
    matrix = weight.dense(machine.memory, weight.by_opposite_tap).reshape(-1, weight.shape[1])
    result = machine.memory.take(*images.shape)

    def part(run: slice, products: "_Products") -> None:
        patches = layer(machine.memory, window, gradient.shape[1:])
        for some in blocks(machine.memory, window, gradient.shape[1:], run):
            patch = patches.of(gradient[some])
            _multiply(patch, matrix, pixels(result[some]))
            products.add(patch.T, pixels(images[some]))

    weight.accumulate(_summed(machine, gradient, weight, part), weight.by_opposite_tap)
    return result


def _backward_spread(machine: Machine, images: Images, weight: Operand, window: Window, gradient: Images) -> Images:
    """The images' gradient is the sum of the patches' gradients where they overlap."""
    memory, size = machine.memory, images.shape[1:]
    matrix = weight.dense(memory, weight.by_tap).reshape(-1, weight.shape[0])
    result = memory.take(*images.shape)

    def part(run: slice, products: "_Products") -> None:
        patches, overlap = layer(memory, window, size), spread(memory, window, size)
        for some in blocks(memory, window, size, run):
            patch, outputs = patches.of(images[some]), pixels(gradient[some])
            products.add(patch.T, outputs)
            overlap.onto(result[some], np.matmul(outputs, matrix.T, out=memory.take(*patch.shape)))

    weight.accumulate(_summed(machine, gradient, weight, part), weight.by_tap)
    return result


class _Products:
    """A sum of matrix products, in memory that is there already."""

    def __init__(self, total: NDArray[Any], memory: Memory) -> None:
        self._total, self._memory = total, memory
        self._next = total

    def add(self, left: NDArray[Any], right: NDArray[Any]) -> None:
        shape = left.shape[0], right.shape[1]
        np.matmul(left, right, out=self._next.reshape(shape))
        if self._next is self._total:
            self._next = self._memory.take(*self._total.shape)
        else:
            np.add(self._total, self._next, out=self._total)


def _multiply(patches: NDArray[Any], matrix: NDArray[Any], out: NDArray[Any]) -> None:
    """The product of patches and a weight."""
    # OpenBLAS has a kernel for small matrices that copies neither; with few columns, copying takes a third of the time
    step = _NARROW if matrix.shape[1] <= _NARROW and _NARROW * matrix.size <= _SMALL else len(patches)
    whole = len(patches) // step * step
    few = patches[:whole].reshape(-1, step, patches.shape[1])
    np.matmul(few, matrix, out=out[:whole].reshape(-1, step, matrix.shape[1]))
    if whole < len(patches):
        np.matmul(patches[whole:], matrix, out=out[whole:])


def _summed(
    machine: Machine, gradient: Images, weight: Operand, part: Callable[[slice, _Products], None]
) -> NDArray[Any]:
    """The dense gradient of a weight: each part of the batch sums its products, and the parts are added in order."""
    runs = _runs(gradient, weight)
    totals = machine.memory.take(len(runs), int(np.prod(weight.shape)))
    machine.workers.each(lambda number: part(runs[number], _Products(totals[number], machine.memory)), range(len(runs)))
    for other in totals[1:]:
        np.add(totals[0], other, out=totals[0])
    return np.asarray(totals[0])


def _runs(output: Images, weight: Operand) -> list[slice]:
    return divided(len(output), output[..., 0].size * int(np.prod(weight.shape)), _GRAIN)
