"""Sparse linear layers on the CPU backend's kernels: what NumPy computes in double precision, for any batch."""

from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import MACHINES, array_of, buffer_of, drawn
from linear_definition import LinearDefinition

from sparsecore_cpu._kernels import LinearKernels, SparsityPattern
from sparsecore_cpu.linear import SparseLinear
from sparsecore_cpu.runtime import Form, KernelInput, Runtime

Floats = NDArray[np.float64]
SEGMENT = 2**16
"""Columns are counted from the last multiple of this on."""
on_each = pytest.mark.parametrize("machine", MACHINES, ids=[machine.kernels.name for machine in MACHINES])

BATCHES = {
    "one vector": lambda lanes: 1,  # noqa: ARG005
    "two vectors": lambda lanes: 2,  # noqa: ARG005
    "a lane less than full": lambda lanes: lanes - 1,
    "full lanes": lambda lanes: lanes,
    "a hundred": lambda lanes: 100,  # noqa: ARG005
    "a thousand": lambda lanes: 1000,  # noqa: ARG005
    "many, and three more": lambda lanes: 2048 + 3,  # noqa: ARG005
}


@attrs.frozen(eq=False)
class Case(LinearDefinition):
    """A sparse matrix, inputs, gradients of outputs, and what is added to the outputs and to the inputs' gradients."""

    positions: NDArray[np.int64]
    values: NDArray[np.float32]
    shape: tuple[int, int]
    x: NDArray[np.float32]
    gradient: NDArray[np.float32]
    start: NDArray[np.float32]
    behind: NDArray[np.float32]
    bias: NDArray[np.float32]

    @classmethod
    def of(cls, seed: int, outputs: int, inputs: int, batch: int, density: float) -> "Case":
        rng = np.random.default_rng(seed)
        positions = np.flatnonzero(rng.random(outputs * inputs) < density)
        sides = (inputs, outputs, outputs, inputs)
        return cls(
            positions,
            drawn(seed, len(positions)),
            (outputs, inputs),
            *(drawn(seed + number, batch, side) for number, side in enumerate(sides)),
            drawn(seed + len(sides), outputs),
        )


@attrs.frozen(eq=False)
class Computed:
    """All results of the kernels; where several calls compute the same, in the order of the calls."""

    outputs: list[Any]
    sums: Any
    by_weight: list[Any]
    by_input: list[Any]
    added: list[Any]
    biased: list[Any]

    @property
    def arrays(self) -> list[Any]:
        return [*self.outputs, self.sums, *self.by_weight, *self.by_input, *self.added, *self.biased]


def computed(machine: Runtime, case: Case, threads: int = 1) -> Computed:
    outputs, inputs = case.shape
    layer = SparseLinear(machine.kernels, SparsityPattern(case.positions, outputs, inputs), threads)
    x, gradient, start, behind = (buffer_of(machine, a) for a in (case.x, case.gradient, case.start, case.behind))
    read, given = KernelInput.plain(x), KernelInput.plain(gradient)

    def made(features: int) -> Any:
        buffer = machine.buffers.take(Form.of_features(len(case.x), features))
        buffer.array[...] = np.nan
        return buffer

    out, sums = made(outputs), np.full((outputs, 2), 5.0)
    layer.forward(read, case.values, out, sums=sums)
    added = made(outputs)
    layer.forward(read, case.values, added, add=start)
    biased = [made(outputs), made(outputs)]
    for one, more in zip(biased, (None, start), strict=True):
        assert layer.forward_biased(read, case.values, case.bias, one, more)
        assert not one.array.reshape(outputs, -1)[:, len(case.x) :].any()
    single, both, behind_single, behind_both = (made(inputs) for _ in range(4))
    layer.backward_input(given, case.values, single)
    layer.backward_input(given, case.values, behind_single, add=behind)
    by_weight = [layer.backward_weight(read, given), layer.backward(read, given, case.values, both)[0]]
    by_weight.append(layer.backward(read, given, case.values, behind_both, add=behind)[0])
    layer.backward_input(given, case.values, behind, add=behind)
    layer.forward(read, case.values, start, add=start)
    return Computed(
        [array_of(out)],
        sums - 5,
        by_weight,
        [array_of(single), array_of(both)],
        [array_of(one) for one in (added, start, behind_single, behind_both, behind)],
        [array_of(one) for one in biased],
    )


