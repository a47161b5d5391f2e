"""Calls the CPU backend's kernels with hostile arguments: ``python tests/fuzz_kernels.py``.

Whatever the arguments, a call returns or raises ValueError, TypeError or MemoryError, and writes nowhere but into its
outputs. The calls are made in a process of their own, which a second one watches: where it crashes or hangs, the call
is named, and ``--only NUMBER`` repeats it. Equal seeds make equal calls. `make fuzz` does it under sanitizers.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
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
        if dtype in {"f4", "f8", "i4", "u2"}:
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
    def takes(array: Any, count: int) -> bool:
        """Whether these are so many integers of the right type that can be filled in."""
        plain = isinstance(array, np.ndarray) and array.shape == (count,) and array.dtype == np.int32
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
        draws = []
        for _ in range(count):
            down, right = (self.random.randint(-border, border) for _ in range(2))
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


def convolution(call: Call) -> None:
    """``convolve`` and ``convolve_masked``."""
    form, halves = call.form(), call.random.random() < 0.3
    outputs, out_step = call.random.randint(1, 6), call.random.choice([1, 1, 2, 3])
    made = (*form[:3], outputs, call.random.randint(0, 2))
    x, out = call.buffer(form, halves=halves), call.buffer(made, halves=halves)
    if call.odd():
        x = out
    add = call.random.choice([None, out, x if call.odd() else None])
    if call.random.random() < 0.2:
        add = call.buffer(made, halves=halves)
    listed = call.weights(form, outputs)
    steps = call.steps(1, out_step, call.random.randrange(out_step), call.random.randrange(out_step))
    read = call.read(x, form, halves=halves)
    if call.random.random() < 0.5:
        sums = None if call.random.random() < 0.5 else call.sums(made)
        call.do(call.kernels.convolve, read, out, add, listed, steps, sums, call.threads())
    else:
        mask = call.mask(made, halves=halves)
        call.do(call.kernels.convolve_masked, read, out, add, listed, steps, mask, call.sums(made), call.threads())


def gradients(call: Call) -> None:
    """``weight_gradient`` and ``backward``."""
    form, halves = call.form(), call.random.random() < 0.3
    stride, outputs = call.random.choice([1, 1, 2]), call.random.randint(1, 6)
    made = (form[0], form[1], form[2], outputs, call.random.randint(0, 2))
    given = (form[0], form[1] * stride, form[2] * stride, form[3], form[4])
    x = call.read(call.buffer(given, halves=halves), given, halves=halves)
    gradient = call.read(call.buffer(made, halves=halves), made, halves=halves)
    listed = call.weights(given, outputs)
    slopes = call.array("f4", call.slopes)
    if call.random.random() < 0.4:
        steps = call.steps(stride, 1)
        call.do(call.kernels.weight_gradient, x, gradient, listed, steps, slopes, call.threads())
        return
    places = [(row, column) for row in range(stride) for column in range(stride)]
    behind = [(call.weights(made, form[3]), call.steps(1, stride, *place)) for place in places]
    if call.odd():
        behind = call.random.choice([[], behind[:-1], behind * 2, [None], [(1, 2)], tuple(behind), "text"])
    out = call.buffer(given, halves=halves)
    add = call.random.choice([None, out])
    mask = call.mask(given, halves=halves) if call.random.random() < 0.5 else None
    size, sums, threads = call.integer(stride), call.sums(given), call.threads()
    call.do(call.kernels.backward, x, gradient, listed, size, slopes, out, add, behind, mask, sums, threads)


def passes(call: Call) -> None:
    """The passes over activations."""
    form, halves = call.form(), call.random.random() < 0.3
    x, out, other = (call.buffer(form, halves=halves) for _ in range(3))
    if call.random.random() < 0.2:
        x = out
    vector, threads = lambda: call.vector(form), call.threads()
    kernels, features = call.kernels, lambda: call.features(form[0], form[3])
    add = call.random.choice([None, other, out])
    call.random.choice([
        lambda: call.do(kernels.affine, x, out, vector(), vector(), threads),
        lambda: call.do(kernels.affine_relu, x, out, vector(), vector(), threads),
        lambda: call.do(kernels.combine, x, other, out, add, vector(), vector(), vector(), threads),
        lambda: call.do(kernels.relu_backward, x, out, call.mask(form, halves=halves), call.sums(form), threads),
        lambda: call.do(kernels.moments, x, vector(), call.sums(form), threads),
        lambda: call.do(kernels.gradient_sums, x, other, vector(), call.sums(form), threads),
        lambda: call.do(kernels.pool, x, features(), threads),
        lambda: call.do(kernels.pool_backward, features(), out, add, threads),
    ])()  # fmt: skip


def functions(call: Call) -> None:
    """The passes that apply a function to each entry."""
    form, halves = call.form(), call.random.random() < 0.3
    x, out, other = (call.buffer(form, halves=halves) for _ in range(3))
    if call.random.random() < 0.2:
        x = out
    function = call.random.choice([*_kernels.PointwiseFunction, 3 if call.odd() else _kernels.PointwiseFunction.GELU])
    parameter, add = call.random.choice(FLOATS), call.random.choice([None, other, out])
    scale, shift, threads = call.vector(form), call.vector(form), call.threads()
    if call.random.random() < 0.5:
        call.do(call.kernels.pointwise, function, parameter, x, out, add, scale, shift, threads)
        return
    mean, sums = call.vector(form), call.random.choice([None, call.sums(form)])
    call.do(
        call.kernels.pointwise_backward,
        *(function, parameter, other, x, out, add, scale, shift, mean, sums, threads),
    )


def pooling(call: Call) -> None:
    """Sums and maxima of windows, and the gradients of these."""
    form, halves = call.form(), call.random.random() < 0.3
    made = (form[0], call.random.randint(1, 9), call.random.randint(1, 9), form[3], call.random.randint(0, 2))
    x, out, other = (call.buffer(of, halves=halves) for of in (form, made, form))
    if call.odd():
        x = out
    windows, threads, kernels = call.windows(made, form), call.threads(), call.kernels
    if call.random.random() < 0.4:
        by_input = call.random.random() < 0.5
        sides = (form if by_input else made)[1:3]
        add = call.random.choice([None, out, x if call.odd() else None])
        factors = [call.array("f4", side) for side in sides]
        call.do(kernels.window_sum, x, out, add, windows, *factors, by_input, threads)
    elif call.random.random() < 0.4:
        call.do(kernels.max_pool, x, out, windows, threads)
    else:
        add = call.random.choice([None, other, x if call.odd() else None])
        call.do(kernels.max_pool_backward, out, x, other, add, windows, threads)


def shapes(call: Call) -> None:
    """Selections of channels, and images as features."""
    form, halves = call.form(), call.random.random() < 0.3
    x, threads = call.buffer(form, halves=halves), call.threads()
    if call.random.random() < 0.5:
        count, first = call.random.randint(1, 6), call.random.randint(0, 3)
        made = (*form[:3], first + count + call.random.randint(0, 2), call.random.randint(0, 2))
        out, channels = call.buffer(made, halves=halves), call.array("i4", count)
        if call.takes(channels, count):
            channels[...] = [call.random.randint(-1, form[3] - 1) for _ in range(count)]
            if call.odd():
                channels[0] = call.random.choice([form[3], -7, 2**31 - 1, -(2**31)])
        add = call.random.choice([None, out, x if call.odd() else None])
        call.do(call.kernels.gather_channels, x, channels, out, call.integer(first), add, threads)
        return
    features, channels_first = call.features(form[0], form[1] * form[2] * form[3]), call.random.random() < 0.5
    if call.random.random() < 0.5:
        call.do(call.kernels.flatten, x, features, channels_first, threads)
    else:
        add = call.random.choice([None, x, call.buffer(form, halves=halves)])
        call.do(call.kernels.unflatten, features, x, add, channels_first, threads)


def pictures(call: Call) -> None:
    """``pack`` and ``unpack``."""
    form = call.form()
    if call.random.random() < 0.3:
        buffer, shape = call.features(form[0], form[3]), (form[0], 1, 1, form[3])
    else:
        buffer, shape = call.buffer(form, halves=call.random.random() < 0.3), (*form[:3], form[3])
    order = call.random.sample(range(4), 4)
    images = call.array("f4", *(shape[axis] for axis in order))
    if isinstance(images, np.ndarray) and images.ndim == 4:
        images = images.transpose(np.argsort(order))
        if call.random.random() < 0.2:
            images = images[:, ::-1]
    if call.random.random() < 0.5:
        call.do(call.kernels.pack, images, buffer, call.threads())
    else:
        call.do(call.kernels.unpack, buffer, images, call.threads())


def lists(call: Call) -> None:
    """What fills lists."""
    count, buckets = call.random.choice([0, 1, 5, 100]), call.random.randint(0, 5)
    keys, order = call.array("i4", count), call.array("i4", count)
    for array in (keys, order):
        if call.takes(array, count):
            array[...] = [call.random.randrange(max(1, min(buckets, count))) for _ in array]
            if call.odd() and len(array):
                array[-1] = call.random.choice([-1, buckets, 2**31 - 1, -(2**31)])
    if call.odd():
        order = keys
    entries, listed = call.array("f4", count), call.array("f4", count)
    call.random.choice([
        lambda: call.do(_kernels.sort_by_bucket, keys, order, call.array("i4", buckets + 1)),
        lambda: call.do(_kernels.gather, entries, order, listed, call.threads()),
        lambda: call.do(_kernels.scatter, listed, order, entries, call.threads()),
    ])()  # fmt: skip


def by_rows(call: Call) -> None:
    """Convolutions of one image."""
    channels, pixels = call.random.randint(1, 5), 16 * call.random.randint(1, 13)
    room, start = pixels + 16 * call.random.randrange(3), 16 * call.random.randrange(3)
    ends = sorted(call.random.randint(0, 12) for _ in range(channels))
    x, out = call.array("f4", 2 * room + start), call.array("f4", channels * room + start)
    pointers, offsets = call.array("i4", channels + 1), call.array("i4", ends[-1])
    for array, content in ((pointers, [0, *ends]), (offsets, [call.random.randint(0, room) for _ in range(ends[-1])])):
        if call.takes(array, len(content)):
            array[...] = content
            if call.odd() and len(content):
                array[-1] = call.random.choice([-1, 2**31 - 1, -(2**31), 0])
    add = call.random.choice([None, call.array("f4", channels * room + start), out if call.odd() else None])
    made = call.do(
        _kernels.RowConvolution,
        kernels="no such" if call.odd() else call.kernels.name,
        x=x,
        x_start=call.integer(start),
        out=out,
        out_start=call.integer(start),
        channel_stride=call.integer(room),
        add=add,
        pointers=pointers,
        offsets=offsets,
        values=call.array("f4", ends[-1]),
        bias=call.array("f4", channels),
        inside=call.array("f4", pixels),
        floor=call.random.choice(FLOATS),
    )
    if call.random.random() < 0.5:
        call.change()
    call.do(made.run, call.threads())


ENTRIES = (
    convolution,
    convolution,
    gradients,
    gradients,
    passes,
    passes,
    pooling,
    pooling,
    shapes,
    functions,
    pictures,
    lists,
    by_rows,
)
REFUSALS = (ValueError, TypeError, MemoryError)


def make(seed: int, number: int, note: Callable[[str], None]) -> tuple[int, str]:
    """The calls of one number: how many they were, and how the last one ended."""
    call = Call(seed, number, note)
    entry, luck = call.random.choice(ENTRIES), call.random.random()
    ended = "returned"
    with _disturbed(call, luck):
        try:
            entry(call)
        except REFUSALS as refused:
            call.refused(refused)
            ended = type(refused).__name__
    call.check()
    return call.made, ended


class _disturbed:  # noqa: N801
    """While it lasts another thread writes to the arrays, or memory runs out, or the process forks; mostly nothing."""

    def __init__(self, call: Call, luck: float) -> None:
        self._call, self._luck, self._end = call, luck, threading.Event()
        self._thread = threading.Thread(target=self._change)

    def __enter__(self) -> None:
        if self._luck < 0.01:
            self._thread.start()
        elif self._luck < 0.03:
            _kernels._fail_scratch(self._call.random.randrange(10))

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._luck < 0.01:
            self._thread.join()
        elif self._luck < 0.03:
            _kernels._fail_scratch(-1)
        elif self._luck < 0.031:
            self._fork()

    def _change(self) -> None:
        while not self._end.is_set():
            for array in list(self._call.given):
                if isinstance(array, np.ndarray) and array.dtype.kind in "fiu" and array.flags.writeable:
                    array[...] = 77
            time.sleep(0)

    @staticmethod
    def _fork() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            child = os.fork()
        if not child:
            listed = np.zeros(200_000, np.float32)
            _kernels.gather(np.ones(1, np.float32), np.zeros(200_000, np.int32), listed, 3)
            os._exit(0 if np.all(listed == 1) else 1)
        assert os.waitpid(child, 0)[1] == 0, "a forked process could not compute"


def work(options: argparse.Namespace) -> None:
    """Make the calls, telling before each in the file ``options.status`` which it is."""
    ends = Counter[str]()
    with Path(options.status).open("w", buffering=1) as status:
        number, made = options.first, 0
        while made < options.calls:

            def note(text: str, number: int = number) -> None:
                status.seek(0)
                status.write(f"number {number}: {text[:2000]}\n")
                status.truncate()

            try:
                count, ended = make(options.seed, number, note)
            except BaseException:
                traceback.print_exc()
                sys.exit(3)
            made, number = made + max(1, count), number + 1
            ends[ended] += 1
    print(f"{made} calls: {', '.join(f'{count} x {name}' for name, count in ends.most_common())}")


def watch(command: Sequence[str], patience: float) -> int:
    """Run a worker; where it ends badly or makes no call for so many seconds, print its last one.

    Args:
        command: of the worker; the name of the file in which it tells what it does is added.
        patience: in seconds.

    Returns: 0 where it ended well.
    """
    with tempfile.TemporaryDirectory() as folder:
        status = Path(folder) / "status"
        process = subprocess.Popen([*command, str(status)])
        seen, since = "", time.monotonic()
        while process.poll() is None:
            time.sleep(0.05)
            now = status.read_text() if status.exists() else ""
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > patience:
                process.kill()
                process.wait()
                print(f"hangs: {seen}")
                return 2
        if process.returncode:
            last = status.read_text() if status.exists() else "nothing was called yet"
            print(f"ended with status {process.returncode}: {last}")
            return 1
    return 0


def main() -> int:
    """Watch over a worker, or be one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="repeat the calls of this number alone")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds that a call may take")
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--status", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.status:
        work(options)
        return 0
    first, calls = (0, options.calls) if options.only is None else (options.only, 1)
    worker = [sys.executable, __file__, "--seed", str(options.seed), "--first", str(first), "--calls", str(calls)]
    return watch([*worker, "--status"], options.patience)


def _described(argument: Any) -> str:
    if not isinstance(argument, np.ndarray):
        return repr(argument)[:200]
    written = "" if argument.flags.writeable else ", read-only"
    return f"{type(argument).__name__}({argument.dtype}, {argument.shape}, strides={argument.strides}{written})"


if __name__ == "__main__":
    sys.exit(main())
