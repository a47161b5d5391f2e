"""Lists of the weights that exist, as the kernels run over them.

A list is made from the positions in O(N) by counting: once for a topology and a size of images. In each step only the
values are gathered into it.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore.host.buffers import BufferPool
from sparsecore.host.weights import Operand, TiedWeight, WeightTensor
from sparsecore_cpu import _kernels
from sparsecore_cpu._kernels import BUNDLE, Steps
from sparsecore_cpu.workspace import Floats, Form

Places = NDArray[np.int32]

_WEIGHTS_A_GROUP = 16
"""Enough of them make up for loading and storing the outputs that they add to; fewer keep more of the input cached."""

_BUNDLED = 0.75
"""From this density on it is faster to compute with zeros where none exists than to go through single weights."""

_INPUTS_A_BUNDLE = 16

_MOST_OFFSET = 2**31 - 1


@attrs.frozen
class Window:
    """Of a convolution: stride and zero padding, in pixels."""

    stride: int = 1
    padding: int = 0

    def outputs(self, side: int, kernel: int) -> int:
        """How many pixels a side comes out."""
        return (side + 2 * self.padding - kernel) // self.stride + 1

    def keeps(self, x: Form, out: Form) -> bool:
        """Whether one kernel computes both gradients, while what they have in common is in the cache."""
        sides = (out.height * self.stride, out.width * self.stride)
        return not x.features and (x.height, x.width) == sides


@attrs.frozen
class Strides:
    """How many floats lie between rows, channels and pixels of an activation."""

    row: int
    channel: int
    pixel: int

    @classmethod
    def of(cls, form: Form, lanes: int) -> "Strides":
        """Those of this form."""
        return cls(*form.strides(lanes), lanes)


@attrs.frozen(eq=False)
class WeightList:
    """Some weights in the order in which a kernel takes them.

    Attributes:
        order: which of the tensor's entries they are, or how many entries there are where there is none.
        entries: how many there are.
        values: their values.
        handle: the list as the kernels hold it, with pointers and offsets of its own.
        steps: which outputs they make.
    """

    order: Places
    entries: int
    values: Floats
    handle: _kernels.Weights
    steps: Steps

    @property
    def places(self) -> tuple[NDArray[np.integer], ...]:
        """All that tells where its weights lie."""
        return self.order, self.handle.pointers, self.handle.offsets

    def fill(self, values: NDArray[np.float32], threads: int) -> None:
        """Take over the values of the tensor's entries."""
        _kernels.gather(values, self.order, self.values, threads)

    def by_entry(self, listed: NDArray[np.float32], threads: int) -> NDArray[np.float32]:
        """What is in the list's order as one for each of the tensor's entries."""
        entries = np.empty(self.entries, np.float32)
        _kernels.scatter(listed, self.order, entries, threads)
        return entries