def assert_near(given: Any, expected: Any, terms: int) -> None:
    """Within the rounding of sums of so many products of numbers of about 1."""
    assert given.shape == expected.shape
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=2e-6 * max(terms, 1) ** 0.5 * 4)


def assert_right(made: Computed, case: Case) -> None:
    outputs, inputs = case.shape
    assert_near(made.outputs[0], case.outputs, inputs)
    squares = [case.outputs.sum(0), (case.outputs**2).sum(0)]
    np.testing.assert_allclose(made.sums, np.stack(squares, 1), rtol=1e-4, atol=1e-4 * (1 + len(case.x)))
    for by_weight in made.by_weight:
        assert_near(by_weight, case.by_weight, len(case.x))
    for by_input in made.by_input:
        assert_near(by_input, case.by_input, outputs)
    sums = [case.outputs + case.start] * 2 + [case.by_input + case.behind] * 3
    for added, expected in zip(made.added, sums, strict=True):
        assert_near(added, expected, max(outputs, inputs))
    for biased, start in zip(made.biased, (0, case.start), strict=True):
        assert_near(biased, case.outputs + start + case.bias, inputs)


@on_each
@pytest.mark.parametrize("density", [0.0, 0.003, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (10, 7), (300, 130), (130, 300)])
def test_all_densities_compute_what_numpy_does(machine: Runtime, shape: tuple[int, int], density: float) -> None:
    case = Case.of(3, *shape, 100, density)
    assert_right(computed(machine, case), case)


@on_each
@pytest.mark.parametrize("batch", BATCHES)
def test_batches_of_all_sizes_compute_what_numpy_does(machine: Runtime, batch: str) -> None:
    case = Case.of(4, 70, 150, BATCHES[batch](machine.kernels.lanes), 0.1)
    assert_right(computed(machine, case), case)


@on_each
@pytest.mark.parametrize("vectors", range(1, 30))
def test_batches_of_every_number_of_vectors_compute_what_numpy_does(machine: Runtime, vectors: int) -> None:
    case = Case.of(vectors, 20, 90, vectors * machine.kernels.lanes - 1, 0.2)
    assert_right(computed(machine, case), case)


@on_each
def test_matrices_wider_and_higher_than_16_bits_count_compute_what_numpy_does(machine: Runtime) -> None:
    for *shape, threads in ((3, 2**17 + 5, 1), (2**17 + 5, 3, 5), (2, 2**16, 1), (2**16, 2, 1)):
        case = Case.of(5, *shape, 3, 0.001)
        assert_right(computed(machine, case, threads), case)


@on_each
@pytest.mark.parametrize("batch", [3, 2100])
@pytest.mark.parametrize("every", [1, 2])
def test_rows_that_lie_a_multiple_of_a_kilobyte_apart_compute_what_numpy_does(
    machine: Runtime, every: int, batch: int
) -> None:
    """The kernels copy such weights, as those of different rows would collide in the cache."""
    outputs, inputs = 150, 256 * every
    positions = np.arange(0, outputs * inputs, every)
    case = attrs.evolve(Case.of(10, outputs, inputs, batch, 0.0), positions=positions, values=drawn(10, len(positions)))
    assert_right(computed(machine, case), case)


def test_gaps_of_more_columns_than_16_bits_count_are_no_weights() -> None:
    shape, positions = (4, 3 * 2**16), np.array([0, 2**16 - 1, 5 * 2**16 + 7, 9 * 2**16 - 1, 11 * 2**16], np.int64)
    case = attrs.evolve(Case.of(6, *shape, 2, 0.0), positions=positions, values=drawn(6, 5))
    for machine in MACHINES:
        assert_right(computed(machine, case), case)


