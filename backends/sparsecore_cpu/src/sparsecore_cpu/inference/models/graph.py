"""A program as a graph of nodes: convolutions, affine functions and sums that are merged, and calls of all the rest."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore_cpu.inference.models.program import Call, ModelProgram, Operand, Shape
from sparsecore_cpu.inference.network import FixedTensor
from sparsecore_cpu.inference.program import (
    NO_CEILING,
    UNBOUNDED,
    AffineNode,
    Compiler,
    ConvolutionNode,
    ImagesNode,
    Node,
    PoolNode,
    SumNode,
    fused,
)
from sparsecore_cpu.window import Padding, Window

T = TypeVar("T")


class ModelCompiler(Compiler[T], Protocol[T]):
    """A compiler that knows the nodes of this module, too."""

    def constant(self, array: NDArray[Any]) -> T:
        """A tensor that does not depend on the input."""
        ...

    def called(self, node: "CallNode", operands: Sequence[T | None]) -> T:
        """Any operation.

        Args:
            node: the operation.
            operands: the values that it reads, with None for those that are left out.
        """
        ...


@attrs.frozen(eq=False)
class ConstantNode:
    """A tensor that does not depend on the input."""

    array: NDArray[Any]
    operands: tuple[Node, ...] = ()

    def compile(self, compiler: Any, operands: Sequence[T]) -> T:  # noqa: ARG002
        """The tensor."""
        value: T = compiler.constant(self.array)
        return value


@attrs.frozen(eq=False)
class CallNode:
    """An operation that is merged with no other one.

    Attributes:
        operands: the nodes that it reads.
        operation: its name.
        attributes: its settings.
        shape: the shape of its output.
        given: for each operand of the operation, whether it is there.
        source: the module that it is part of.
    """

    operands: tuple[Node, ...]
    operation: str
    attributes: Mapping[str, Any]
    shape: Shape
    given: tuple[bool, ...]
    source: str = ""

    def compile(self, compiler: Any, operands: Sequence[T]) -> T:
        """The operation."""
        left = iter(operands)
        value: T = compiler.called(self, [next(left) if given else None for given in self.given])
        return value


def graph_of(program: ModelProgram) -> Node:
    """The graph of a program's output.

    Args:
        program: the program.

    Returns:
        The node of the output; batch norms, biases, sums, relu and relu6 are part of the convolution before them where
        nothing else reads it.
    """
    builder = _Builder(program)
    for call in program.calls:
        builder.values.append(_BUILT.get(call.operation, _Builder.call)(builder, call))
    return fused(builder.values[program.output])


class _Builder:
    """Makes the nodes of a program, in its order."""

    def __init__(self, program: ModelProgram) -> None:
        self.program = program
        self.values: list[Node] = [ImagesNode()]
        self._constants: dict[str, Node] = {}

    def call(self, call: Call) -> Node:
        """Any operation."""
        given = tuple(operand is not None for operand in call.operands)
        operands = tuple(self._node(operand) for operand in call.operands if operand is not None)
        return CallNode(operands, call.operation, call.attributes, call.shape, given, call.source)

    def conv2d(self, call: Call) -> Node:
        """A convolution, whose weight is a tensor of the network."""
        x, weight, bias = call.operands
        if weight not in self.program.weights or isinstance(bias, int):
            return self.call(call)
        a, tensor, shape = call.attributes, self.program.weights[str(weight)], self.program.shape_of(x)
        if len(shape) != 4 or len(tensor.shape) != 4 or tensor.shape[1] * a["groups"] != shape[1]:
            raise _misfit(tensor, shape)
        if tensor.shape[0] % a["groups"]:
            raise _misfit(tensor, shape)
        window = Window(tuple(a["stride"]), Padding(*a["padding"]), tuple(a["dilation"]), a["groups"])
        return ConvolutionNode((self._node(x),), tensor, window, self._bias(bias, tensor.shape[0]))

    def linear(self, call: Call) -> Node:
        """A linear layer; vectors in more than one dimension are one sequence of each example."""
        x, weight, bias = call.operands
        shape = self.program.shape_of(x)
        if weight not in self.program.weights or isinstance(bias, int) or len(shape) < 2 or shape[0] > 0:
            return self.call(call)
        tensor = self.program.weights[str(weight)]
        if tensor.shape[1:] != shape[-1:]:
            raise _misfit(tensor, shape)
        node, shift = self._node(x), self._bias(bias, tensor.shape[0])
        if len(shape) < 4:
            return ConvolutionNode((node,), tensor, Window(), shift)
        flat = (shape[0], math.prod(shape[1:-1]), shape[-1])
        flattened = _reshaped(node, flat, call.source)
        return _reshaped(ConvolutionNode((flattened,), tensor, Window(), shift), call.shape, call.source)

    def batch_norm(self, call: Call) -> Node:
        """An affine function by channel."""
        x, *parts = call.operands
        if len(call.shape) not in {2, 4} or any(isinstance(part, int) for part in parts):
            return self.call(call)
        channels = call.shape[1]
        scale, shift, mean, variance = (
            None if part is None else self.program.constants[str(part)].astype(np.float64) for part in parts
        )
        if mean is None or variance is None:
            return self.call(call)
        factor = (np.ones(channels) if scale is None else scale) / np.sqrt(variance + call.attributes["epsilon"])
        return AffineNode((self._node(x),), factor, (0.0 if shift is None else shift) - mean * factor)

    def relu(self, call: Call) -> Node:
        """max(x, 0)."""
        return self._bounded(call, 0.0, NO_CEILING)

    def clamp(self, call: Call) -> Node:
        """min(max(x, least), most)."""
        least, most = call.attributes["least"], call.attributes["most"]
        return self._bounded(call, UNBOUNDED if least is None else least, NO_CEILING if most is None else most)

    def add(self, call: Call) -> Node:
        """A sum of two values of one shape, or with a tensor that has an entry for each channel."""
        one, other = call.operands
        if isinstance(one, int) and isinstance(other, int):
            same = self.program.shape_of(one) == self.program.shape_of(other)
            return SumNode((self._node(one), self._node(other))) if same else self.call(call)
        x, shift = (one, other) if isinstance(one, int) else (other, one)
        entries = self._by_channel(x, shift)
        return self.call(call) if entries is None else AffineNode((self._node(x),), np.ones(1), entries)

    def multiply(self, call: Call) -> Node:
        """A product with a tensor that has an entry for each channel, or any other one."""
        one, other = call.operands
        x, scale = (one, other) if isinstance(one, int) else (other, one)
        entries = None if isinstance(scale, int) else self._by_channel(x, scale)
        return self.call(call) if entries is None else AffineNode((self._node(x),), entries, np.zeros(1))

    def add_number(self, call: Call) -> Node:
        """A sum with a number."""
        return AffineNode((self._node(call.operands[0]),), np.ones(1), np.full(1, call.attributes["number"]))

    def multiply_number(self, call: Call) -> Node:
        """A product with a number."""
        return AffineNode((self._node(call.operands[0]),), np.full(1, call.attributes["number"]), np.zeros(1))

    def mean(self, call: Call) -> Node:
        """The mean over height and width, or any other one."""
        (x,) = call.operands
        if len(self.program.shape_of(x)) != 4 or list(call.attributes["axes"]) != [2, 3]:
            return self.call(call)
        return self._pooled(x, call)

    def average(self, call: Call) -> Node:
        """Average pooling: a convolution of each channel where all windows have one size."""
        (x,) = call.operands
        a, shape = call.attributes, self.program.shape_of(x)
        if a["ceil"] or a["divisor"] is not None or not (a["include_padding"] or list(a["padding"]) == [0, 0]):
            return self.call(call)
        return self._averaged(x, shape, a["kernel"], a["stride"], a["padding"])

    def adaptive_average(self, call: Call) -> Node:
        """The means of windows; a convolution of each channel where the windows divide the images."""
        (x,) = call.operands
        shape, size = self.program.shape_of(x), call.attributes["size"]
        if list(size) == [1, 1]:
            return self._pooled(x, call)
        if shape[2] % size[0] or shape[3] % size[1]:
            return self.call(call)
        kernel = [shape[2] // size[0], shape[3] // size[1]]
        return self._averaged(x, shape, kernel, kernel, [0, 0])

    def _pooled(self, x: Operand, call: Call) -> Node:
        pooled = PoolNode((self._node(x),))
        return pooled if len(call.shape) == 2 else _reshaped(pooled, call.shape, call.source)

    def _averaged(
        self, x: Operand, shape: Shape, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
    ) -> Node:
        channels, taps = shape[1], math.prod(kernel)
        share = np.full((channels, 1, *kernel), 1 / taps, np.float32)
        (down, right), (rows, columns) = padding, stride
        window = Window((rows, columns), Padding(down, down, right, right), groups=channels)
        return ConvolutionNode((self._node(x),), FixedTensor.whole(share), window, np.zeros(channels))

    def _bounded(self, call: Call, floor: float, ceiling: float) -> Node:
        return AffineNode((self._node(call.operands[0]),), np.ones(1), np.zeros(1), floor, ceiling)

    def _by_channel(self, x: Operand, tensor: Operand) -> NDArray[np.float64] | None:
        """The entries of a tensor with one entry for each channel of a value; None for other tensors.

        The channels are dimension 1 of images, and the last one of vectors.
        """
        shape, own = self.program.shape_of(x), self.program.shape_of(tensor)
        if not 2 <= len(shape) <= (4 if self.program.has_images else 3):
            return None
        axis = 1 if len(shape) == 4 else len(shape) - 1
        wide = (*(1,) * (len(shape) - len(own)), *own)
        if len(wide) != len(shape) or wide != tuple(size if at == axis else 1 for at, size in enumerate(shape)):
            return None
        array = self.program.array(str(tensor))
        return array.astype(np.float64).reshape(-1) if array.dtype == np.float32 else None

    def _bias(self, bias: Operand, outputs: int) -> NDArray[np.float64]:
        return np.zeros(outputs) if bias is None else self.program.array(str(bias)).astype(np.float64).reshape(-1)

    def _node(self, operand: Operand) -> Node:
        if isinstance(operand, int):
            return self.values[operand]
        name = str(operand)
        if name not in self._constants:
            self._constants[name] = ConstantNode(self.program.array(name))
        return self._constants[name]


def _misfit(weight: FixedTensor, shape: Shape) -> InputError:
    return InputError(f"a layer with weights of shape {weight.shape} cannot take a tensor of {shape}")


def _reshaped(node: Node, shape: Shape, source: str) -> Node:
    return CallNode((node,), "reshape", {"shape": list(shape)}, shape, (True,), source)


_BUILT: Mapping[str, Callable[[_Builder, Call], Node]] = MappingProxyType(
    {
        "conv2d": _Builder.conv2d,
        "linear": _Builder.linear,
        "batch_norm": _Builder.batch_norm,
        "relu": _Builder.relu,
        "clamp": _Builder.clamp,
        "add": _Builder.add,
        "multiply": _Builder.multiply,
        "add_number": _Builder.add_number,
        "multiply_number": _Builder.multiply_number,
        "mean": _Builder.mean,
        "avg_pool2d": _Builder.average,
        "adaptive_avg_pool2d": _Builder.adaptive_average,
    }
)
