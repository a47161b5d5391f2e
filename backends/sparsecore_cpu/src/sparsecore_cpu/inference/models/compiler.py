"""Compiles the graph of a program to calls on planes, and to NumPy where there is no kernel for an operation."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore_cpu._kernels import PointwiseFunction, attend
from sparsecore_cpu.inference.calls import CallList
from sparsecore_cpu.inference.execution import PlaneCompiler
from sparsecore_cpu.inference.models.definitions import DEFINITIONS, VIEWS, attention
from sparsecore_cpu.inference.models.graph import CallNode
from sparsecore_cpu.inference.models.linear import handle_of, linear
from sparsecore_cpu.inference.models.pooling import max_pooled
from sparsecore_cpu.inference.models.program import Shape, sized
from sparsecore_cpu.inference.models.values import Value, image_value, vector_frame, vector_value
from sparsecore_cpu.inference.planes import Frame, Plane, Planes
from sparsecore_cpu.inference.program import AffineNode, ConvolutionNode
from sparsecore_cpu.runtime import Runtime, aligned_zeros
from sparsecore_cpu.window import Padding, Window

_BORDER = 1
"""The zeros around input images, wide enough for most first layers."""


@attrs.frozen(eq=False)
class PlaneModelCompiler:
    """Turns nodes into values in memory, and collects the calls that compute them.

    Attributes:
        examples: the number of examples that are computed at a time.
        given: the value of the input.
        rows: compiles convolutions on planes, and holds the calls.
    """

    examples: int
    given: Value
    rows: PlaneCompiler

    @classmethod
    def of(cls, shape: Shape, dtype: str, examples: int, runtime: Runtime) -> "PlaneModelCompiler":
        """A compiler with memory of its own.

        Args:
            shape: the shape of the input.
            dtype: its NumPy dtype.
            examples: the number of examples; 1 where the input are images.
            runtime: kernels and threads.
        """
        planes, own = Planes(), sized(shape, examples)
        if dtype != "float32" or len(own) < 2:
            given = Value(np.zeros(own, dtype))
        elif len(own) == 4 and own[0] == 1:
            given = image_value(planes.take(own[1], Frame.of(own[2], own[3], _BORDER)))
        else:
            given = vector_value(planes.take(own[-1], vector_frame(math.prod(own[:-1]))), own[:-1])
        plane = given.owners[0] if given.owners else planes.take(1, Frame.of(1, 1, border=0))
        return cls(examples, given, PlaneCompiler(runtime, plane, planes))

    @property
    def calls(self) -> CallList:
        """The calls so far, in order."""
        return self.rows.calls

    def images(self) -> Value:
        """The input."""
        return self.given

    def constant(self, array: NDArray[Any]) -> Value:
        """A tensor that does not depend on the input."""
        return Value(array)

    def convolved(self, node: ConvolutionNode, x: Value, add: Value | None = None) -> Value:
        """A convolution or a linear layer, which starts from ``add``."""
        if len(node.weight.shape) == 4:
            return image_value(self.rows.convolved(node, self._images(x), None if add is None else self._images(add)))
        plane, start = self._vectors(x), None if add is None else self._vectors(add)
        return vector_value(linear(self.rows, node, plane, start), x.shape[:-1])

    def affine(self, node: AffineNode, x: Value) -> Value:
        """min(max(scale·x + shift, floor), ceiling), by channel of images, or of vectors."""
        by_entry = max(node.scale.size, node.shift.size) == 1
        if not by_entry and x.array.ndim == 4:
            return image_value(self.rows.affine(node, self._images(x)))
        if not by_entry:
            return vector_value(self.rows.affine(node, self._vectors(x)), x.shape[:-1])
        stored = _stored(x)
        if stored:
            plane, value_of = stored
            return value_of(self.rows.affine(node, plane))
        scale, shift = np.float32(node.scale.item()), np.float32(node.shift.item())
        out = np.empty(x.shape, np.float32)
        self.calls.append(partial(_affine, x.array, scale, shift, (node.floor, node.ceiling), out))
        return Value(out)

    def added(self, x: Value, y: Value) -> Value:
        """The sum of two values of one shape."""
        for one, other in ((x, y), (y, x)):
            if one.as_images():
                return image_value(self.rows.added(self._images(one), self._images(other)))
            if plane := one.as_vectors():
                return vector_value(self.rows.added(plane, self._vectors(other)), one.shape[:-1])
        out = np.empty(x.shape, np.float32)
        self.calls.append(partial(np.add, x.array, y.array, out=out))
        return Value(out)

    def pooled(self, x: Value) -> Value:
        """The means over height and width, (1, channels)."""
        return vector_value(self.rows.pooled(self._images(x)), (1,))

    def flattened(self, x: Value) -> Value:
        """Not used by programs, which reshape."""
        raise NotImplementedError

    def called(self, node: CallNode, operands: Sequence[Value | None]) -> Value:
        """Any operation, by a kernel or by NumPy."""
        lowered = _LOWERED.get(node.operation)
        made = lowered(self, node, operands) if lowered else None
        return made or self._by_definition(node, operands)

    def pointwise(self, node: CallNode, operands: Sequence[Value | None]) -> Value | None:
        """A function of each entry."""
        (x,) = operands
        stored = _stored(x) if x else None
        if not stored:
            return None
        plane, value_of = stored
        kind, parameter = _FUNCTIONS[node.operation](node.attributes)
        out = self.rows.planes.take(plane.channels, plane.frame)
        ones, zeros = np.ones(plane.channels, np.float32), np.zeros(plane.channels, np.float32)
        runtime = self.rows.runtime
        handles = handle_of(plane, runtime), handle_of(out, runtime)
        self.calls.append_threaded(partial(runtime.kernels.pointwise, kind, parameter, *handles, None, ones, zeros))
        if kind in _NOT_ZERO_AT_ZERO:
            self._clear_outside(out)
        return value_of(out)

    def layer_norm(self, node: CallNode, operands: Sequence[Value | None]) -> Value | None:
        """Layer norm over the features of vectors."""
        return self._normalized(node, operands[0], *operands[1:], centered=True)

    def rms_norm(self, node: CallNode, operands: Sequence[Value | None]) -> Value | None:
        """RMS norm over the features of vectors."""
        return self._normalized(node, operands[0], operands[1], None, centered=False)

    def multiplied(self, _: CallNode, operands: Sequence[Value | None]) -> Value | None:
        """A product of equal planes, or of an image with a factor for each channel."""
        x, y = operands
        if x is None or y is None:
            return None
        for image, factor in ((x, y), (y, x)):
            plane = image.as_images()
            if plane and factor.shape == (1, plane.channels, 1, 1):
                return image_value(self._scaled(plane, factor))
        if x.shape == y.shape:
            for of in (Value.as_images, Value.as_vectors):
                one, other = of(x), of(y)
                if one and other and one.frame == other.frame:
                    out = self._product(one, other)
                    return image_value(out) if of is Value.as_images else vector_value(out, x.shape[:-1])
        return None

    def max_pooled(self, node: CallNode, operands: Sequence[Value | None]) -> Value | None:
        """The largest pixel of each window; by NumPy where windows may be partly beyond the padded image."""
        (x,) = operands
        a = node.attributes
        kernel, stride, (down, right) = tuple(a["kernel"]), tuple(a["stride"]), a["padding"]
        window = Window(stride, Padding(down, down, right, right), tuple(a["dilation"]))
        if x is None or window.outputs((x.shape[2], x.shape[3]), kernel) != tuple(node.shape[2:]):
            return None
        return image_value(max_pooled(self.rows, self._images(x), kernel, window))

    def concatenated(self, node: CallNode, operands: Sequence[Value | None]) -> Value | None:
        """Images with their channels behind each other."""
        planes = [value.as_images() for value in operands if value]
        frames = {plane.frame for plane in planes if plane}
        if node.attributes["axis"] != 1 or len(frames) != 1 or None in planes:
            return None
        whole = [plane for plane in planes if plane]
        out, start = self.rows.planes.take(sum(plane.channels for plane in whole), frames.pop()), 0
        for plane in whole:
            into = out.runs[start : start + plane.channels]
            self.calls.append(partial(np.copyto, into, plane.runs))
            start += plane.channels
        return image_value(out)

    def attended(self, node: CallNode, operands: Sequence[Value | None]) -> Value | None:
        """Attention, whose outputs are written as vectors of all heads; by NumPy with a mask."""
        query, key, value, mask = operands
        if not (query and key and value) or len({query.array.ndim, key.array.ndim, value.array.ndim, 4}) != 1:
            return None
        if query.shape[:2] != value.shape[:2]:
            return None
        out, view = self._heads((*query.shape[:-1], value.shape[-1]))
        a, arrays = node.attributes, (query.array, key.array, value.array)
        if mask is None and all(array.strides[2] == array.itemsize for array in arrays):
            scale = 1 / math.sqrt(query.shape[-1]) if a["scale"] is None else a["scale"]
            kernels = self.rows.runtime.kernels.name
            self.calls.append_threaded(partial(attend, kernels, *arrays, view, a["causal"], scale))
        else:
            masked = mask.array if mask else None
            self.calls.append(partial(attention, *arrays, masked, a["causal"], a["scale"], view))
        return Value(view, (out,))

    def product(self, node: CallNode, operands: Sequence[Value | None]) -> Value | None:
        """A matrix product whose outputs are written as vectors of all heads, like those of attention."""
        x, y = operands
        shape = sized(node.shape, self.examples)
        if x is None or y is None or len(shape) != 4 or y.array.strides[-1] == y.array.itemsize:
            return None
        out, view = self._heads(shape)
        transposed = y.array.swapaxes(-1, -2), x.array.swapaxes(-1, -2)
        self.calls.append(partial(np.matmul, *transposed, out=view.swapaxes(-1, -2)))
        return Value(view, (out,))

    def embedded(self, node: CallNode, operands: Sequence[Value | None]) -> Value | None:
        """Rows of a table as vectors."""
        indices, table = operands
        if indices is None or table is None:
            return None
        shape = sized(node.shape, self.examples)
        out = vector_value(self.rows.planes.take(shape[-1], vector_frame(math.prod(shape[:-1]))), shape[:-1])
        self._computed(partial(DEFINITIONS["embedding"], indices.array, table.array), out.array)
        return out

    def _by_definition(self, node: CallNode, operands: Sequence[Value | None]) -> Value:
        attributes = dict(node.attributes)
        if "shape" in attributes:
            attributes["shape"] = sized(attributes["shape"], self.examples)
        arrays = [None if value is None else value.array for value in operands]
        compute = partial(DEFINITIONS[node.operation], *arrays, **attributes)
        x = operands[0]
        if node.operation in VIEWS and x:
            view = compute()
            if np.may_share_memory(view, x.array):
                return Value(view, x.owners)
        out = np.zeros(sized(node.shape, self.examples), np.float32)
        self._computed(compute, out)
        return Value(out)

    def _computed(self, compute: Callable[[], NDArray[Any]], out: NDArray[Any]) -> None:
        self.calls.append(partial(_copied, compute, out))

    def _images(self, x: Value) -> Plane:
        """The plane of an image; copied where it is stored in another way."""
        if plane := x.as_images():
            return plane
        _, channels, height, width = x.shape
        plane = x.copies["images"] = self.rows.planes.take(channels, Frame.of(height, width, _BORDER))
        self.calls.append(partial(np.copyto, plane.pixels[None], x.array))
        return plane

    def _vectors(self, x: Value) -> Plane:
        """The plane of vectors; copied where they are stored in another way."""
        if plane := x.as_vectors():
            return plane
        copied = vector_value(self.rows.planes.take(x.shape[-1], vector_frame(math.prod(x.shape[:-1]))), x.shape[:-1])
        x.copies["vectors"] = copied.owners[0]
        self.calls.append(partial(np.copyto, copied.array, x.array))
        return copied.owners[0]

    def _normalized(
        self, node: CallNode, x: Value | None, scale: Value | None, shift: Value | None, *, centered: bool
    ) -> Value | None:
        plane = x.as_vectors() if x else None
        if plane is None or x is None or node.attributes["dimensions"] != 1:
            return None
        if any(part is not None and part.shape != (plane.channels,) for part in (scale, shift)):
            return None
        runtime, epsilon = self.rows.runtime, node.attributes["epsilon"]
        lanes = runtime.kernels.lanes
        out = self.rows.planes.take(plane.channels, plane.frame)
        factors = np.ones(plane.channels, np.float32) if scale is None else scale.array.astype(np.float32)
        constants = np.zeros(plane.channels, np.float32) if shift is None else shift.array.astype(np.float32)
        statistics = aligned_zeros((plane.frame.room // lanes, 1, 2, lanes))
        handles = handle_of(plane, runtime), handle_of(out, runtime)
        normalize = partial(runtime.kernels.normalize, *handles, factors, constants, statistics)
        self.calls.append_threaded(partial(normalize, 1, False, epsilon, centered))  # groups, by_image
        return vector_value(out, x.shape[:-1])

    def _scaled(self, x: Plane, factor: Value) -> Plane:
        """An image times a factor for each channel."""
        runtime, out = self.rows.runtime, self.rows.planes.take(x.channels, x.frame)
        factors, zeros = np.empty(x.channels, np.float32), np.zeros(x.channels, np.float32)
        self.calls.append(partial(np.copyto, factors, factor.array[0, :, 0, 0]))
        handles = handle_of(x, runtime), handle_of(out, runtime)
        self.calls.append_threaded(partial(runtime.kernels.affine, *handles, factors, zeros))
        return out

    def _product(self, x: Plane, y: Plane) -> Plane:
        runtime, out = self.rows.runtime, self.rows.planes.take(x.channels, x.frame)
        handles = handle_of(x, runtime), handle_of(y, runtime), handle_of(out, runtime)
        self.calls.append_threaded(partial(runtime.kernels.multiply, *handles, None))
        return out

    def _clear_outside(self, out: Plane) -> None:
        """Make what is between rows and between channels zero again, which convolutions read as the border."""
        frame = out.frame
        if frame.border or frame.pitch != frame.width:
            inside = np.zeros(frame.room, np.float32)
            inside[: frame.pixels] = frame.inside
            rooms = out.rooms
            self.calls.append(partial(np.multiply, rooms, inside, out=rooms))

    def _heads(self, shape: tuple[int, ...]) -> tuple[Plane, NDArray[np.float32]]:
        """Memory for (examples, heads, tokens, features), in which the heads of a token are one vector."""
        examples, heads, tokens, features = shape
        out = self.rows.planes.take(heads * features, vector_frame(examples * tokens))
        by_head = out.runs[:, : examples * tokens].reshape(heads, features, examples, tokens)
        return out, by_head.transpose(2, 0, 3, 1)


def _stored(x: Value) -> tuple[Plane, Callable[[Plane], Value]] | None:
    """The plane of a value, and what makes a value of the same shape of another such plane; None: there is none."""
    if plane := x.as_images():
        return plane, image_value
    if plane := x.as_vectors():
        return plane, lambda out: vector_value(out, x.shape[:-1])
    return None


def _copied(compute: Callable[[], NDArray[Any]], out: NDArray[Any]) -> None:
    made = compute()
    if made.shape != out.shape:  # which copyto would broadcast
        raise InputError(f"an operation whose output has the shape {out.shape} computes one of {made.shape}")
    np.copyto(out, made)


def _affine(
    x: NDArray[Any], scale: np.float32, shift: np.float32, bounds: tuple[float, float], out: NDArray[Any]
) -> None:
    np.multiply(x, scale, out=out)
    np.add(out, shift, out=out)
    if bounds != (-math.inf, math.inf):
        np.clip(out, *bounds, out=out)


Function = tuple[PointwiseFunction, float]

_FUNCTIONS: Mapping[str, Callable[[Mapping[str, Any]], Function]] = MappingProxyType(
    {
        "leaky_relu": lambda a: (PointwiseFunction.LEAKY_RELU, a["slope"]),
        "silu": lambda _: (PointwiseFunction.SILU, 0.0),
        "gelu": lambda a: (PointwiseFunction.GELU_TANH if a["tanh"] else PointwiseFunction.GELU, 0.0),
        "hardswish": lambda _: (PointwiseFunction.HARDSWISH, 0.0),
        "hardsigmoid": lambda _: (PointwiseFunction.HARDSIGMOID, 0.0),
        "sigmoid": lambda _: (PointwiseFunction.SIGMOID, 0.0),
        "tanh": lambda _: (PointwiseFunction.TANH, 0.0),
        "elu": lambda a: (PointwiseFunction.ELU, a["alpha"]),
        "softplus": lambda a: (PointwiseFunction.SOFTPLUS, a["beta"]),
        "mish": lambda _: (PointwiseFunction.MISH, 0.0),
    }
)

_NOT_ZERO_AT_ZERO = frozenset({PointwiseFunction.HARDSIGMOID, PointwiseFunction.SIGMOID, PointwiseFunction.SOFTPLUS})

Lowering = Callable[[PlaneModelCompiler, CallNode, Sequence[Value | None]], Value | None]

_LOWERED: Mapping[str, Lowering] = MappingProxyType(
    {
        **dict.fromkeys(_FUNCTIONS, PlaneModelCompiler.pointwise),
        "layer_norm": PlaneModelCompiler.layer_norm,
        "rms_norm": PlaneModelCompiler.rms_norm,
        "multiply": PlaneModelCompiler.multiplied,
        "max_pool2d": PlaneModelCompiler.max_pooled,
        "concatenate": PlaneModelCompiler.concatenated,
        "attention": PlaneModelCompiler.attended,
        "matmul": PlaneModelCompiler.product,
        "embedding": PlaneModelCompiler.embedded,
    }
)
"""The operations that kernels compute for some layouts; NumPy computes the others."""