@on_each
@pytest.mark.parametrize("batch", [1, 40, 100, 1700])
@pytest.mark.parametrize("density", [0.02, 0.3])
def test_results_are_equal_to_the_last_bit_for_every_number_of_threads(
    machine: Runtime, batch: int, density: float
) -> None:
    case = Case.of(7, 500, 700, batch, density)
    alone = computed(machine, case)
    for threads in (2, 3, 4):
        for one, other in zip(alone.arrays, computed(machine, case, threads).arrays, strict=True):
            np.testing.assert_array_equal(one, other)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    outputs=st.integers(1, 90),
    inputs=st.integers(1, 90),
    batch=st.integers(1, 130),
    density=st.floats(0, 1),
    threads=st.integers(1, 3),
)
def test_any_matrix_and_batch_computes_what_numpy_does(
    seed: int, outputs: int, inputs: int, batch: int, density: float, threads: int
) -> None:
    case = Case.of(seed, outputs, inputs, batch, density)
    for machine in MACHINES:
        assert_right(computed(machine, case, threads), case)


def test_a_pattern_takes_about_five_bytes_a_weight() -> None:
    case = Case.of(8, 1000, 1200, 100, 0.1)
    pattern = SparsityPattern(case.positions, *case.shape)
    before = sum(array.nbytes for array in pattern.arrays)
    assert before <= 2.2 * len(case.positions)
    machine = MACHINES[0]
    layer = SparseLinear(machine.kernels, pattern, 1)
    x, gradient, out = (buffer_of(machine, array) for array in (case.x, case.gradient, case.behind))
    layer.backward(KernelInput.plain(x), KernelInput.plain(gradient), case.values, out)
    assert before < sum(array.nbytes for array in pattern.arrays) <= 6 * len(case.positions)


def test_a_pattern_ignores_later_changes_of_its_positions() -> None:
    case = Case.of(9, 30, 40, 10, 0.3)
    positions = case.positions.copy()
    pattern = SparsityPattern(positions, *case.shape)
    positions[:] = -1
    machine = MACHINES[0]
    out = buffer_of(machine, case.start)
    layer = SparseLinear(machine.kernels, pattern, 1)
    layer.forward(KernelInput.plain(buffer_of(machine, case.x)), case.values, out)
    assert_near(array_of(out), case.outputs, 40)
    assert all(not array.flags.writeable for array in pattern.arrays)
    assert LinearKernels(machine.kernels.name)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize(
    ("shape", "density"),
    [((700, 600), 0.5), ((3, 140_000), 0.4), ((2, 65_536), 1.0), ((200_000, 3), 0.3), ((70_000, 5), 0.0001)],
    ids=["many rows", "three segments", "full segments", "narrow", "hardly any"],
)
def test_a_pattern_of_many_weights_is_that_of_its_positions_whatever_the_threads(
    shape: tuple[int, int], density: float, dtype: type
) -> None:
    active = np.random.default_rng(0).random(shape) < density
    active[len(active) // 3 : len(active) // 2] = False  # rows without weights
    rows, columns = np.nonzero(active)
    # where the weights of each row start in each segment, and behind the last segment where they end
    borders = [*range(0, shape[1], SEGMENT), shape[1]]
    first = np.arange(shape[0]) * shape[1]
    starts = [np.searchsorted(np.flatnonzero(active), first + border) for border in borders]
    for threads in (1, 2, 3):
        pattern = SparsityPattern(np.flatnonzero(active).astype(dtype), *shape, threads)
        assert pattern.count == len(rows)
        np.testing.assert_array_equal(pattern.arrays[0], columns % SEGMENT)
        np.testing.assert_array_equal(pattern.arrays[1], np.ravel(starts))


@pytest.mark.parametrize("wrong", [32_767, 32_768, 65_535, 65_536, 80_000])
def test_positions_that_do_not_ascend_are_refused_wherever_they_are(wrong: int) -> None:
    positions = np.arange(90_000)
    for other in (positions[wrong] - 1, positions[wrong] + 1, -1, 90_000, 2**40):
        given = positions.copy()
        given[wrong] = other
        for threads in (1, 3):
            with pytest.raises(ValueError, match="do not ascend within the matrix"):
                SparsityPattern(given, 300, 300, threads)
