"""Sparse kernels on activations of (blocks, height, channels, width, lanes), compiled from ``kernels/``.

All check their arguments, raise ``ValueError``, and release the interpreter's lock while they compute. No array is
converted, and no output may share memory with another argument, except where a kernel writes exactly where it reads.
Vectors by channel are float32. ``sums`` are (channels, 2) of float64, and are added to. ``threads`` is from 1 to 1024.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import numpy.typing

class Activation:
    """A buffer of activations, which starts at a cache line.

    Images are (blocks, height + 2·border, channels, width + 2·border, lanes) of float32, or of the upper halves of
    floats as uint16 (bfloat16). Features are (1, 1, features, blocks, lanes) of float32.
    """

    def __init__(self, buffer: numpy.typing.NDArray[Any], border: int, images: int, features: bool) -> None: ...

class Input:
    """The input of a convolution: an activation, or a function of it that is computed as it is read."""

    def __init__(self, pixels: Activation) -> None: ...
    @staticmethod
    def rectified(
        pixels: Activation, scale: numpy.typing.NDArray[numpy.float32], shift: numpy.typing.NDArray[numpy.float32]
    ) -> Input:
        """The input relu(scale·pixels + shift), by channel."""

    @staticmethod
    def combined(
        pixels: Activation,
        other: Activation,
        scale: numpy.typing.NDArray[numpy.float32],
        other_scale: numpy.typing.NDArray[numpy.float32],
        shift: numpy.typing.NDArray[numpy.float32],
    ) -> Input:
        """The input scale·pixels + other_scale·other + shift, by channel."""

class Weights:
    """A list of nonzero weights, in groups by block of input channels, then by output channel.

    A weight multiplies the input at its offset from the output's own position. Bundled weights have :data:`BUNDLE`
    values an offset, for as many output channels; a group then belongs to such a bundle. Pointers and offsets are
    copied; the values are read from the array itself whenever the weights are used.
    """

    def __init__(
        self,
        pointers: numpy.typing.NDArray[numpy.int32],
        offsets: numpy.typing.NDArray[numpy.int32],
        values: numpy.typing.NDArray[numpy.float32],
        channels: int,
        bundled: bool = False,
    ) -> None: ...
    @property
    def pointers(self) -> numpy.typing.NDArray[numpy.int32]:
        """Where each group of weights starts; read-only."""

    @property
    def offsets(self) -> numpy.typing.NDArray[numpy.int32]:
        """What each weight reads, relative to the output's position; read-only."""

    @property
    def channels(self) -> numpy.typing.NDArray[numpy.uint16]:
        """The input channel of each weight, where the weights were used and all read the output's own pixel.

        Read-only; empty elsewhere.
        """

class Mask:
    """Where relu(scale·input + shift) is positive; and the mean of the input by channel."""

    def __init__(
        self,
        input: Activation,
        scale: numpy.typing.NDArray[numpy.float32],
        shift: numpy.typing.NDArray[numpy.float32],
        mean: numpy.typing.NDArray[numpy.float32],
    ) -> None: ...

class Steps:
    """The pixels of a convolution.

    It makes every ``out_step``-th output from (row, column) on; the inputs of each are ``x_step`` pixels further on. A
    step is one number, or two: down and to the right.
    """

    def __init__(
        self, x_step: int | tuple[int, int] = 1, out_step: int | tuple[int, int] = 1, row: int = 0, column: int = 0
    ) -> None: ...

