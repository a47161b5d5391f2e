"""Prediction, image by image so that activations stay in the cache, or in blocks of images side by side in vectors."""

import math
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore.host.weights import WeightView
from sparsecore.learning.protocols import Model
from sparsecore_cpu._kernels import RowConvolution, copy_pixels
from sparsecore_cpu.inference.calls import CallList, MeasuredCalls
from sparsecore_cpu.inference.network import ImageInfo, TrainedNetwork, write_network
from sparsecore_cpu.inference.planes import ChannelTaps, Frame, Plane, Planes, RowLayout, diagonal
from sparsecore_cpu.inference.program import (
    NO_CEILING,
    UNBOUNDED,
    AffineNode,
    ConvolutionNode,
    compile_program,
    program_of,
)
from sparsecore_cpu.operations import CpuComputation
from sparsecore_cpu.runtime import Floats, Runtime


@attrs.frozen(eq=False)
class PlaneCompiler:
    """Compiles a graph to planes in memory, and to the calls that fill them in order.

    Attributes:
        runtime: kernels and threads.
        given: the plane of the input image.
        planes: memory for the others.
        calls: the calls that were compiled so far.
        work: the multiply-adds on vectors of each convolution, for one image on planes and for a block of images that
            are side by side in vectors.
    """

    runtime: Runtime
    given: Plane
    planes: Planes = attrs.field(factory=Planes)
    calls: CallList = attrs.field(factory=CallList)
    work: list[tuple[int, int]] = attrs.field(factory=list)
    _phased: WeakKeyDictionary[Plane, dict[tuple[Frame, tuple[int, int]], Plane]] = attrs.field(
        factory=WeakKeyDictionary
    )

    def images(self) -> Plane:
        """The plane of the input image."""
        return self.given

    def convolved(self, node: ConvolutionNode, x: Plane, add: Plane | None = None) -> Plane:
        """A convolution, which starts from ``add`` in the frame of the outputs.

        Args:
            node: weight, bias, window and floor.
            x: the input; where the frame is not wide enough or the stride is above 1, its phases are copied first.
            add: the addend, copied where its frame is another one; None for zeros.

        Raises:
            InputError: the images are so large that an offset does not fit into 32 bits.
        """
        reach = RowLayout.of(node.weight.shape, node.window, x.frame)
        x = x if reach.is_met else self._phases(x, reach.frame, node.window.stride)
        out = self.planes.take(node.weight.shape[0], reach.outputs)
        start = None if add is None else self._framed(add, out.frame)
        self._convolve(x, out, start, reach.taps(node.weight, x), node.bias, (node.floor, node.ceiling))
        return out

    def affine(self, node: AffineNode, x: Plane) -> Plane:
        """A convolution with one weight for each channel."""
        out, shift = self.planes.take(x.channels, x.frame), np.broadcast_to(node.shift, x.channels)
        self._convolve(x, out, None, diagonal(x, node.scale), shift, (node.floor, node.ceiling))
        return out

    def added(self, x: Plane, y: Plane) -> Plane:
        """A convolution with ones that starts from the other plane."""
        out, start = self.planes.take(x.channels, x.frame), self._framed(y, x.frame)
        self._convolve(x, out, start, diagonal(x, np.ones(1)), np.zeros(x.channels), (UNBOUNDED, NO_CEILING))
        return out

    def pooled(self, x: Plane) -> Plane:
        """The means: sums over pixels and the zeros between them, divided by the number of pixels."""
        out = self._vector(x.channels)
        share = np.float32(1 / (x.frame.height * x.frame.width))
        self.calls.append(partial(np.add.reduce, x.runs, axis=1, out=out.features))
        self.calls.append(partial(np.multiply, out.features, share, out=out.features))
        return out

    def flattened(self, x: Plane) -> Plane:
        """A copy in the order height, width, channel."""
        height, width = x.frame.height, x.frame.width
        out = self._vector(height * width * x.channels)
        into = out.features.reshape(height, width, x.channels)
        self.calls.append(partial(np.copyto, into, x.pixels.transpose(1, 2, 0)))
        return out

    def _convolve(
        self,
        x: Plane,
        out: Plane,
        add: Plane | None,
        taps: ChannelTaps,
        bias: NDArray[np.float64],
        bounds: tuple[float, float],
    ) -> None:
        convolution = RowConvolution(
            kernels=self.runtime.kernels.name,
            x=x.memory,
            x_start=x.frame.start,
            out=out.memory,
            out_start=out.frame.start,
            channel_stride=out.frame.room,
            add=None if add is None else add.memory,
            pointers=taps.pointers,
            offsets=taps.offsets,
            values=taps.values,
            bias=bias.astype(np.float32),
            inside=out.frame.inside,
            floor=bounds[0],
            ceiling=bounds[1],
        )
        self.calls.append_threaded(convolution.run)
        frame, weights = out.frame, len(taps.values)
        vectors = -(-frame.height * frame.pitch // self.runtime.kernels.lanes)
        self.work.append((weights * vectors, weights * frame.height * frame.width))

    def _vector(self, features: int) -> Plane:
        return self.planes.take(features, Frame.of(1, 1, border=0))

    def _framed(self, x: Plane, frame: Frame) -> Plane:
        """The same pixels in this frame, copied if they are in another one."""
        return x if x.frame == frame else self._phases(x, frame, (1, 1))

    def _phases(self, x: Plane, frame: Frame, stride: tuple[int, int]) -> Plane:
        """The phases of a stride: every stride-th pixel of rows and columns as channels of its own; copied once."""
        made = self._phased.setdefault(x, {})
        if (frame, stride) not in made:
            made[frame, stride] = self._split(x, frame, stride)
        return made[frame, stride]

    def copy_phases(self, x: Plane, phases: Plane, stride: tuple[int, int], outside: float = 0.0) -> None:
        """Copy every stride-th pixel of rows and columns to channels of its own.

        Args:
            x: the pixels.
            phases: as many times the channels as a stride has phases, by row and column.
            stride: down and to the right.
            outside: what phases have where others have one more row or column.
        """
        for number, (row, column) in enumerate(product(range(stride[0]), range(stride[1]))):
            some = x.pixels[:, row :: stride[0], column :: stride[1]]
            own = phases.pixels[number * x.channels : (number + 1) * x.channels]
            for rest in (own[:, some.shape[1] :], own[:, :, some.shape[2] :]):
                if rest.size:
                    self.calls.append(partial(rest.fill, outside))
            if some.size:
                into = own[:, : some.shape[1], : some.shape[2]]
                self.calls.append_threaded(partial(copy_pixels, some, into))

    def _split(self, x: Plane, frame: Frame, stride: tuple[int, int]) -> Plane:
        phases = self.planes.take(math.prod(stride) * x.channels, frame)
        self.copy_phases(x, phases, stride)
        return phases


_MOST_BLOCKS = 8
"""The blocks that are computed at a time, which bounds the memory."""


@attrs.frozen(eq=False)
class Blocks:
    """Predicts many images at a time, with the operations of training.

    Attributes:
        pictures: what is known of the images.
        model: the network.
        parameters: its parameters, by name.
        computation: computes the logits.
        most: the largest number of images at a time.
    """

    pictures: ImageInfo
    model: Model
    parameters: Mapping[str, Any]
    computation: CpuComputation
    most: int

    @classmethod
    def of(cls, network: TrainedNetwork, runtime: Runtime) -> "Blocks":
        """A network with memory of its own, allocated when it is used.

        Args:
            network: the trained network.
            runtime: kernels and threads; eight vectors of images at most are computed at a time.
        """
        most = _MOST_BLOCKS * runtime.kernels.lanes
        return cls(network.pictures, network.model, _weights(network), CpuComputation(runtime), most)

    def predict(self, images: NDArray[Any], logits: Floats) -> None:
        """Write the logits of images.

        Args:
            images: (batch, height, width, channels), in units of 0..255.
            logits: float32, (batch, classes), written to.
        """
        mean, std = (moment.astype(np.float32) for moment in (self.pictures.mean, self.pictures.std))
        for first in range(0, len(images), self.most):
            some = slice(first, first + self.most)
            normalized = (images[some].astype(np.float32) - mean) / std
            logits[some] = self.computation.logits(self.model, self.parameters, normalized)


def _weights(network: TrainedNetwork) -> dict[str, Any]:
    topology = network.topology
    sparse = {
        name: _weight(shape, topology.local(name), network.values[topology.slots(name)])
        for name, shape in zip(topology.layout.names, topology.layout.shapes, strict=True)
    }
    trained = {parameter.name for parameter in network.parameters if parameter.trained}
    dense = {
        name: _weight(array.shape, np.arange(array.size), array.ravel()) if name in trained else array
        for name, array in network.dense.items()
    }
    return sparse | dense


def _weight(shape: tuple[int, ...], positions: NDArray[np.integer], values: Floats) -> WeightView:
    return WeightView(shape, np.asarray(positions, np.intp), values, np.zeros(0, np.float32))


_BLOCK_TIMES = 2
"""The time of a multiply-add in a block, relative to one on planes: a block's activations do not stay in the cache."""


@attrs.frozen(eq=False)
class Single:
    """Predicts one image at a time.

    Attributes:
        given: the plane of the normalized image.
        logits: the plane of its logits.
        calls: the calls that compute them, in order.
        work: the multiply-adds on vectors for an image, and for a block; see :class:`PlaneCompiler`.
    """

    given: Plane
    logits: Plane
    calls: MeasuredCalls
    work: tuple[int, int]
    _mean: Floats
    _std: Floats

    @classmethod
    def of(cls, network: TrainedNetwork, runtime: Runtime) -> "Single":
        """A network with memory of its own.

        Args:
            network: the trained network.
            runtime: kernels and threads.

        Raises:
            InputError: the images are so large that an offset does not fit into 32 bits.
        """
        pictures, planes = network.pictures, Planes()
        height, width, channels = pictures.shape
        given = planes.take(channels, Frame.of(height, width, border=1))
        rows = PlaneCompiler(runtime, given, planes)
        logits = compile_program(program_of(network), rows)
        mean, std = (moment.astype(np.float32)[:, None, None] for moment in (pictures.mean, pictures.std))
        image, block = (sum(vectors) for vectors in zip(*rows.work, strict=True))
        return cls(given, logits, MeasuredCalls(rows.calls, runtime.threads), (image, block), mean, std)

    def is_quicker(self, images: int, lanes: int) -> bool:
        """Whether so many images take less time one at a time than in blocks.

        Args:
            images: the number of images.
            lanes: the images in a block, of which the last may be partly empty.

        Returns:
            True where the counted multiply-adds say so; a multiply-add in a block counts for two.
        """
        image, block = self.work
        return images * image <= _BLOCK_TIMES * -(-images // lanes) * block

    def predict(self, images: NDArray[np.generic], logits: Floats) -> None:
        """Write the logits of images, one image after another.

        Args:
            images: (batch, height, width, channels), in units of 0..255.
            logits: float32, (batch, classes), written to.
        """
        pixels = self.given.pixels
        for image, own in zip(images, logits, strict=True):
            np.subtract(image.transpose(2, 0, 1), self._mean, out=pixels, casting="same_kind")
            np.divide(pixels, self._std, out=pixels)
            self.calls.run()
            own[:] = self.logits.features


@attrs.frozen(eq=False)
class ImageExecution:
    """Predicts with a trained network, in whichever way takes less time for a batch.

    Attributes:
        network: the trained network.
        runtime: kernels and threads.
        single: predicts one image at a time.
        blocks: predicts many images at a time.
    """

    network: TrainedNetwork
    runtime: Runtime
    single: Single
    blocks: Blocks

    @classmethod
    def of(cls, network: TrainedNetwork, runtime: Runtime) -> "ImageExecution":
        """A network with memory of its own.

        Args:
            network: the trained network.
            runtime: kernels and threads.
        """
        return cls(network, runtime, Single.of(network, runtime), Blocks.of(network, runtime))

    def predict(self, images: NDArray[Any]) -> Floats:
        """Logits, float32, (batch, classes).

        Args:
            images: (batch, height, width, channels), in units of 0..255.

        Raises:
            InputError: they have another shape, or are no such numbers.
        """
        self._check(images)
        logits = np.empty((len(images), self.network.pictures.classes), np.float32)
        single = self.single.is_quicker(len(images), self.runtime.kernels.lanes)
        (self.single if single else self.blocks).predict(images, logits)
        return logits

    def save(self, path: Path) -> None:
        """Write the network to a file; see :func:`write_network`."""
        write_network(self.network, path)

    def _check(self, images: NDArray[Any]) -> None:
        shape = self.network.pictures.shape
        if images.ndim != 4 or images.shape[1:] != shape:
            raise InputError(
                f"images are (batch, {', '.join(map(str, shape))}) as the network was trained on; given {images.shape}"
            )
        if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
            raise InputError(f"images are uint8, or floats in units of 0..255; given {images.dtype}")
