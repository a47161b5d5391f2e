"""How much memory a strategy takes for few weights among very many positions."""

import tracemalloc
from collections.abc import Callable

import numpy as np

from sparsecore.engine.engine import Engine
from sparsecore.engine.topology import Layout, Topology
from sparsecore.testing.backend_subjects import oracle_arrays
from sparsecore.testing.stacks import Stack, fresh

LARGE = 4 * 10**6
"""Dense positions: so few that a strategy that takes memory for each does no harm."""

MOST = 256 * 1024
"""Bytes that few weights may take, all temporaries included; half of a bit a position of a large tensor."""

WEIGHTS = 60
"""As many are few."""


def few(layout: Layout) -> float:
    """The sparsity at which few weights are in this layout."""
    return 1 - WEIGHTS / layout.size


def peak(act: Callable[[], object]) -> int:
    """The most bytes that are held at once while this is done."""
    was_on = tracemalloc.is_tracing()
    if not was_on:
        tracemalloc.start()
    tracemalloc.reset_peak()
    try:
        before = tracemalloc.get_traced_memory()[0]
        act()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not was_on:
            tracemalloc.stop()


_KNOWN: dict[str, bool] = {}
"""Answers of :func:`is_frugal`, by the strategies' hyperparameters: the same are asked about again and again."""


def is_frugal(stack: Stack) -> bool:
    """Whether a start, a step and an update among many positions take memory for the weights alone."""
    told = repr({name: (type(plugin), plugin) for name, plugin in stack.items()})
    if told not in _KNOWN:
        _KNOWN[told] = _takes_little(stack)
    return _KNOWN[told]


def _takes_little(stack: Stack) -> bool:
    layout = Layout.of({"small": (10, 20), "large": (LARGE,)})
    draws = np.random.default_rng(0)
    places = np.concatenate([draws.choice(200, 20, replace=False), 200 + draws.integers(0, LARGE, WEIGHTS - 20)])
    positions = np.unique(places).astype(layout.position_dtype)
    values = draws.standard_normal(len(positions))

    def act() -> None:
        algorithm = Engine(layout, fresh(stack), arrays=oracle_arrays())
        algorithm.start(few(layout))
        state = algorithm.start_at(Topology.of(layout, positions, algorithm.arrays))
        advance = algorithm.advance(state, values, 0.1)
        algorithm.update(advance.state, advance.values)

    try:
        return peak(act) < MOST
    except Exception:  # whatever it is, the promises tell of it
        return False