class Kernels:
    """The kernels for one instruction set: amx, avx512, avx2 or baseline, or without a name the best one."""

    def __init__(self, name: str = "") -> None: ...
    @property
    def name(self) -> str:
        """The name of the instruction set."""

    @property
    def lanes(self) -> int:
        """How many floats a vector has."""

    def convolve(
        self,
        x: Input,
        out: Activation,
        add: Activation | None,
        weights: Weights,
        steps: Steps,
        sums: numpy.typing.NDArray[numpy.float64] | None,
        threads: int,
    ) -> None:
        """Computes out = add + weights∗x, and the sums of out and of its square."""

    def convolve_masked(
        self,
        x: Input,
        out: Activation,
        add: Activation | None,
        weights: Weights,
        steps: Steps,
        mask: Mask,
        sums: numpy.typing.NDArray[numpy.float64],
        threads: int,
    ) -> None:
        """Computes out = add + weights∗x where the mask is positive, elsewhere zero.

        The sums are those of out and out·(input − mean).
        """

    def weight_gradient(
        self,
        x: Input,
        gradient: Input,
        weights: Weights,
        steps: Steps,
        gradients: numpy.typing.NDArray[numpy.float32],
        threads: int,
    ) -> None:
        """Computes the gradient of each weight in the list."""

    def backward(
        self,
        x: Input,
        gradient: Input,
        weights: Weights,
        stride: int,
        gradients: numpy.typing.NDArray[numpy.float32],
        out: Activation,
        add: Activation | None,
        transposed: Sequence[tuple[Weights, Steps]],
        mask: Mask | None,
        sums: numpy.typing.NDArray[numpy.float64],
        threads: int,
    ) -> None:
        """Computes both gradients of a convolution whose input has ``stride`` times the outputs' height and width.

        ``gradients`` are those of the weights; ``out`` is that of the input, plus ``add``. ``transposed`` are pairs
        of transposed weights and the steps at which they make it, one for each position of a pixel among the
        strides. With a mask, ``out`` and ``sums`` are as of :meth:`convolve_masked`; without one there are no sums.
        """

    def affine(
        self,
        x: Activation,
        out: Activation,
        scale: numpy.typing.NDArray[numpy.float32],
        shift: numpy.typing.NDArray[numpy.float32],
        threads: int,
    ) -> None:
        """Computes out = scale·x + shift, by channel."""

    def affine_relu(
        self,
        x: Activation,
        out: Activation,
        scale: numpy.typing.NDArray[numpy.float32],
        shift: numpy.typing.NDArray[numpy.float32],
        threads: int,
    ) -> None:
        """Computes out = relu(scale·x + shift), by channel."""

    def combine(
        self,
        gradient: Activation,
        x: Activation,
        out: Activation,
        add: Activation | None,
        gradient_scale: numpy.typing.NDArray[numpy.float32],
        x_scale: numpy.typing.NDArray[numpy.float32],
        constant: numpy.typing.NDArray[numpy.float32],
        threads: int,
    ) -> None:
        """Computes out = gradient_scale·gradient + x_scale·x + constant + add: the gradient of a batch norm."""

    def relu_backward(
        self, gradient: Activation, out: Activation, mask: Mask, sums: numpy.typing.NDArray[numpy.float64], threads: int
    ) -> None:
        """Computes out = gradient where the mask is positive, elsewhere zero: the gradient of a relu.

        The sums are those of :meth:`convolve_masked`.
        """

    def moments(
        self,
        x: Activation,
        about: numpy.typing.NDArray[numpy.float32],
        sums: numpy.typing.NDArray[numpy.float64],
        threads: int,
    ) -> None:
        """Computes the sums of x − about and of its square."""

    def gradient_sums(
        self,
        gradient: Activation,
        x: Activation,
        mean: numpy.typing.NDArray[numpy.float32],
        sums: numpy.typing.NDArray[numpy.float64],
        threads: int,
    ) -> None:
        """Computes the sums of gradient and of gradient·(x − mean)."""

    def pool(self, x: Activation, features: Activation, threads: int) -> None:
        """Computes the mean over height and width."""

    def pool_backward(self, features: Activation, out: Activation, add: Activation | None, threads: int) -> None:
        """Computes the gradient of :meth:`pool`, plus add."""

    def pack(self, images: numpy.typing.NDArray[numpy.float32], out: Activation, threads: int) -> None:
        """Copies images (images, height, width, channels) of any strides into a buffer.

        Features are images of one pixel.
        """

    def unpack(self, x: Activation, images: numpy.typing.NDArray[numpy.float32], threads: int) -> None:
        """Copies a buffer into images of any strides; the inverse of :meth:`pack`."""

    def pointwise(
        self,
        function: PointwiseFunction,
        parameter: float,
        x: Activation,
        out: Activation,
        add: Activation | None,
        scale: numpy.typing.NDArray[numpy.float32],
        shift: numpy.typing.NDArray[numpy.float32],
        threads: int,
    ) -> None:
        """Computes out = function(scale·x + shift) + add; scale and shift are by channel."""

    def pointwise_backward(
        self,
        function: PointwiseFunction,
        parameter: float,
        gradient: Activation,
        x: Activation,
        out: Activation,
        add: Activation | None,
        scale: numpy.typing.NDArray[numpy.float32],
        shift: numpy.typing.NDArray[numpy.float32],
        mean: numpy.typing.NDArray[numpy.float32],
        sums: numpy.typing.NDArray[numpy.float64] | None,
        threads: int,
    ) -> None:
        """Computes out = gradient·function'(scale·x + shift) + add.

        The sums are those of out and out·(x − mean).
        """

    def window_sum(
        self,
        x: Activation,
        out: Activation,
        add: Activation | None,
        windows: Windows,
        row_factors: numpy.typing.NDArray[numpy.float32],
        column_factors: numpy.typing.NDArray[numpy.float32],
        by_input: bool,
        threads: int,
    ) -> None:
        """Computes the sum of each window of images times the factors of the output's row and column, plus add.

        With ``by_input``, each pixel of the input is multiplied by the factors of its own row and column instead. The
        sum of an empty window is zero.
        """

    def max_pool(self, x: Input, out: Activation, windows: Windows, threads: int) -> None:
        """Computes the largest pixel of each window of images; NaN is larger than all others."""

    def max_pool_backward(
        self,
        gradient: Activation,
        x: Input,
        out: Activation,
        add: Activation | None,
        windows: Windows,
        mask: Mask | None,
        sums: numpy.typing.NDArray[numpy.float64] | None,
        threads: int,
    ) -> None:
        """Computes the gradient of :meth:`max_pool` for its input, plus add.

        The gradient of a window goes to the first pixel, row by row, that has the largest value. With a mask, ``out``
        and ``sums`` are as of :meth:`convolve_masked`; without one there are no sums.
        """

    def gather_channels(
        self,
        x: Activation,
        channels: numpy.typing.NDArray[numpy.int32],
        out: Activation,
        first: int,
        add: Activation | None,
        threads: int,
    ) -> None:
        """Computes channels of out, from ``first`` on, as these channels of x plus add.

        A negative number stands for a channel of zeros. The other channels of ``out`` are left as they are.
        """

    def flatten(self, x: Activation, features: Activation, channels_first: bool, threads: int) -> None:
        """Copies images to features.

        They are in the order channel, height, width with ``channels_first``, else in the order height, width, channel.
        """

    def unflatten(
        self, features: Activation, out: Activation, add: Activation | None, channels_first: bool, threads: int
    ) -> None:
        """Copies features to images, plus add; the inverse of :meth:`flatten`."""

    def multiply(self, x: Activation, y: Activation, out: Activation, add: Activation | None, threads: int) -> None:
        """Computes out = x·y + add.

        y has the layout of x, or is broadcast: features with one channel or as many, or images of one channel.
        """

    def add(self, x: Activation, y: Activation, out: Activation, add: Activation | None, threads: int) -> None:
        """Computes out = x + y + add; y is that of :meth:`multiply`."""

    def sum_pixels(self, x: Activation, y: Activation | None, out: Activation, threads: int) -> None:
        """Computes the sums of x or, if there is a y, of x·y over height and width, as features."""

    def sum_channels(self, x: Activation, y: Activation | None, out: Activation, threads: int) -> None:
        """Computes the sums of x or, if there is a y, of x·y over the channels, as an activation of one channel."""

    def dropout(
        self,
        x: Activation,
        kept: numpy.typing.NDArray[numpy.uint8],
        factor: float,
        out: Activation,
        add: Activation | None,
        threads: int,
    ) -> None:
        """Computes out = factor·x + add where ``kept`` is not zero, elsewhere add.

        ``kept`` is (blocks, height, channels, width, lanes); of features, blocks and height are 1, and the width counts
        blocks of the batch.
        """

    def normalize(
        self,
        x: Activation,
        out: Activation,
        scale: numpy.typing.NDArray[numpy.float32],
        shift: numpy.typing.NDArray[numpy.float32],
        statistics: numpy.typing.NDArray[numpy.float32],
        groups: int,
        by_image: bool,
        epsilon: float,
        centered: bool,
        threads: int,
    ) -> None:
        """Computes out = (x − mean)/√(variance + epsilon)·scale + shift; scale and shift are by channel.

        Mean and variance are those of the channels of a group, of each pixel or vector or, ``by_image``, of all pixels
        of an image. Without ``centered`` the mean is zero, and the variance is the mean square. ``statistics`` gets the
        means and the inverse deviations, (pixels of all blocks, groups, 2, lanes) or (blocks, groups, 2, lanes).
        """

    def normalize_backward(
        self,
        gradient: Activation,
        x: Activation,
        out: Activation,
        add: Activation | None,
        scale: numpy.typing.NDArray[numpy.float32],
        statistics: numpy.typing.NDArray[numpy.float32],
        groups: int,
        by_image: bool,
        centered: bool,
        sums: numpy.typing.NDArray[numpy.float64],
        threads: int,
    ) -> None:
        """Computes the gradient of :meth:`normalize` for its input, plus add.

        The sums are those of the gradients of scale and of shift.
        """

