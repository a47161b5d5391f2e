"""Array operations and strategies return on torch and JAX what they return on NumPy, bit for bit."""

from importlib.util import find_spec

import numpy as np
import pytest
from engine_examples import layouts, topologies, values_of
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecore.engine.arrays import describe
from sparsecore.engine.engine import Engine
from sparsecore.engine.schedules import (
    Clock,
    Every,
)
from sparsecore.engine.state import dump_strategy_state
from sparsecore.engine.topology import Topology
from sparsecore.errors import SparsecoreError
from sparsecore_numpy import NumpyArrays
from sparsecore_strategies.deepr import DeepRewiring
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.set import SparseEvolution
from sparsecore_strategies.static import Static

BACKENDS = []
if find_spec("torch"):
    from torch_devices import DEVICES

    from sparsecore_torch import TorchArrays

    BACKENDS += [pytest.param(TorchArrays(device), id=str(device)) for device in DEVICES]
if find_spec("jax"):
    from sparsecore_jax import JaxArrays

    BACKENDS.append(pytest.param(JaxArrays(), id="jax"))

ORACLE = NumpyArrays()
on_backends = pytest.mark.parametrize("arrays", BACKENDS)
few = settings(max_examples=60)

DTYPES = (np.float32, np.float64, np.int32, np.int64, np.int8, np.bool_)
_numbers = st.sampled_from([0.0, -0.0, 0.25, -0.25, 1.0, -1.0, 1e-3, 1e-40, 3.0]) | st.floats(-100, 100, width=32)


@st.composite
def vectors(draw, dtypes=DTYPES, least=0):
    """A vector with ties, zeros of both signs and denormal numbers."""
    entries = draw(st.lists(_numbers, min_size=least, max_size=20))
    return np.array(entries, np.float64).astype(draw(st.sampled_from(dtypes)))


def on_host(array):
    """The entries of an array of torch or JAX."""
    return array.host if hasattr(array, "host") else array.cpu().numpy()


def assert_same(there, expected):
    """The same dtype, shape and bits."""
    host = on_host(there)
    assert host.dtype == expected.dtype
    assert host.shape == expected.shape
    assert host.tobytes() == np.ascontiguousarray(expected).tobytes()


@on_backends
@few
@given(array=vectors())
def test_a_round_trip_changes_nothing_and_shares_no_memory(arrays, array):
    before = array.copy()
    there = arrays.from_numpy(array)
    assert_same(there, before)
    array[:] = 1
    assert_same(there, before)
    np.testing.assert_array_equal(arrays.to_numpy(there), before)


@on_backends
def test_read_only_arrays_are_accepted(arrays):
    array = np.arange(5)
    array.flags.writeable = False
    assert_same(arrays.from_numpy(array), array)


@on_backends
@few
@given(array=vectors(least=1), data=st.data())
def test_take_put_and_where_equal_numpy_s(arrays, array, data):
    rows = np.array(data.draw(st.lists(st.integers(0, len(array) - 1), max_size=10, unique=True)), np.int64)
    entries = array[::-1][: len(rows)].copy()
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(array), max_size=len(array))))
    there, indices = arrays.from_numpy(array), arrays.from_numpy(rows)
    assert_same(arrays.take(there, indices), ORACLE.take(array, rows))
    assert_same(arrays.put(there, indices, arrays.from_numpy(entries)), ORACLE.put(array, rows, entries))
    assert_same(arrays.put(there, indices, 1), ORACLE.put(array, rows, 1))
    assert_same(there, array)
    chosen = arrays.where(arrays.from_numpy(mask), there, arrays.from_numpy(array[::-1].copy()))
    assert_same(chosen, ORACLE.where(mask, array, array[::-1]))


@on_backends
@few
@given(array=vectors())
def test_taking_rows_of_a_matrix_equals_numpy_s(arrays, array):
    matrix = np.stack([array, array], axis=1)
    rows = np.arange(len(array))[::-1].copy()
    assert_same(arrays.take(arrays.from_numpy(matrix), arrays.from_numpy(rows)), ORACLE.take(matrix, rows))
    assert_same(arrays.zeros_like(arrays.from_numpy(matrix), 3), ORACLE.zeros_like(matrix, 3))


