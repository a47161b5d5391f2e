"""Measures how much memory a strategy needs for few weights among very many positions."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.engine import Engine
from sparsecore.engine.state import State
from sparsecore.engine.topology import Layout, Topology
from sparsecore.testing.starts import normal_values, start
from sparsecore.testing.subjects import Stack, fresh_copies, oracle_arrays

LARGE_SIZE = 4 * 10**6
"""Positions of a large tensor: enough for memory that grows with them to show, too few to run out of memory."""

MEMORY_LIMIT = 256 * 1024
"""Bytes that few weights may take at once, temporary arrays included: about half a bit a position of a large tensor."""

WEIGHTS = 60
"""The number of active weights in a network with few weights, for layouts of any size."""


def sparsity_with_few_weights(layout: Layout) -> float:
    """Return the sparsity at which a network has :data:`WEIGHTS` weights.

    Args:
        layout: the tensors, with more positions than that together.
    """
    return 1 - WEIGHTS / layout.size


def few_positions(layout: Layout, random: np.random.Generator) -> NDArray[Any]:
    """Draw few active positions, in a tensor of 200 positions and in a large one behind it.

    Args:
        layout: the two tensors.
        random: the generator to draw from.

    Returns:
        Positions, ascending, of the layout's position dtype.
    """
    small, large = layout.sizes
    drawn = [random.choice(small, 20, replace=False), small + random.integers(0, large, WEIGHTS - 20)]
    return np.unique(np.concatenate(drawn)).astype(layout.position_dtype)


def peak_memory(act: Callable[[], object]) -> int:
    """Call a function and measure its memory by ``tracemalloc``.

    Args:
        act: the function.

    Returns:
        The most bytes that were allocated at once during the call.
    """
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    tracemalloc.reset_peak()
    try:
        before = tracemalloc.get_traced_memory()[0]
        act()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not was_tracing:
            tracemalloc.stop()


def _few_gradients(engine: Engine, state: State, candidates: Topology | None) -> dict[str, Any]:
    """Return gradients of the active weights and of candidates: numbers that grow along the positions."""
    of_candidates = {} if candidates is None else {"candidate_gradient": engine.arrays.arange(candidates.size, "f8")}
    return {"weight_gradient": engine.arrays.arange(state.topology.size, "f8"), **of_candidates}


_RESULTS: dict[str, bool] = {}
"""Results of :func:`needs_memory_for_weights_only` by hyperparameters, because the same are requested many times."""


def needs_memory_for_weights_only(stack: Stack) -> bool:
    """Return whether a start, a step and an update take less memory than one entry for each position would.

    Args:
        stack: the strategies; copies of them are run on a network of four million positions with few weights.

    Returns:
        True below :data:`MEMORY_LIMIT` bytes of NumPy and Python at once; False also where a hook raises an error.
    """
    key = repr({name: (type(plugin), plugin) for name, plugin in stack.items()})
    if key not in _RESULTS:
        _RESULTS[key] = _measure(stack)
    return _RESULTS[key]


def _measure(stack: Stack) -> bool:
    layout, random = Layout.of({"small": (10, 20), "large": (LARGE_SIZE,)}), np.random.default_rng(0)
    positions = few_positions(layout, random)
    values = random.standard_normal(len(positions))

    def start_step_and_update() -> None:
        engine = Engine(layout, fresh_copies(stack), arrays=oracle_arrays())
        start(engine, sparsity_with_few_weights(layout))
        state = engine.start_at(Topology.of(layout, positions, engine.arrays), values=normal_values(engine))
        advance = engine.advance(state, values, 0.1, **_few_gradients(engine, state, engine.plan(state).candidates))
        few = _few_gradients(engine, advance.state, engine.candidates(advance.state))
        engine.update(advance.state, advance.values, **few)

    try:
        return peak_memory(start_step_and_update) < MEMORY_LIMIT
    except Exception:  # the promises report errors
        return False