@attrs.frozen(eq=False)
class Taps:
    """The entries of a tensor (out, in, height, width), by coordinates; each array has one entry a weight."""

    shape: tuple[int, int, int, int]
    out: Places
    into: Places
    row: Places
    column: Places

    @classmethod
    def of(cls, shape: tuple[int, ...], positions: NDArray[np.integer]) -> "Taps":
        """Those of the positions, row-major; matrices are kernels of one pixel."""
        out, into, height, width = (*shape, 1, 1)[:4]
        coordinates = np.unravel_index(positions, (out, into, height, width))
        return cls((out, into, height, width), *(coordinate.astype(np.int32) for coordinate in coordinates))

    def forward(self, window: Window, x: Strides) -> WeightList:
        """For the outputs from the inputs, and for the weights' gradients."""
        padding = window.padding
        offsets = (self.row - padding) * np.int64(x.row) + (self.column - padding) * np.int64(x.pixel)
        offsets += self.into * np.int64(x.channel)
        return self._listed(np.arange(len(self.out)), offsets, Steps(x_step=window.stride))

    def backward(self, window: Window, gradient: Strides) -> Iterator[WeightList]:
        """For the inputs' gradients from the outputs': one list for each place of a pixel among the strides."""
        out, into, height, width = self.shape
        transposed = Taps((into, out, height, width), self.into, self.out, self.row, self.column)
        for row, column in product(range(window.stride), repeat=2):
            down, right = row + window.padding - self.row, column + window.padding - self.column
            meets = (down % window.stride == 0) & (right % window.stride == 0)
            chosen = np.flatnonzero(meets)
            offsets = down[chosen] // window.stride * np.int64(gradient.row)
            offsets += right[chosen] // window.stride * np.int64(gradient.pixel)
            offsets += self.out[chosen] * np.int64(gradient.channel)
            yield transposed._listed(chosen, offsets, Steps(out_step=window.stride, row=row, column=column))

    def _listed(self, chosen: NDArray[np.intp], offsets: NDArray[np.int64], steps: Steps) -> WeightList:
        if len(offsets) and np.abs(offsets).max() > _MOST_OFFSET:
            raise InputError(
                f"a layer of shape {self.shape} on so large images does not fit the kernels' 32-bit places"
            )
        _, inputs, height, width = self.shape
        places = np.zeros(inputs * height * width, np.bool_)
        places[self._places[chosen]] = True
        most = np.count_nonzero(places) * self.shape[0]
        arrange = self._bundled if len(chosen) > _BUNDLED * most else self._single
        order, ordered, pointers = arrange(chosen, offsets, places)
        values = np.zeros(len(order), np.float32)
        handle = _kernels.Weights(pointers, ordered, values, self.shape[0], bundled=len(order) > len(ordered))
        return WeightList(order, len(self.out), values, handle, steps)

    @property
    def _places(self) -> NDArray[np.int64]:
        """Which of the inputs' (channel, row, column) each reads, as one number."""
        _, _, height, width = self.shape
        return (self.into.astype(np.int64) * height + self.row) * width + self.column

    def _single(
        self, chosen: NDArray[np.intp], offsets: NDArray[np.int64], _: NDArray[np.bool_]
    ) -> tuple[Places, Places, Places]:
        """Each weight by itself: which entries, their offsets, and where each group of them starts."""
        outputs, inputs = self.shape[:2]
        blocks = max(1, min(inputs // 8, round(len(chosen) / outputs / _WEIGHTS_A_GROUP)))
        block = -(-inputs // blocks)
        blocks = -(-inputs // block)
        order, pointers = np.empty(len(chosen), np.int32), np.empty(blocks * outputs + 1, np.int32)
        keys = self.into[chosen] // block * outputs + self.out[chosen]
        _kernels.sort_by_bucket(keys.astype(np.int32), order, pointers)
        return chosen[order].astype(np.int32), offsets[order].astype(np.int32), pointers

    def _bundled(
        self, chosen: NDArray[np.intp], offsets: NDArray[np.int64], places: NDArray[np.bool_]
    ) -> tuple[Places, Places, Places]:
        """All places that any weight reads, for every bundle of outputs: entries, offsets, starts of groups."""
        outputs, inputs, height, width = self.shape
        bundles, blocks = -(-outputs // BUNDLE), -(-inputs // _INPUTS_A_BUNDLE)
        number = (np.cumsum(places) - 1)[self._places[chosen]]
        block_of = np.flatnonzero(places) // (height * width) // _INPUTS_A_BUNDLE
        counts = np.bincount(block_of, minlength=blocks)
        starts = np.cumsum(counts) - counts
        first = starts[block_of[number]] * bundles + self.out[chosen] // BUNDLE * counts[block_of[number]]
        slots = first + number - starts[block_of[number]]
        order = np.full(len(block_of) * bundles * BUNDLE, len(self.out), np.int32)
        order[slots * BUNDLE + self.out[chosen] % BUNDLE] = chosen
        by_place = np.empty(len(block_of), np.int32)
        by_place[number] = offsets
        runs = [np.tile(by_place[start : start + count], bundles) for start, count in zip(starts, counts, strict=True)]
        sizes = np.repeat(counts, bundles)
        pointers = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        return order, np.concatenate(runs), pointers


@lru_cache(maxsize=1024)
def border_behind(window: Window, kernel: int, made: int, side: int) -> int:
    """How many zeros around the outputs' gradient of ``made`` pixels a side those of ``side`` inputs ask for."""
    reach = [
        ((place + window.padding - tap) // window.stride, -(-(side - place) // window.stride))
        for place, tap in product(range(window.stride), range(kernel))
        if (place + window.padding - tap) % window.stride == 0 and place < side
    ]
    return max([0, *(-first for first, _ in reach), *(first + count - made for first, count in reach)])


class Entries(Protocol):
    """Which entries of a tensor exist, and what they are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Dense."""
        ...

    @property
    def owner(self) -> Any:
        """What lives as long as the positions stay the same."""
        ...

    @property
    def positions(self) -> NDArray[np.integer]:
        """Row-major, ascending."""
        ...

    def values(self) -> NDArray[Any]:
        """One for each position."""
        ...

    def accumulate(self, gradient: NDArray[Any]) -> None:
        """Add to the gradients; one for each position."""
        ...


@attrs.frozen(eq=False)
class Own:
    """The entries of a parameter."""

    weight: WeightTensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Dense."""
        return self.weight.shape

    @property
    def owner(self) -> WeightTensor:
        """The parameter, which a reallocation replaces."""
        return self.weight

    @property
    def positions(self) -> NDArray[np.integer]:
        """Row-major, ascending."""
        return self.weight.positions

    def values(self) -> NDArray[Any]:
        """One for each position."""
        return self.weight.values

    def accumulate(self, gradient: NDArray[Any]) -> None:
        """Add to the gradients."""
        np.add(self.weight.gradient, gradient, out=self.weight.gradient)


@attrs.frozen(eq=False)
class Tied:
    """All entries of a tensor that are those of a shorter vector by a hash."""

    weight: TiedWeight
    _memory: BufferPool = attrs.field(factory=lambda: BufferPool(np.float32))

    @property
    def shape(self) -> tuple[int, ...]:
        """Dense."""
        return self.weight.shape

    @property
    def owner(self) -> Operand:
        """The shorter vector."""
        return self.weight.values

    @property
    def positions(self) -> NDArray[np.integer]:
        """All of them."""
        return np.arange(np.prod(self.shape))

    def values(self) -> NDArray[Any]:
        """One for each position."""
        return self.weight.dense(self._memory, self.weight.positions)

    def accumulate(self, gradient: NDArray[Any]) -> None:
        """Add to the vector's gradients."""
        self.weight.accumulate(gradient)


@attrs.frozen(eq=False)
class Lists:
    """The lists that were made so far; those of positions that are gone go with them.

    Attributes:
        threads: how many fill them.
    """

    threads: int = 1
    _made: WeakKeyDictionary[Any, dict[Any, list[WeightList]]] = attrs.field(factory=WeakKeyDictionary)

    def forward(self, entries: Entries, window: Window, x: Strides) -> WeightList:
        """Filled with the values of now."""
        weights = self.gradients(entries, window, x)
        weights.fill(entries.values(), self.threads)
        return weights

    def gradients(self, entries: Entries, window: Window, x: Strides) -> WeightList:
        """The same list, whatever its values are: for the weights' gradients."""
        key = ("forward", entries.shape, window, x)
        (weights,) = self._kept(entries, key, lambda taps: [taps.forward(window, x)])
        return weights

    def backward(self, entries: Entries, window: Window, gradient: Strides) -> list[WeightList]:
        """Filled with the values of now, too."""
        key = ("backward", entries.shape, window, gradient)
        lists, values = self._kept(entries, key, lambda taps: list(taps.backward(window, gradient))), entries.values()
        for weights in lists:
            weights.fill(values, self.threads)
        return lists

    def of(self, owner: Any) -> list[WeightList]:
        """All that there are of the entries with this owner."""
        return [weights for some in self._made.get(owner, {}).values() for weights in some]

    def _kept(self, entries: Entries, key: Any, make: Callable[[Taps], list[WeightList]]) -> list[WeightList]:
        made = self._made.setdefault(entries.owner, {})
        if key not in made:
            made[key] = make(Taps.of(entries.shape, entries.positions))
        return made[key]
