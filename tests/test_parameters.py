"""Start values are a function of (seed, tensor, position), so that any of them can be reproduced."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sparsecore.engine.randomness import Randomness
from sparsecore.learning.parameters import Constant, FanInUniform, HeNormal, Parameter, batch_norm, bias

SHAPE = (64, 32, 3, 3)
PLACE = Randomness(1).child("initial values", "conv1")


@given(st.sets(st.integers(0, math.prod(SHAPE) - 1)), st.sets(st.integers(0, math.prod(SHAPE) - 1)))
def test_initial_values_of_inactive_positions_can_be_reproduced_later(first, later):
    one, other = np.array(sorted(first), np.int64), np.array(sorted(first | later), np.int64)
    at_first, at_last = (HeNormal()(SHAPE, positions, PLACE) for positions in (one, other))
    np.testing.assert_array_equal(at_last[np.isin(other, one)], at_first)


@pytest.mark.parametrize(("fan", "variance"), [("out", 2 / (64 * 9)), ("in", 2 / (32 * 9))])
def test_he_normal_values_have_the_variance_of_the_dense_tensors_fan(fan, variance):
    values = HeNormal(fan)(SHAPE, np.arange(math.prod(SHAPE)), PLACE)
    assert stats.kstest(values, "norm", (0, math.sqrt(variance))).pvalue > 1e-3


def test_a_sparse_tensor_has_the_fan_of_the_dense_one():
    few = np.arange(0, math.prod(SHAPE), 97)
    everywhere = HeNormal()(SHAPE, np.arange(math.prod(SHAPE)), PLACE)
    np.testing.assert_array_equal(HeNormal()(SHAPE, few, PLACE), everywhere[few])


def test_a_matrix_has_the_fan_of_its_side():
    values = HeNormal("in")((50, 200), np.arange(10_000), PLACE)
    assert values.std() == pytest.approx(math.sqrt(2 / 200), rel=0.05)


@pytest.mark.parametrize(("shape", "fan"), [((10, 128), 128), ((300, 784), 784), (SHAPE, 32 * 9)])
def test_fan_in_uniform_values_fill_the_bounds_of_a_linear_layer_evenly(shape, fan):
    values = FanInUniform()(shape, np.arange(math.prod(shape)), PLACE)
    bound = 1 / math.sqrt(fan)
    assert -bound <= values.min() < -0.99 * bound
    assert 0.99 * bound < values.max() < bound
    assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert stats.kstest(values, "uniform", (-bound, 2 * bound)).pvalue > 1e-3


def test_fan_in_uniform_values_are_distributed_as_those_of_a_linear_layer_of_torch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = torch.nn.Linear(96, 200).weight.detach().numpy()
    ours = FanInUniform()(theirs.shape, np.arange(theirs.size), PLACE)
    assert stats.ks_2samp(ours, theirs.ravel()).pvalue > 1e-3
    assert abs(theirs).max() == pytest.approx(abs(ours).max(), rel=1e-3)


def test_different_tensors_and_seeds_have_different_values():
    positions = np.arange(1000)
    values = [
        HeNormal()(SHAPE, positions, place)
        for place in (PLACE, Randomness(2).child(*PLACE.path), Randomness(1).child("initial values", "conv2"))
    ]
    assert len({each.tobytes() for each in values}) == 3


def test_an_unknown_fan_is_refused():
    with pytest.raises(ValueError, match="'fan' must be in"):
        HeNormal("both")


@given(st.floats(allow_nan=False), st.integers(0, 20))
def test_constant_initial_values_are_equal_at_every_position(value, count):
    assert Constant(value)((20,), np.arange(count), PLACE).tolist() == [value] * count


def test_a_batch_norm_starts_as_the_identity_and_its_statistics_are_not_trained():
    parameters = {parameter.name: parameter for parameter in batch_norm("norm1", 5)}
    starts = {name: each.initial(each.shape, np.arange(5), PLACE).tolist() for name, each in parameters.items()}
    assert starts == {
        "norm1.scale": [1.0] * 5,
        "norm1.shift": [0.0] * 5,
        "norm1.mean": [0.0] * 5,
        "norm1.variance": [1.0] * 5,
    }
    assert [name for name, each in parameters.items() if not each.trained] == ["norm1.mean", "norm1.variance"]
    assert not any(each.sparse for each in parameters.values())


def test_a_bias_starts_at_zero():
    assert bias("b", 3) == Parameter("b", (3,), Constant(0.0))
