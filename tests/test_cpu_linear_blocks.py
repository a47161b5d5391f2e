"""Linear layers of whole blocks of 16x32 on matrix tiles: emulated ones everywhere, and AMX where there is some."""

from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import MACHINES, array_of, buffer_of, on
from engine_examples import ARRAYS
from rounded_layers import RoundedLayer, computed

from sparsecore.engine.topology import Layout, from_masks
from sparsecore.engine.units import as_units, unit_map
from sparsecore_cpu import _kernels
from sparsecore_cpu.linear import SparseLinear, linear_kernels, sparsity_pattern
from sparsecore_cpu.runtime import KERNELS, STORED, KernelInput, Runtime, kernel_names

ROWS, COLUMNS = 16, 32


def machines() -> list[Runtime]:
    """Those whose kernels multiply blocks: AVX-512's as well if the processor rounds to bfloat16 itself."""
    found = []
    for name in ("amx", "avx512-amx-emulated", "baseline-amx-emulated"):
        try:
            found.append(on(name, activations=STORED))
        except ValueError:
            continue
    return found


WITH_TILES = machines()
on_each = pytest.mark.parametrize("machine", WITH_TILES, ids=lambda machine: machine.kernels.name)


def blocks_of(rows: int, columns: int, density: float, seed: int = 1) -> Any:
    """Where the weights of a matrix of so many blocks are active, (16 rows, 32 columns); one block at least."""
    active = np.random.default_rng(seed).random((rows, columns)) < density
    active[seed % rows, seed % columns] = True
    return np.kron(active, np.ones((ROWS, COLUMNS), np.bool_))


def uses_blocks(machine: Runtime, layer: RoundedLayer, *, rounded: bool = True) -> bool:
    kernels = linear_kernels(machine.kernels.name, rounded)
    return kernels.multiplies_blocks(sparsity_pattern(layer.shape, layer.positions))


def assert_computed(machine: Runtime, layer: RoundedLayer, threads: int = 1) -> None:
    """What NumPy computes from the rounded numbers in double precision, within 1e-5 of the largest."""
    near = layer.rounded
    outputs, twice, sums, by_weight, single, by_input, alone = computed(machine, layer, threads)
    results = [(outputs, near.outputs), (twice, 2 * near.outputs), (by_weight, near.by_weight)]
    results += [(single, near.by_weight), (by_input, near.by_input), (alone, near.by_input)]
    results += [(sums, np.stack([near.outputs.sum(0), (near.outputs**2).sum(0)], 1))]
    for made, expected in results:
        np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())


def assert_exact(machine: Runtime, layer: RoundedLayer, threads: int = 1) -> None:
    """Whole numbers, to the last digit."""
    whole = layer.integers
    outputs, twice, _, by_weight, single, by_input, alone = computed(machine, whole, threads)
    results = [(outputs, whole.outputs), (twice, 2 * whole.outputs), (by_weight, whole.by_weight)]
    results += [(single, whole.by_weight), (by_input, whole.by_input), (alone, whole.by_input)]
    for made, expected in results:
        np.testing.assert_array_equal(made, expected)


@on_each
def test_batches_of_all_sizes_compute_what_numpy_does_from_rounded_numbers(machine: Runtime) -> None:
    for batch in (1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 48, 63, 64, 96, 97, 100):
        layer = RoundedLayer.of(blocks_of(2, 2, 0.5, batch), batch)
        assert uses_blocks(machine, layer)
        assert_exact(machine, layer)
        assert_computed(machine, layer)


@on_each
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (4, 5)])
def test_blocks_of_any_density_compute_what_numpy_does_from_rounded_numbers(
    machine: Runtime, size: tuple[int, int]
) -> None:
    for density in (0.0, 0.2, 1.0):
        layer = RoundedLayer.of(blocks_of(*size, density), 37)
        assert uses_blocks(machine, layer)
        assert_exact(machine, layer)
        assert_computed(machine, layer)


@on_each
def test_batches_that_are_multiplied_in_several_ranges_compute_what_numpy_does(machine: Runtime) -> None:
    """Of 4224 inputs a cache holds 128 members, and of as many outputs as many members' gradients."""
    for shape in ((1, 132), (264, 1)):
        assert_exact(machine, RoundedLayer.of(blocks_of(*shape, 0.02), 140))


@on_each
def test_blocks_beyond_what_16_bits_count_are_found(machine: Runtime) -> None:
    active = blocks_of(1, 2**16 // COLUMNS + 2, 0.0)
    active[:, 2**16 : 2**16 + COLUMNS] = True
    layer = RoundedLayer.of(active, 3)
    assert uses_blocks(machine, layer)
    assert_exact(machine, layer)


@on_each
def test_results_are_equal_to_the_last_bit_for_every_number_of_threads(machine: Runtime) -> None:
    layer = RoundedLayer.of(blocks_of(6, 5, 0.4), 70)
    alone = computed(machine, layer)
    for threads in (2, 3):
        for one, other in zip(alone, computed(machine, layer, threads), strict=True):
            np.testing.assert_array_equal(one, other)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    rows=st.integers(1, 5),
    columns=st.integers(1, 4),
    batch=st.integers(1, 100),
    density=st.floats(0, 1),
    threads=st.integers(1, 3),
)
def test_any_blocks_and_batch_compute_what_numpy_does(
    seed: int, rows: int, columns: int, batch: int, density: float, threads: int
) -> None:
    layer = RoundedLayer.of(blocks_of(rows, columns, density, seed), batch)
    for machine in WITH_TILES:
        assert_exact(machine, layer, threads)
        assert_computed(machine, layer, threads)