class PointwiseFunction(enum.Enum):
    """A function that is applied to each entry."""

    RELU6 = 0

    LEAKY_RELU = 1
    """The parameter is the slope below zero."""

    SILU = 2

    GELU = 3

    GELU_TANH = 4
    """The approximation of GELU by tanh."""

    HARDSWISH = 5

    HARDSIGMOID = 6

    SIGMOID = 7

    TANH = 8

    ELU = 9
    """The parameter is alpha."""

    SOFTPLUS = 10
    """The parameter is beta."""

    MISH = 11

class Windows:
    """The rows and columns of the input that each row and column of the output is made of.

    Output row i is made of the input rows from ``first_row[i]`` up to, but not with, ``last_row[i]``; columns likewise.
    Each array ascends, or stays equal. They are copied.
    """

    def __init__(
        self,
        first_row: numpy.typing.NDArray[numpy.int32],
        last_row: numpy.typing.NDArray[numpy.int32],
        first_column: numpy.typing.NDArray[numpy.int32],
        last_column: numpy.typing.NDArray[numpy.int32],
    ) -> None: ...

def copy_pixels(x: numpy.typing.NDArray[numpy.float32], out: numpy.typing.NDArray[numpy.float32], threads: int) -> None:
    """Copies images (channels, height, width) of any strides into ones whose rows are contiguous."""

