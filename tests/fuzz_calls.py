"""A call of the CPU backend's kernels whose arguments are drawn at random, and the memory that it must not touch."""

import warnings
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np

from sparsecore_cpu import _kernels
from sparsecore_cpu.runtime import kernel_names

EXTREMES = [0, 1, -1, 2, 3, 2**15, 2**31 - 1, -(2**31), 2**31, 2**32, 2**62, 2**63 - 1, -(2**63), 2**64, -(2**70)]
FLOATS = [0.0, 1.0, -1.5, np.nan, np.inf, -np.inf, 1e-45, 3e38]
TYPES = ["f4", "f8", "f2", "i4", "i8", "u2", "u1", "?", "c8", ">f4", ">i4", "O", "U2", "V4", "M8[s]"]
THINGS = [None, 1, 2.5, "text", b"bytes", [], [1.0], (), np.float32(1), np.int32(1), object(), np.ma.ones(3)]
GUARD, PATTERN = 256, 0xA5


class Call:
    """One number's worth of calls: the arguments that it draws, the memory that it watches over."""

    def __init__(self, seed: int, number: int, note: Callable[[str], None]) -> None:
        """``note`` is given the text of each call before it is made."""
        self.random = Random(f"{seed} {number}")
        self._note, self._guarded, self.given = note, list[tuple[Any, int]](), list[Any]()
        self.kernels = _kernels.Kernels(self.random.choice(kernel_names()))
        self.lanes = self.kernels.lanes
        self.wild = self.random.choice([0.0, 0.0, 0.03, 0.2])
        self.made = 0
        self.slopes = 0  # entries of the values of the list that was made last

    def do(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Make a call of the kernels."""
        named = [f"{name}={_described(argument)}" for name, argument in keywords.items()]
        described = ", ".join([*map(_described, arguments), *named])
        self._note(f"{getattr(function, '__qualname__', function)}({described})")
        self.made += 1
        return function(*arguments, **keywords)

    def odd(self, more: float = 1.0) -> bool:
        return self.random.random() < self.wild * more

    def integer(self, sensible: int) -> Any:
        if not self.odd():
            return sensible
        draw = self.random.choice
        return draw(
            [draw(EXTREMES), sensible + draw([-1, 1]), -sensible, np.int64(sensible), draw(THINGS), 1.0 * sensible]
        )

    def threads(self) -> Any:
        return self.integer(self.random.choice([1, 1, 2, 3, 7]))

    def memory(self, shape: Sequence[int], dtype: str) -> Any:
        """Guarded on both sides, from the start of a cache line on."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        whole = np.full(size + 2 * GUARD + 64, PATTERN, np.uint8)
        start = GUARD + -(whole.ctypes.data + GUARD) % 64
        whole[start : start + size] = 0
        self._guarded.append((whole, start, size))
        return whole[start : start + size].view(dtype).reshape(shape)

    def array(self, dtype: str, *shape: int) -> Any:
        """Of this type and shape, or of others."""
        if self.odd(0.5):
            return self.random.choice(THINGS)
        if self.odd(0.5):
            dtype = self.random.choice(TYPES)
        if self.odd():
            shape = tuple(max(0, side + self.random.choice([-1, 0, 1, 2])) for side in shape)
        if self.odd(0.3):
            shape = self.random.choice([shape[:-1], (*shape, 1), (), (0, *shape[1:]), shape[::-1], (1,) * 9])
        if dtype in {"f4", "f8", "i4", "i8", "u2", "u1"}:
            array = self.memory(shape, dtype)
            fill = self.random.choice(FLOATS) if dtype[0] == "f" else self.random.choice([0, 1, 2])
            array[...] = fill
        else:
            array = np.zeros(shape, dtype)
        array = self._strange(array)
        self.given.append(array)
        return array

    def _strange(self, array: Any) -> Any:
        if not self.odd() or not isinstance(array, np.ndarray) or not array.ndim:
            return array
        choice = self.random.choice
        if choice([True, False]):
            array = array.view()
            array.flags.writeable = False
            return array
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return choice([
                lambda: array[::-1],
                lambda: array[..., ::2],
                lambda: array.T,
                lambda: np.broadcast_to(array[:1], array.shape),
                lambda: np.lib.stride_tricks.as_strided(array, array.shape, (0,) * array.ndim),
                lambda: array.view(type("Sub", (np.ndarray,), {})),
                lambda: np.asfortranarray(array),
                lambda: memoryview(array),
                lambda: np.ma.masked_array(array),
                lambda: choice(self.given) if self.given else array,
            ])()  # fmt: skip

    @staticmethod
    def takes(array: Any, count: int, dtype: type = np.int32) -> bool:
        """Whether these are so many integers of the right type that can be filled in."""
        plain = isinstance(array, np.ndarray) and array.shape == (count,) and array.dtype == dtype
        return plain and array.flags.writeable

    def form(self) -> tuple[int, int, int, int, int]:
        """Images, height, width, channels and border."""
        draw = self.random.randint
        return draw(1, 2 * self.lanes + 1), draw(1, 9), draw(1, 9), draw(1, 6), draw(0, 3)

    def buffer(self, form: tuple[int, int, int, int, int], *, halves: bool = False) -> Any:
        images, height, width, channels, border = form
        if self.odd():
            border = max(0, border + self.random.choice([-1, 1]))
        shape = (-(-images // self.lanes), height + 2 * border, channels, width + 2 * border, self.lanes)
        array = self.array("u2" if halves else "f4", *shape)
        return self.do(_kernels.Activation, array, self.integer(border), self.integer(images), self.odd())

    def features(self, images: int, channels: int) -> Any:
        array = self.array("f4", 1, 1, channels, -(-images // self.lanes), self.lanes)
        return self.do(_kernels.Activation, array, 0, self.integer(images), not self.odd())

    def vector(self, form: tuple[int, int, int, int, int]) -> Any:
        return self.array("f4", form[3])

    def sums(self, form: tuple[int, int, int, int, int]) -> Any:
        return self.array("f8", form[3], 2)

    def read(self, x: Any, form: tuple[int, int, int, int, int], *, halves: bool) -> Any:
        vector = lambda: self.vector(form)  # noqa: E731
        kind = self.random.randrange(3)
        if kind == 0:
            return self.do(_kernels.Input, x)
        if kind == 1:
            return self.do(_kernels.Input.rectified, x, vector(), vector())
        other = x if self.odd() else self.buffer(form, halves=halves)
        return self.do(_kernels.Input.combined, x, other, vector(), vector(), vector())

    def offsets(self, form: tuple[int, int, int, int, int], count: int) -> list[int]:
        """Some that stay inside the border, most of them."""
        _, _, width, channels, border = form
        row = (width + 2 * border) * channels
        draws, reach = [], self.random.choice([0, border])  # those of the own pixel have kernels of their own
        for _ in range(count):
            down, right = (self.random.randint(-reach, reach) for _ in range(2))
            place = down * row + self.random.randrange(channels) * (width + 2 * border) + right
            draws.append(place * self.lanes)
            if self.odd():
                draws[-1] = max(
                    -(2**31), min(2**31 - 1, self.random.choice([draws[-1] + 1, -draws[-1], *EXTREMES[:8]]))
                )
        return draws

    def weights(self, form: tuple[int, int, int, int, int], outputs: int) -> Any:
        bundled = self.random.random() < 0.3
        groups = (-(-outputs // 4) if bundled else outputs) * self.random.choice([1, 1, 2])
        ends = sorted(self.random.randint(0, 12) for _ in range(groups))
        count = ends[-1]
        pointers, offsets = self.array("i4", groups + 1), self.array("i4", count)
        self.slopes = count * (4 if bundled else 1)
        values = self.array("f4", self.slopes)
        for array, content in ((pointers, [0, *ends]), (offsets, self.offsets(form, count))):
            if self.takes(array, len(content)):
                array[...] = content
                if self.odd() and len(content):
                    array[self.random.randrange(len(content))] = self.random.choice([-1, 7, 2**31 - 1, -(2**31)])
        listed = self.do(_kernels.Weights, pointers, offsets, values, self.integer(outputs), bundled)
        if self.random.random() < 0.3:
            self.change()
        return listed

    def steps(self, x_step: int = 1, out_step: int = 1, row: int = 0, column: int = 0) -> Any:
        given = [*map(self.integer, (x_step, out_step, row, column))]
        for place in (0, 1):
            if self.random.random() < 0.2:
                given[place] = self.random.choice([tuple, list])(
                    [given[place], self.integer(self.random.choice([1, 2]))]
                )
        return self.do(_kernels.Steps, *given)

    def axis(self, outputs: int, side: int) -> list[Any]:
        """The first and the last pixels of windows along one axis, which ascend most of the time."""
        first = sorted(self.random.randrange(side) for _ in range(outputs))
        last = [min(side, start + self.random.randint(1, 4)) for start in first]
        last = [max(last[: place + 1]) for place in range(outputs)]
        arrays = [self.array("i4", outputs), self.array("i4", outputs)]
        for array, content in zip(arrays, (first, last), strict=True):
            if self.takes(array, outputs):
                array[...] = content
                if self.odd():
                    array[self.random.randrange(outputs)] = self.random.choice([-1, 0, side + 1, 2**31 - 1, -(2**31)])
        return arrays

    def windows(self, made: tuple[int, int, int, int, int], form: tuple[int, int, int, int, int]) -> Any:
        """Windows of outputs of the first form over inputs of the second."""
        made_windows = self.do(_kernels.Windows, *self.axis(made[1], form[1]), *self.axis(made[2], form[2]))
        if self.random.random() < 0.3:
            self.change()
        return made_windows

    def mask(self, form: tuple[int, int, int, int, int], *, halves: bool) -> Any:
        return self.do(_kernels.Mask, self.buffer(form, halves=halves), *(self.vector(form) for _ in range(3)))

    def change(self) -> None:
        """Write to the arrays that were given."""
        for array in self.given:
            if isinstance(array, np.ndarray) and array.dtype.kind in "fiu" and array.flags.writeable:
                floats = array.dtype.kind == "f"
                number = self.random.choice([0, 1, 2**15, 127]) if floats else min(2**15 + 3, np.iinfo(array.dtype).max)
                with np.errstate(all="ignore"):
                    array[...] = number

    @staticmethod
    def refused(error: Exception) -> None:
        """Each says what was wrong; those of the kernels' own checks in one sentence."""
        sentence = str(error)
        assert sentence, "an error without a sentence"
        assert "\n" not in sentence or isinstance(error, TypeError), "an error of several lines"

    def check(self) -> None:
        """Nothing beside an array was written to."""
        for whole, start, size in self._guarded:
            assert np.all(whole[:start] == PATTERN), "memory before an array was written to"
            assert np.all(whole[start + size :] == PATTERN), "memory behind an array was written to"


def _described(argument: Any) -> str:
    if not isinstance(argument, np.ndarray):
        return repr(argument)[:200]
    written = "" if argument.flags.writeable else ", read-only"
    return f"{type(argument).__name__}({argument.dtype}, {argument.shape}, strides={argument.strides}{written})"
