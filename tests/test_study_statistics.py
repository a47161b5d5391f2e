"""Differences of arms: computed by hand, and by a different scipy function."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sparsecore.study.comparison import arm_pairs, mean_difference

SAMPLES = st.lists(st.floats(0, 100).map(lambda x: round(x, 2)), min_size=2, max_size=8)


def test_a_difference_equals_that_computed_by_hand():
    # means 4 and 1, variances 4 and 1 of three each: pooled variance 2.5, its error sqrt(2.5·(1/3 + 1/3)) = sqrt(5/3)
    found = mean_difference([2.0, 4.0, 6.0], [0.0, 1.0, 2.0])
    assert found.of_means == pytest.approx(3)
    assert found.standard_error == pytest.approx(sqrt(5 / 3))
    assert found.in_standard_errors == pytest.approx(3 / sqrt(5 / 3))
    # Welch: t = 3 / sqrt(4/3 + 1/3), with (5/3)² / ((4/3)²/2 + (1/3)²/2) = 50/17 degrees of freedom
    assert found.t == pytest.approx(3 / sqrt(5 / 3))
    assert found.p == pytest.approx(2 * stats.t.sf(3 / sqrt(5 / 3), 50 / 17))
    assert not found.is_significant


def test_with_unequal_sample_sizes_welchs_t_does_not_pool_variances():
    # variances 1 and 16 of three and five: pooled (2·1 + 4·16)/6 = 11, its error sqrt(11·(1/3 + 1/5))
    found = mean_difference([9.0, 10.0, 11.0], [1.0, 1.0, 5.0, 9.0, 9.0])
    assert found.standard_error == pytest.approx(sqrt(11 * (1 / 3 + 1 / 5)))
    assert found.t == pytest.approx(5 / sqrt(1 / 3 + 16 / 5))


@given(SAMPLES, SAMPLES)
def test_welchs_test_equals_scipys_on_the_trials(ours, theirs):
    found = mean_difference(ours, theirs)
    if found is None:
        assert np.ptp(ours) == np.ptp(theirs) == 0
        return
    if min(np.ptp(ours), np.ptp(theirs)) == 0:
        return  # scipy warns of such samples
    expected = stats.ttest_ind(ours, theirs, equal_var=False)
    assert found.t == pytest.approx(expected.statistic, rel=1e-6, abs=1e-9)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)


@given(SAMPLES, SAMPLES)
def test_swapping_the_arms_changes_only_signs(ours, theirs):
    one, other = mean_difference(ours, theirs), mean_difference(theirs, ours)
    assert (one is None) == (other is None)
    if one is not None:
        assert (one.of_means, one.t) == pytest.approx((-other.of_means, -other.t))
        assert (one.standard_error, one.p) == pytest.approx((other.standard_error, other.p))


@pytest.mark.parametrize(("ours", "theirs"), [([1.0], [1.0, 2.0]), ([], [1.0, 2.0]), ([1.0, 1.0], [2.0, 2.0])])
def test_single_trials_or_zero_spread_give_no_test(ours, theirs):
    assert mean_difference(ours, theirs) is None


def test_pairs_list_the_more_accurate_arm_first_and_the_most_significant_difference_first():
    found = arm_pairs({"low": [1.0, 1.1, 0.9], "high": [9.0, 9.1, 8.9], "wide": [2.0, 9.5, 5.0], "single": [5.0]})
    assert [(pair.better, pair.worse) for pair in found] == [("high", "low"), ("wide", "low"), ("high", "wide")]
    assert [pair.difference.is_significant for pair in found] == [True, False, False]