@on_backends
@few
@given(array=vectors(), other=vectors(), count=st.integers(0, 9))
def test_creating_casting_and_joining_equal_numpy_s(arrays, array, other, count):
    there, other = arrays.from_numpy(array), other.astype(array.dtype)
    assert_same(arrays.zeros_like(there, count), ORACLE.zeros_like(array, count))
    assert_same(arrays.concatenate([there, arrays.from_numpy(other)]), ORACLE.concatenate([array, other]))
    assert_same(arrays.nonzero(there != 0), ORACLE.nonzero(array != 0))
    for dtype in (np.float32, np.float64, np.int64):
        assert_same(arrays.cast(there, dtype), ORACLE.cast(array, dtype))
        assert_same(arrays.cast(there, arrays.arange(1, dtype).dtype), ORACLE.cast(array, dtype))
        assert_same(arrays.arange(count, dtype), ORACLE.arange(count, dtype))


@on_backends
@few
@given(array=vectors())
def test_equal_entries_keep_their_order(arrays, array):
    there = arrays.from_numpy(array)
    assert_same(arrays.argsort(there), ORACLE.argsort(array))
    np.testing.assert_array_equal(arrays.to_numpy(arrays.sort(there)), ORACLE.sort(array))


@on_backends
def test_equal_entries_keep_their_order_in_long_vectors(arrays):
    draws = np.random.default_rng(0)
    for array in (draws.integers(0, 50, 200_000), draws.choice([0.0, -0.0, 0.5, -0.5], 200_000).astype(np.float32)):
        there = arrays.from_numpy(array)
        assert_same(arrays.argsort(there), ORACLE.argsort(array))


@on_backends
@few
@given(array=vectors(DTYPES[:4]), queries=vectors(DTYPES[:4]), side=st.sampled_from(["left", "right"]))
def test_searchsorted_equals_numpy_s(arrays, array, queries, side):
    array, queries = np.sort(array), queries.astype(array.dtype)
    found = arrays.searchsorted(arrays.from_numpy(array), arrays.from_numpy(queries), side)
    np.testing.assert_array_equal(arrays.to_numpy(found), ORACLE.searchsorted(array, queries, side))
    strided = arrays.from_numpy(np.repeat(array, 2))[::2]
    np.testing.assert_array_equal(
        arrays.to_numpy(arrays.searchsorted(strided, arrays.from_numpy(queries), side)),
        ORACLE.searchsorted(array, queries, side),
    )


@on_backends
@pytest.mark.parametrize("entry", [0.0, 1e-45, 3e38, np.inf, -np.inf, np.nan])
def test_nonfinite_entries_are_found(arrays, entry):
    array = np.array([1.0, entry, 2.0], np.float32)
    assert arrays.all_finite(arrays.from_numpy(array)) == ORACLE.all_finite(array)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtypes_that_numpy_lacks_pass_through_operations_and_error_sentences(dtype):
    torch = pytest.importorskip("torch")
    arrays = TorchArrays("cpu")
    array = torch.tensor([0.5, -0.25, 0.0, 0.5]).to(getattr(torch, dtype))
    assert describe(array) == f"Tensor of {dtype}, shape (4,)"
    assert arrays.cast(array, array.dtype).dtype == array.dtype
    assert arrays.argsort(array).tolist() == [1, 2, 0, 3]
    assert arrays.all_finite(array)
    doubled = arrays.concatenate([array, arrays.zeros_like(array, 2)])
    assert arrays.take(doubled, arrays.arange(5, np.int64)).dtype == array.dtype


EACH_STEP = Every(steps=1)
_amounts = st.integers(1, 4) | st.sampled_from(["10%", "50%"])
# thresholds that some values equal, exactly or only once they are rounded to the values' dtype
_thresholds = st.sampled_from([1e-3, 0.25, 1.0, 0.1, 1e-40, 3.0])


@st.composite
def strategies(draw):
    """Any of the built-in ones, due in every step."""
    return draw(
        st.one_of(
            st.builds(DynamicReallocation, target=_amounts, initial_threshold=_thresholds, schedule=st.just(EACH_STEP)),
            st.builds(
                SparseEvolution,
                drop_fraction=st.sampled_from([0.0, 0.3, 0.5, 0.9]),
                ranking=st.sampled_from(["signed", "magnitude"]),
                start=st.sampled_from(["er", "erk", "uniform"]),
                schedule=st.just(EACH_STEP),
            ),
            st.builds(
                DeepRewiring,
                l1=st.sampled_from([0.0, 1e-5, 0.3]),
                temperature=st.sampled_from([0.0, 1e-7, 0.01]),
                step_size=st.sampled_from([None, 0.1]),
                scope=st.sampled_from(["network", "tensor"]),
                schedule=st.just(EACH_STEP),
            ),
            st.just(Static()),
        )
    )