@on_each
def test_biases_are_added_to_the_members_of_the_batch_alone(machine: Runtime) -> None:
    layer = RoundedLayer.of(blocks_of(3, 2, 0.5), 21).integers
    kernels = SparseLinear(machine.kernels, sparsity_pattern(layer.shape, layer.positions), 1, rounded=True)
    bias, out = np.arange(layer.shape[0], dtype=np.float32), buffer_of(machine, layer.gradient)
    assert kernels.forward_biased(KernelInput.plain(buffer_of(machine, layer.x)), layer.values, bias, out, out)
    np.testing.assert_array_equal(array_of(out), layer.outputs + layer.gradient + bias)


def test_units_of_16x32_are_whole_blocks() -> None:
    units = unit_map(Layout.of({"weight": (64, 96)}), as_units("16x32"))
    weights = units.weights(from_masks([np.arange(12).reshape(4, 3) % 3 == 1], ["weight"], ARRAYS))
    active = weights.mask("weight")
    assert active.sum() == 4 * ROWS * COLUMNS
    assert uses_blocks(WITH_TILES[-1], RoundedLayer.of(active, 1))


def shifted(active: Any, *by: int) -> Any:
    """The same blocks, off the grid."""
    return np.roll(active, by, (0, 1))


PARTS = {
    "a weight is missing": lambda active: np.where(np.arange(active.size).reshape(active.shape) == 40, False, active),
    "blocks begin a row later": lambda active: shifted(active, 1, 0),
    "blocks begin a column later": lambda active: shifted(active, 0, 1),
    "outputs are no multiple of 16": lambda active: active[:-1],
    "inputs are no multiple of 32": lambda active: active[:, :-1],
    "rows of a block differ": lambda active: np.concatenate([active[:15], shifted(active[15:16], 0, COLUMNS)]),
    "nothing is active": np.zeros_like,
}


@pytest.mark.parametrize("part", PARTS)
def test_weights_that_are_no_whole_blocks_are_computed_as_before(part: str) -> None:
    active = np.zeros((ROWS, 3 * COLUMNS), np.bool_)
    active[:, COLUMNS : 2 * COLUMNS] = True
    if part in {"blocks begin a row later", "outputs are no multiple of 16"}:
        active = np.concatenate([active, np.zeros_like(active)])
    if part == "a weight is missing":
        active[:, :COLUMNS] = True
    layer = RoundedLayer.of(PARTS[part](active), 5)
    for machine in WITH_TILES:
        assert not uses_blocks(machine, layer)
        assert_exact(machine, layer)


def test_blocks_are_rounded_only_where_images_are_stored_in_bfloat16() -> None:
    layer = RoundedLayer.of(blocks_of(2, 2, 0.5), 5)
    for machine in WITH_TILES:
        assert not uses_blocks(machine, layer, rounded=False)
        assert uses_blocks(machine, layer)


def test_kernels_of_other_names_use_no_tiles() -> None:
    layer = RoundedLayer.of(blocks_of(2, 2, 0.5), 5)
    for machine in MACHINES:
        assert uses_blocks(machine, layer) is (machine.kernels.name == "amx")


def test_emulated_tiles_are_used_by_their_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("emulated" in name for name in [*kernel_names(), _kernels.Kernels().name])
    monkeypatch.setenv(KERNELS, "baseline-amx-emulated")
    assert Runtime.of(1).kernels.name == "baseline-amx-emulated"


@on_each
@pytest.mark.parametrize("tiny", [1e-40, -1e-40])
def test_subnormal_numbers_are_zeros(machine: Runtime, tiny: float) -> None:
    layer = RoundedLayer.of(blocks_of(1, 1, 1.0), 20)
    factors = {"values": (0, 5), "x": (0, 3), "gradient": (3, 5)}  # the results that each is a factor of
    for name, results in factors.items():
        small = attrs.evolve(layer, **{name: np.full_like(getattr(layer, name), tiny)})
        made = computed(machine, small)
        assert not any(made[result].any() for result in results)


@on_each
def test_infinity_and_nan_reach_what_depends_on_them_alone(machine: Runtime) -> None:
    layer = RoundedLayer.of(blocks_of(2, 2, 0.0), 20)  # the last block alone is active
    layer.x[3, -1], layer.x[5, -2] = np.inf, np.nan
    outputs, _, _, by_weight, *_ = computed(machine, layer)
    reached = np.zeros_like(outputs, np.bool_)
    reached[[3, 5], ROWS:] = True
    np.testing.assert_array_equal(~np.isfinite(outputs), reached)
    np.testing.assert_array_equal(np.isnan(outputs[5]), reached[5])
    np.testing.assert_array_equal(np.isfinite(by_weight), layer.positions % (2 * COLUMNS) < 2 * COLUMNS - 2)


def test_a_failed_allocation_in_a_task_raises_memory_error() -> None:
    layer, machine = RoundedLayer.of(blocks_of(3, 3, 1.0), 20), WITH_TILES[-1]
    for after in (0, 1):
        _kernels._fail_scratch(after)
        try:
            with pytest.raises(MemoryError):
                computed(machine, layer, 2)
        finally:
            _kernels._fail_scratch(-1)
    assert_exact(machine, layer, 2)