class RowConvolution:
    """A convolution of one image: out = min(max(add + bias + weights∗x, floor), ceiling).

    Each channel is contiguous, row behind row with zeros between the rows. The first pixel of the first channel is at
    ``x_start`` and ``out_start``, and the output channels are ``channel_stride`` floats apart. The weights of an output
    channel are those from its pointer to the next; each reads at its offset from the output's own position. ``inside``
    is 1 for the outputs inside the image and 0 for those between its rows, which become zero.
    """

    def __init__(
        self,
        *,
        kernels: str,
        x: numpy.typing.NDArray[numpy.float32],
        x_start: int,
        out: numpy.typing.NDArray[numpy.float32],
        out_start: int,
        channel_stride: int,
        add: numpy.typing.NDArray[numpy.float32] | None,
        pointers: numpy.typing.NDArray[numpy.int32],
        offsets: numpy.typing.NDArray[numpy.int32],
        values: numpy.typing.NDArray[numpy.float32],
        bias: numpy.typing.NDArray[numpy.float32],
        inside: numpy.typing.NDArray[numpy.float32],
        floor: float,
        ceiling: float = ...,
    ) -> None: ...
    def run(self, threads: int) -> None:
        """Computes the outputs from the present content of the input."""

class RowMaximum:
    """Max pooling of one image that lies in memory as for :class:`RowConvolution`.

    Each output is the greatest of the inputs at ``offsets`` from its own position in its channel. The first pixel of
    the first channel is at ``x_start`` and ``out_start``; channels are ``x_stride`` and ``out_stride`` floats apart.
    """

    def __init__(
        self,
        *,
        x: numpy.typing.NDArray[numpy.float32],
        x_start: int,
        x_stride: int,
        out: numpy.typing.NDArray[numpy.float32],
        out_start: int,
        out_stride: int,
        channels: int,
        offsets: numpy.typing.NDArray[numpy.int32],
        inside: numpy.typing.NDArray[numpy.float32],
    ) -> None: ...
    def run(self, threads: int) -> None:
        """Computes the outputs from the present content of the input."""