def assert_same_states(state, expected):
    assert_same(state.topology.positions, expected.topology.positions)
    assert state.topology.bounds == expected.topology.bounds
    assert state.clock == expected.clock
    assert state.strategy_states.keys() == expected.strategy_states.keys()
    for name, strategy_state in state.strategy_states.items():
        dumped, wanted = (
            dump_strategy_state(strategy_state, state.topology.arrays),
            dump_strategy_state(expected.strategy_states[name], ORACLE),
        )
        assert dumped[0] == wanted[0]
        for field, vector in wanted[1].items():
            np.testing.assert_array_equal(dumped[1][field], vector)


def assert_same_reallocations(reallocation, expected):
    np.testing.assert_array_equal(reallocation.pruned, expected.pruned)
    np.testing.assert_array_equal(reallocation.grown, expected.grown)
    assert_same(reallocation.survives, expected.survives)
    np.testing.assert_array_equal(on_host(reallocation.sources), expected.sources)
    assert_same(reallocation.values, expected.values)
    assert_same(reallocation.pruned_positions, expected.pruned_positions)
    assert_same(reallocation.grown_positions, expected.grown_positions)


def attempt(function):
    """What it returns, or the sentence that it raises."""
    try:
        return function(), None
    except SparsecoreError as error:
        return None, f"{type(error).__name__}: {error}".replace("ndarray", "").replace("Tensor", "").replace(
            "JaxArray", ""
        )


@on_backends
@settings(max_examples=150)
@given(data=st.data(), strategy=strategies(), regrow=st.booleans(), seed=st.integers(0, 3))
def test_every_strategy_decides_position_for_position_as_on_numpy(arrays, data, strategy, regrow, seed):
    topology = data.draw(topologies())
    values = data.draw(values_of(topology))
    options = {"seed": seed, "regrow_pruned": regrow}
    oracle = Engine(topology.layout, [strategy], arrays=ORACLE, **options)
    engine = Engine(topology.layout, [strategy], arrays=arrays, **options)
    there = Topology.of(topology.layout, arrays.from_numpy(topology.positions), arrays)
    expected, refusal = attempt(lambda: oracle.start_at(topology))
    state, refusal_there = attempt(lambda: engine.start_at(there))
    assert refusal_there == refusal
    if refusal:
        return
    assert_same_states(state, expected)
    values, values_there = oracle.start_values(expected, values), engine.start_values(state, arrays.from_numpy(values))
    assert_same(values_there, values)
    for step in range(3):
        wanted, refusal = attempt(lambda: oracle.advance(expected, values, 0.1))  # noqa: B023
        advance, refusal_there = attempt(lambda: engine.advance(state, values_there, 0.1))  # noqa: B023
        assert refusal_there == refusal, step
        if refusal:
            return
        assert (advance.reallocation is None) == (wanted.reallocation is None)
        if wanted.reallocation is not None:
            assert_same_reallocations(advance.reallocation, wanted.reallocation)
        assert_same_states(advance.state, wanted.state)
        assert_same(advance.values, wanted.values)
        state, values_there, expected, values = advance.state, advance.values, wanted.state, wanted.values


@on_backends
@few
@given(layout=layouts(), strategy=strategies(), sparsity=st.sampled_from([0.0, 0.3, 0.9]), seed=st.integers(0, 3))
def test_every_strategy_starts_as_on_numpy(arrays, layout, strategy, sparsity, seed):
    clock = Clock(steps_per_epoch=5, total_steps=20)
    expected, refusal = attempt(
        lambda: Engine(layout, [strategy], arrays=ORACLE, seed=seed).start(sparsity, clock=clock)
    )
    engine = Engine(layout, [strategy], arrays=arrays, seed=seed)
    state, refusal_there = attempt(lambda: engine.start(sparsity, clock=clock))
    assert refusal_there == refusal
    if not refusal:
        assert_same_states(state, expected)


@on_backends
@few
@given(data=st.data())
def test_vectors_are_carried_as_on_numpy(arrays, data):
    topology = data.draw(topologies())
    values = data.draw(values_of(topology))
    strategy = SparseEvolution(ranking="magnitude")
    oracle = Engine(topology.layout, [strategy], arrays=ORACLE, regrow_pruned=True)
    _, expected = oracle.update(oracle.start_at(topology), values)
    there = Topology.of(topology.layout, arrays.from_numpy(topology.positions), arrays)
    engine = Engine(topology.layout, [strategy], arrays=arrays, regrow_pruned=True)
    _, reallocation = engine.update(engine.start_at(there), arrays.from_numpy(values))
    for slots in (values[::-1].copy(), np.stack([values, -values], axis=1), np.arange(len(values), dtype=np.int8)):
        assert_same(reallocation.carry(arrays.from_numpy(slots)), expected.carry(slots))
    assert reallocation.pruned_count == expected.pruned_count
