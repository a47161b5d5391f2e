"""Hypothesis strategies for layouts, topologies, values, gradients and clocks, for tests of strategies and backends.

They draw what often reveals mistakes: tensors of a single position, full and nearly full tensors, ties, zeros of both
signs, denormal numbers. All shrink towards one tensor with one weight.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from numpy.typing import DTypeLike, NDArray

from sparsecore.engine.arrays import Array, Arrays
from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Layout, Topology
from sparsecore.testing.subjects import oracle_arrays

_AWKWARD = (0.0, -0.0, 0.25, -0.25, 1.0, -1.0, 1e-3, -1e-3, 1e-40, -1e-40, 1.4e-45, -1.4e-45, 5e-324)
"""Zeros, ties, and numbers that are denormal or zero in float32, or denormal in float64."""

_FEW = 12
"""Vectors of up to so many entries are drawn entry by entry, so that each can shrink independently."""


@st.composite
def layouts(draw: DrawFn, *, min_tensors: int = 1, max_tensors: int = 5, max_side: int = 6) -> Layout:
    """Draw layouts of vectors, matrices and 3x3 kernels, some of size 1, in another order than that of their names.

    Args:
        draw: given by hypothesis.
        min_tensors: the smallest number of tensors.
        max_tensors: the largest number of tensors.
        max_side: the largest size of a dimension.

    Returns:
        Layouts of tensors named tensor0, tensor1 and so on.
    """
    side = st.integers(1, max_side)
    shape = st.one_of(
        st.tuples(side), st.tuples(side, side), st.just((1, 1)), st.tuples(side, side, st.just(3), st.just(3))
    )
    shapes = draw(st.lists(shape, min_size=min_tensors, max_size=max_tensors))
    return Layout(draw(st.permutations([f"tensor{i}" for i in range(len(shapes))])), shapes)


@st.composite
def topologies(draw: DrawFn, *, layout: Layout | None = None, arrays: Arrays | None = None) -> Topology:
    """Draw topologies with at least one active position in every tensor: one, all but one, all, or any others.

    Args:
        draw: given by hypothesis.
        layout: the layout; None to draw it.
        arrays: the array operations of a backend; None for the oracle's.
    """
    layout = layout or draw(layouts())
    arrays = arrays or oracle_arrays()
    chosen = [
        offset + _positions(draw(_masks(size)), size)
        for offset, size in zip(layout.offsets, layout.sizes, strict=False)
    ]
    return Topology.of(layout, arrays.from_numpy(np.concatenate(chosen).astype(layout.position_dtype)), arrays)


def _masks(size: int) -> SearchStrategy[int]:
    """Draw the active positions of a tensor, as the bits of a number."""
    everywhere = (1 << size) - 1
    single = st.integers(0, size - 1).map(lambda position: 1 << position)
    # so little room that growth fills it completely
    nearly_full = _several_bits(size, 2, 4).map(lambda bits: (everywhere ^ bits) or everywhere)
    all_but_one = single.map(lambda bit: (everywhere ^ bit) or everywhere)
    half = st.integers(1, everywhere)
    most = st.tuples(half, half).map(lambda pair: pair[0] | pair[1])
    quarter = st.tuples(half, half).map(lambda pair: (pair[0] & pair[1]) or pair[0])
    return st.one_of(single, half, quarter, most, all_but_one, nearly_full, all_but_one, st.just(everywhere))


def _several_bits(size: int, least: int, most: int) -> SearchStrategy[int]:
    """Draw numbers with some of the lowest ``size`` bits set."""
    chosen = st.lists(st.integers(0, size - 1), min_size=least, max_size=most, unique=size >= most)
    return chosen.map(lambda bits: sum(1 << bit for bit in set(bits)))


def _positions(mask: int, size: int) -> NDArray[np.int64]:
    return np.array([position for position in range(size) if mask >> position & 1], np.int64)


@st.composite
def values(draw: DrawFn, *, topology: Topology, dtype: DTypeLike | None = None) -> Array:
    """Draw one finite value for each weight, with ties, zeros of both signs and denormal numbers.

    Args:
        draw: given by hypothesis.
        topology: the weights.
        dtype: float32 or float64; None to draw it.

    Returns:
        Vectors of shape (topology.size,), on the topology's backend.
    """
    return topology.arrays.from_numpy(draw(_vectors(topology.size, dtype or draw(dtypes()))))


@st.composite
def gradients(
    draw: DrawFn, *, layout: Layout, dtype: DTypeLike | None = None, arrays: Arrays | None = None
) -> Mapping[str, Array]:
    """Draw a dense gradient for each tensor, with ties and zeros.

    The engine takes a function: ``engine.update(state, values, gradients.__getitem__)``.

    Args:
        draw: given by hypothesis.
        layout: the tensors.
        dtype: float32 or float64; None to draw it.
        arrays: the array operations of a backend; None for the oracle's.

    Returns:
        Finite vectors by the tensor's name, each with as many entries as the tensor has positions.
    """
    dtype, arrays = dtype or draw(dtypes()), arrays or oracle_arrays()
    return {
        name: arrays.from_numpy(draw(_vectors(size, dtype)))
        for name, size in zip(layout.names, layout.sizes, strict=True)
    }


def dtypes() -> SearchStrategy[str]:
    """Draw the dtype of values: float32 or float64."""
    return st.sampled_from(["float32", "float64"])


@st.composite
def _vectors(draw: DrawFn, size: int, dtype: DTypeLike) -> NDArray[Any]:
    transform = draw(st.sampled_from(_TRANSFORMS))
    entries = transform(draw(_several(size) if size <= _FEW else _many(size)))
    return np.asarray(entries, np.float64).astype(dtype)


def _several(size: int) -> SearchStrategy[Any]:
    return st.lists(_numbers, min_size=size, max_size=size).map(np.array)


@st.composite
def _many(draw: DrawFn, size: int) -> NDArray[Any]:
    many = np.random.default_rng(draw(st.integers(0, 2**16))).standard_normal(size)
    if draw(st.booleans()):
        many = np.round(many * 2) / 4  # ties
    indices = draw(st.lists(st.integers(0, size - 1), max_size=_FEW, unique=True))
    many[indices] = draw(st.lists(_numbers, min_size=len(indices), max_size=len(indices)))
    return many


_numbers = st.sampled_from(_AWKWARD) | st.floats(-2, 2, width=32)

_TRANSFORMS: Sequence[Callable[[NDArray[Any]], NDArray[Any]]] = (
    lambda entries: entries,
    lambda entries: entries,
    np.abs,
    lambda entries: -np.abs(entries),
    lambda entries: np.copysign(0.25, entries),
)
"""What is done to drawn entries: nothing, or giving all the same sign or the same magnitude."""


@st.composite
def clocks(draw: DrawFn, *, max_steps: int = 1000, known_end: bool = True) -> Clock:
    """Draw a time within a run.

    Args:
        draw: given by hypothesis.
        max_steps: the largest number of steps of the run.
        known_end: whether the clock's ``total_steps`` is that number of steps; if not, it is None.
    """
    total = draw(st.integers(1, max_steps))
    step = draw(st.integers(0, total - 1))
    return Clock(
        step=step,
        steps_per_epoch=draw(st.integers(1, 100)),
        total_steps=total if known_end else None,
        updates=draw(st.integers(0, step)),
    )
