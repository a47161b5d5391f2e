"""Layouts, topologies, values and plugins to test the engine with."""

import numpy as np
from hypothesis import strategies as st

from sparsecore.engine.engine import Engine
from sparsecore.engine.hooks import hookimpl
from sparsecore.engine.topology import Layout, Topology
from sparsecore.host.arrays import NumpyArrays

ARRAYS = NumpyArrays()
TWO_TENSORS = Layout.of({"first": (10, 10), "second": (20, 5)})

# what breaks comparisons: zeros of both signs, ties, the smallest numbers of both dtypes
_AWKWARD = (0.0, -0.0, 0.25, -0.25, 1.0, -1.0, 1e-3, -1e-3, 1e-40, -1e-40, 1.4e-45, 5e-324)

_sides, _filters = st.integers(1, 6), st.integers(1, 3)
_shapes = st.one_of(st.tuples(_sides), st.tuples(_sides, _sides), st.tuples(_filters, _filters, st.just(3), st.just(3)))


@st.composite
def layouts(draw, most=5):
    """Up to ``most`` vectors, matrices and 3x3 kernels, in an order that is not that of their names."""
    shapes = draw(st.lists(_shapes, min_size=1, max_size=most))
    names = draw(st.permutations([f"tensor{i}" for i in range(len(shapes))]))
    return Layout(names, shapes)


@st.composite
def topologies(draw, layout=None):
    """At least one active position in every tensor, sparse or full."""
    layout = layout or draw(layouts())
    positions = []
    for offset, size in zip(layout.offsets, layout.sizes, strict=False):
        chosen = draw(st.sets(st.integers(0, size - 1), min_size=1) | st.just(set(range(size))))
        positions += [offset + place for place in sorted(chosen)]
    return topology(layout, positions)


@st.composite
def values_of(draw, topology, dtype=None):
    """One value a weight, with ties, zeros of both signs and denormal numbers."""
    dtype = dtype or draw(st.sampled_from([np.float32, np.float64]))
    number = st.sampled_from(_AWKWARD) | st.floats(-2, 2, width=32)
    return np.array(draw(st.lists(number, min_size=topology.size, max_size=topology.size)), dtype)


def topology(layout, positions):
    """The topology of these positions."""
    return Topology.of(layout, np.array(positions, layout.position_dtype), ARRAYS)


def engine(layout, strategies, **options):
    """An engine on NumPy."""
    return Engine(layout, strategies, arrays=ARRAYS, **options)


def plugin(**answers):
    """A plugin whose hooks are these functions (without ``self``)."""
    hooks = {hook: staticmethod(hookimpl(answer)) for hook, answer in answers.items()}
    return type("Plugin", (), hooks)()


def normal_values(topology, seed=0, dtype=np.float32):
    """Standard normal values, one a weight."""
    return np.random.default_rng(seed).standard_normal(topology.size).astype(dtype)


def active(topology):
    """The positions as a set."""
    return set(topology.positions.tolist())


def by_name(topology, vector):
    """{tensor: {position in the tensor: entry}}: what does not depend on the order of the tensors."""
    return {
        name: dict(zip(topology.local(name).tolist(), vector[topology.slots(name)].tolist(), strict=True))
        for name in topology.layout.names
    }