def sort_by_bucket(
    keys: numpy.typing.NDArray[numpy.int32],
    order: numpy.typing.NDArray[numpy.int32],
    pointers: numpy.typing.NDArray[numpy.int32],
) -> None:
    """Sorts keys by counting; stable.

    ``order`` gets the indices of the keys by bucket, ``pointers`` where each bucket starts.
    """

def gather(
    entries: numpy.typing.NDArray[numpy.float32],
    order: numpy.typing.NDArray[numpy.int32],
    listed: numpy.typing.NDArray[numpy.float32],
    threads: int,
) -> None:
    """Sets ``listed[i] = entries[order[i]]``, and zero where ``order[i]`` is the number of entries."""

def scatter(
    listed: numpy.typing.NDArray[numpy.float32],
    order: numpy.typing.NDArray[numpy.int32],
    entries: numpy.typing.NDArray[numpy.float32],
    threads: int,
) -> None:
    """Sets ``entries[order[i]] = listed[i]``, except where ``order[i]`` is the number of entries.

    Each entry must occur once.
    """

class SparsityPattern:
    """The positions of the active weights of a matrix (outputs, inputs).

    ``positions`` are row-major and ascend; values and gradients of the weights have the same order. They are copied, as
    16 bits each, on so many threads. What the kernels need in addition is made when it is first needed.
    """

    def __init__(
        self,
        positions: numpy.typing.NDArray[numpy.int32] | numpy.typing.NDArray[numpy.int64],
        outputs: int,
        inputs: int,
        threads: int = 1,
    ) -> None: ...
    @property
    def count(self) -> int:
        """The number of active weights."""

    @property
    def arrays(self) -> list[numpy.typing.NDArray[Any]]:
        """All arrays that were made so far; read-only."""

class LinearKernels:
    """The kernels of linear layers for one instruction set, which are named as those of :class:`Kernels`.

    All activations are features of one batch. Values and gradients are in the order of the pattern's positions.

    With ``rounded`` the outputs and the weights' gradients are sums, in float32, of products of numbers that are
    rounded to bfloat16, where the processor has instructions for this (AVX512_BF16); where it has none, nothing is
    rounded. The inputs' gradients are computed in float32. Where the processor has AMX and the weights are whole blocks
    of 16x32, all three are products of rounded blocks.
    """

    def __init__(self, name: str = "", rounded: bool = False) -> None: ...
    @property
    def rounded(self) -> bool:
        """Whether numbers are rounded before they are multiplied."""

    def multiplies_blocks(self, pattern: SparsityPattern) -> bool:
        """Whether the weights are multiplied block by block, by matrix tiles (AMX)."""

    def forward(
        self,
        x: Activation,
        out: Activation,
        add: Activation | None,
        pattern: SparsityPattern,
        values: numpy.typing.NDArray[numpy.float32],
        sums: numpy.typing.NDArray[numpy.float64] | None,
        threads: int,
        bias: numpy.typing.NDArray[numpy.float32] | None = None,
    ) -> None:
        """Computes out = add + bias + weights·x, and the sums of out and of its square."""

    def weight_gradient(
        self,
        x: Activation,
        gradient: Activation,
        pattern: SparsityPattern,
        gradients: numpy.typing.NDArray[numpy.float32],
        threads: int,
    ) -> None:
        """Computes the gradient of each active weight."""

    def input_gradient(
        self,
        gradient: Activation,
        pattern: SparsityPattern,
        values: numpy.typing.NDArray[numpy.float32],
        out: Activation,
        add: Activation | None,
        threads: int,
    ) -> None:
        """Computes the gradient of the input, plus ``add``."""

    def backward(
        self,
        x: Activation,
        gradient: Activation,
        pattern: SparsityPattern,
        values: numpy.typing.NDArray[numpy.float32],
        gradients: numpy.typing.NDArray[numpy.float32],
        out: Activation,
        add: Activation | None,
        threads: int,
    ) -> None:
        """Computes both: ``gradients`` of the weights, and ``out``, the gradient of the input, plus ``add``."""

