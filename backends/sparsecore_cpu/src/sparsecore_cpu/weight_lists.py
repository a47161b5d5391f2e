"""Lists of a layer's active weights in the order in which the kernels of convolutions read them.

A list is made from the positions in O(N) by counting, once for a topology and a memory layout of the activations. In
each step only the values are gathered into it.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore_cpu import _kernels
from sparsecore_cpu._kernels import BUNDLE, Steps
from sparsecore_cpu.runtime import Floats, Strides
from sparsecore_cpu.window import Window

Indices = NDArray[np.int32]

_WEIGHTS_A_GROUP = 16
"""Enough weights to make up for loading and storing the outputs that they add to; fewer keep more inputs cached."""

_BUNDLED = 0.75
"""The density from which on it is faster to compute with zeros for inactive weights than with single weights."""

_INPUTS_A_BUNDLE = 16

_MOST_OFFSET = 2**31 - 1

_MOST_LISTS = 16
"""The lists that are kept for one layer and activations of different sizes; beyond, all are made again."""


@attrs.frozen(eq=False)
class WeightList:
    """Weights in the order in which a kernel reads them.

    Attributes:
        order: for each slot of the list, the index of the tensor's active entry, or ``entries`` for a zero; int32,
            (slots,).
        entries: the number of active entries of the tensor.
        values: the values, float32, (slots,); zero until :meth:`fill`.
        handle: the kernels' own list, with pointers and offsets; it reads ``values`` whenever it is used.
        steps: which outputs the list computes.
    """

    order: Indices
    entries: int
    values: Floats
    handle: _kernels.Weights
    steps: Steps

    @property
    def indices(self) -> tuple[NDArray[Any], ...]:
        """The index arrays of the list."""
        return self.order, self.handle.pointers, self.handle.offsets, self.handle.channels

    def fill(self, values: NDArray[np.float32], threads: int) -> None:
        """Gather the values of the tensor's active entries into the list.

        Args:
            values: float32, (entries,), in the order of the positions.
            threads: how many threads gather, 1 to 1024.
        """
        _kernels.gather(values, self.order, self.values, threads)

    def by_entry(self, listed: NDArray[np.float32], threads: int) -> NDArray[np.float32]:
        """Scatter values in the list's order to the tensor's active entries.

        Args:
            listed: float32, (slots,); what the slots of zeros hold is dropped.
            threads: how many threads scatter, 1 to 1024.

        Returns:
            A new array, (entries,), arbitrary for an entry that is not listed; those of :meth:`Taps.forward` list all.
        """
        entries = np.empty(self.entries, np.float32)
        _kernels.scatter(listed, self.order, entries, threads)
        return entries


@attrs.frozen(eq=False)
class Taps:
    """The active entries of a tensor (out, in / groups, height, width) by coordinates.

    Attributes:
        shape: the dense shape; height and width are 1 for a matrix.
        out: output channels, (entries,); like the other three in the order of the positions.
        into: input channels of the output's group, (entries,).
        row: rows of the kernel, (entries,).
        column: columns of the kernel, (entries,).
        groups: into so many groups the input and the output channels are split.
    """

    shape: tuple[int, int, int, int]
    out: Indices
    into: Indices
    row: Indices
    column: Indices
    groups: int = 1

    @classmethod
    def of(cls, shape: tuple[int, ...], positions: NDArray[np.integer], groups: int = 1) -> "Taps":
        """The coordinates of row-major positions; a matrix is a kernel of one pixel.

        Args:
            shape: the dense shape, (out, in / groups) or (out, in / groups, height, width).
            positions: (entries,), each from 0 to the shape's size - 1.
            groups: see :class:`Window`; they divide ``out``.

        Raises:
            ValueError: a position is outside the shape.
        """
        out, into, height, width = (*shape, 1, 1)[:4]
        coordinates = np.unravel_index(positions, (out, into, height, width))
        first, second, row, column = (coordinate.astype(np.int32) for coordinate in coordinates)
        return cls((out, into, height, width), first, second, row, column, groups)

    def forward(self, window: Window, x: Strides) -> WeightList:
        """The list that computes outputs from inputs, and gradients of the weights.

        Args:
            window: stride, padding, dilation and groups.
            x: the strides of the inputs, whose border is at least the padding.

        Raises:
            InputError: the images are so large that an offset does not fit into 32 bits.
        """
        rows, columns = window.rows, window.columns
        down = self.row * np.int64(rows.dilation) - rows.before
        right = self.column * np.int64(columns.dilation) - columns.before
        offsets = down * x.row + right * x.pixel + self._channel * np.int64(x.channel)
        return self._listed(np.arange(len(self.out)), offsets, Steps(x_step=window.stride))

    def backward(self, window: Window, gradient: Strides) -> Iterator[WeightList]:
        """The lists that compute gradients of inputs from those of outputs.

        Args:
            window: stride, padding, dilation and groups.
            gradient: the strides of the outputs' gradient, whose border is at least :meth:`Window.border_behind`.

        Yields:
            One list for each phase of the stride, by row and column, which computes every stride-th input.

        Raises:
            InputError: the images are so large that an offset does not fit into 32 bits.
        """
        rows, columns = window.rows, window.columns
        transposed = self._transposed()
        for row, column in product(range(rows.stride), range(columns.stride)):
            down = row + rows.before - self.row * np.int64(rows.dilation)
            right = column + columns.before - self.column * np.int64(columns.dilation)
            meets = (down % rows.stride == 0) & (right % columns.stride == 0)
            chosen = np.flatnonzero(meets)
            offsets = down[chosen] // rows.stride * gradient.row + right[chosen] // columns.stride * gradient.pixel
            offsets += self.out[chosen] * np.int64(gradient.channel)
            yield transposed._listed(chosen, offsets, Steps(out_step=window.stride, row=row, column=column))

    @property
    def _outputs_a_group(self) -> int:
        return self.shape[0] // self.groups

    @property
    def _channel(self) -> Indices:
        """The input channel of each entry among all channels, (entries,)."""
        return self.into + self.out // self._outputs_a_group * self.shape[1]

    @property
    def _taps(self) -> NDArray[np.int64]:
        """The flat index in (all input channels, height, width) of each entry."""
        _, _, height, width = self.shape
        return (self._channel.astype(np.int64) * height + self.row) * width + self.column

    def _transposed(self) -> "Taps":
        _, into, height, width = self.shape
        shape = (into * self.groups, self._outputs_a_group, height, width)
        return Taps(shape, self._channel, self.out % self._outputs_a_group, self.row, self.column, self.groups)

    def _listed(self, chosen: NDArray[np.intp], offsets: NDArray[np.int64], steps: Steps) -> WeightList:
        if len(offsets) and np.abs(offsets).max() > _MOST_OFFSET:
            raise InputError(
                f"a layer of shape {self.shape} on so large images does not fit the kernels' 32-bit offsets"
            )
        outputs, inputs, height, width = self.shape
        used = np.zeros(self.groups * inputs * height * width, np.bool_)
        used[self._taps[chosen]] = True
        most = np.count_nonzero(used) * self._outputs_a_group
        # a bundle of output channels shares its inputs, so it must not belong to two groups
        fits = self.groups == 1 or self._outputs_a_group % BUNDLE == 0
        arrange = self._bundled if fits and len(chosen) > _BUNDLED * most else self._single
        order, ordered, pointers = arrange(chosen, offsets, used)
        values = np.zeros(len(order), np.float32)
        handle = _kernels.Weights(pointers, ordered, values, outputs, bundled=len(order) > len(ordered))
        return WeightList(order, len(self.out), values, handle, steps)

    def _single(
        self, chosen: NDArray[np.intp], offsets: NDArray[np.int64], _: NDArray[np.bool_]
    ) -> tuple[Indices, Indices, Indices]:
        """The order, offsets and group pointers of a list of single weights."""
        outputs, inputs = self.shape[:2]
        blocks = max(1, min(inputs // 8, round(len(chosen) / outputs / _WEIGHTS_A_GROUP)))
        block = -(-inputs // blocks)
        blocks = -(-inputs // block)
        order, pointers = np.empty(len(chosen), np.int32), np.empty(blocks * outputs + 1, np.int32)
        keys = self.into[chosen] // block * outputs + self.out[chosen]
        _kernels.sort_by_bucket(keys.astype(np.int32), order, pointers)
        return chosen[order].astype(np.int32), offsets[order].astype(np.int32), pointers

    def _bundled(
        self, chosen: NDArray[np.intp], offsets: NDArray[np.int64], used: NDArray[np.bool_]
    ) -> tuple[Indices, Indices, Indices]:
        """The order, offsets and group pointers of a list with every used tap of a group for each bundle of outputs."""
        outputs, inputs, height, width = self.shape
        bundles, blocks = -(-outputs // BUNDLE), -(-inputs // _INPUTS_A_BUNDLE)
        channel = np.flatnonzero(used) // (height * width)
        # the taps by group and block of input channels, in which order they are numbered
        cell_of = channel // inputs * blocks + channel % inputs // _INPUTS_A_BUNDLE
        counts = np.bincount(cell_of, minlength=self.groups * blocks)
        by_group = np.arange(self.groups * blocks).reshape(self.groups, blocks)
        cells = np.repeat(by_group.T, bundles // self.groups, axis=1).ravel()  # of each block and bundle
        starts, sizes = np.cumsum(counts) - counts, counts[cells]
        pointers = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        number = (np.cumsum(used) - 1)[self._taps[chosen]]
        run = cell_of[number] % blocks * bundles + self.out[chosen] // BUNDLE
        slots = pointers[run].astype(np.int64) + number - starts[cell_of[number]]
        order = np.full(int(pointers[-1]) * BUNDLE, len(self.out), np.int32)
        order[slots * BUNDLE + self.out[chosen] % BUNDLE] = chosen
        by_tap = np.empty(len(channel), np.int32)
        by_tap[number] = offsets
        taps = np.arange(pointers[-1]) + np.repeat(starts[cells] - pointers[:-1], sizes)
        return order, by_tap[taps], pointers


@attrs.frozen(eq=False)
class LayerLists:
    """The weight lists of one layer, made when they are first needed.

    Attributes:
        shape: the dense shape of the weight.
        window: stride, padding, dilation and groups.
        threads: how many threads fill the lists.
        taps: makes the weight's coordinates; called only to make a list.
    """

    shape: tuple[int, ...]
    window: Window
    threads: int
    taps: Callable[[], Taps]
    _made: dict[tuple[str, Strides], list[WeightList]] = attrs.field(factory=dict)

    def forward(self, x: Strides, values: NDArray[Any] | None) -> WeightList:
        """The list that computes outputs and weight gradients, made when it is first needed.

        Args:
            x: the strides of the inputs.
            values: those of the active entries, float32, (entries,), to fill the list with; None where none are read.

        Raises:
            InputError: see :meth:`Taps.forward`.
        """
        (weights,) = self._lists("forward", x, lambda: [self.taps().forward(self.window, x)])
        if values is not None:
            weights.fill(values, self.threads)
        return weights

    def backward(self, gradient: Strides, values: NDArray[Any]) -> list[WeightList]:
        """The lists that compute input gradients, made when they are first needed.

        Args:
            gradient: the strides of the outputs' gradient.
            values: those of the active entries, float32, (entries,), to fill the lists with.

        Raises:
            InputError: see :meth:`Taps.backward`.
        """
        lists = self._lists("backward", gradient, lambda: list(self.taps().backward(self.window, gradient)))
        for weights in lists:
            weights.fill(values, self.threads)
        return lists

    @property
    def made(self) -> list[WeightList]:
        """All lists that were made so far."""
        return [weights for lists in self._made.values() for weights in lists]

    def _lists(self, direction: str, strides: Strides, make: Callable[[], list[WeightList]]) -> list[WeightList]:
        key = (direction, strides)
        if key not in self._made:
            if len(self._made) >= _MOST_LISTS:
                self._made.clear()
            self._made[key] = make()
        return self._made[key]