def attend(
    kernels: str,
    query: numpy.typing.NDArray[numpy.float32],
    key: numpy.typing.NDArray[numpy.float32],
    value: numpy.typing.NDArray[numpy.float32],
    out: numpy.typing.NDArray[numpy.float32],
    causal: bool,
    scale: float,
    threads: int,
) -> None:
    """Computes out = softmax(scale·query·keyᵀ)·value for each head.

    All are (examples, heads, tokens, features) of any strides, but the tokens of a feature lie behind each other. If it
    is ``causal``, a token reads the keys up to its own number only. ``kernels`` is the name of an instruction set.
    """

def attend_in_training(
    kernels: str,
    query: numpy.typing.NDArray[numpy.float32],
    key: numpy.typing.NDArray[numpy.float32],
    value: numpy.typing.NDArray[numpy.float32],
    out: numpy.typing.NDArray[numpy.float32],
    log_sums: numpy.typing.NDArray[numpy.float32],
    causal: bool,
    scale: float,
    threads: int,
) -> None:
    """Computes out = softmax(scale·query·keyᵀ)·value for each head, and what the gradients need.

    All are (examples, heads, tokens, features) of any strides, but the features of a token lie behind each other.
    Values have the shape of keys. The logarithms of the sums of exp(scale·query·keyᵀ) are written to ``log_sums``,
    (examples, heads, tokens). If it is ``causal``, a token reads the keys up to its own number only.
    """

def attention_gradients(
    kernels: str,
    query: numpy.typing.NDArray[numpy.float32],
    key: numpy.typing.NDArray[numpy.float32],
    value: numpy.typing.NDArray[numpy.float32],
    out: numpy.typing.NDArray[numpy.float32],
    log_sums: numpy.typing.NDArray[numpy.float32],
    gradient: numpy.typing.NDArray[numpy.float32],
    query_gradient: numpy.typing.NDArray[numpy.float32],
    key_gradient: numpy.typing.NDArray[numpy.float32],
    value_gradient: numpy.typing.NDArray[numpy.float32],
    causal: bool,
    scale: float,
    threads: int,
) -> None:
    """Computes the gradients of queries, keys and values from that of the outputs.

    ``out`` and ``log_sums`` are those that attend_in_training wrote, and each gradient has the shape of its array.
    """

def use_openmp_of(library: str | None) -> bool:
    """Computes on the threads of the OpenMP runtime that a library in this process computes with.

    ``library`` is the library's file. Threads of two kinds would hinder each other. Results do not depend on it, bit
    for bit. Returns whether this is so from now on; otherwise the kernels' own threads compute: without a library
    (None), where it is not loaded or uses no OpenMP, and in forked processes, where OpenMP would wait for the parent's
    threads.
    """

def in_series(threads: int, function: Callable[[], object]) -> None:
    """Calls a function whose kernels follow each other closely, such as those of one prediction.

    The kernels' own threads, as many as ``threads``, are woken first and stay awake between the kernels.
    """

def _parallel_for(count: int, threads: int, task: Callable[[int], object]) -> None:
    """For tests: calls the task with 0 to count - 1, as the kernels call theirs."""

def _fail_scratch(after: int) -> None:
    """For tests: after so many requests for scratch memory one fails; a negative number ends that."""

BUNDLE: int = 4
