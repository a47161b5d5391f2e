"""Holm's correction, Welch's analysis of variance, intervals and letters: computed by hand, and by other functions."""

from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sparsecore.study.multiple_comparisons import half_width, holm, letters, welch_anova

NAMES = "pqrstuv"
PAIRS = [frozenset(pair) for pair in combinations(NAMES, 2)]


def test_holms_correction_equals_the_one_computed_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04, and the last is at least the one before
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.001, 0.999))
def test_what_is_below_a_level_after_holm_is_what_his_step_down_procedure_rejects(p_values, level):
    rejected = set()
    for p in sorted(p_values):  # one after another, until the first that is not rejected
        if p * (len(p_values) - sum(p_values.count(one) for one in rejected)) >= level:
            break
        rejected.add(p)
    # equal ones are one step here and several there, so that all of them need the level of the first
    assert [corrected < level for corrected in holm(p_values)] == [p in rejected for p in p_values]


def test_welchs_analysis_of_variance_equals_the_one_computed_by_hand():
    # means 2, 4, 9, variances 1, 4, 1, weights 3, 3/4, 3; grand mean 16/3; numerator (3·(10/3)² + 3/4·(4/3)² +
    # 3·(11/3)²)/2 = 75/2; lack (5/9)²/2 + (8/9)²/2 + (5/9)²/2 = 19/27; F = 37.5 / (1 + 2/8·19/27), 8/(3·19/27) df
    found = welch_anova([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [8.0, 9.0, 10.0]])
    assert (found.f, found.between, found.within) == pytest.approx((37.5 / (1 + 19 / 108), 2, 72 / 19))
    assert found.p == pytest.approx(stats.f.sf(37.5 / (1 + 19 / 108), 2, 72 / 19))


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=6), st.lists(st.integers(-50, 50), min_size=2, max_size=6))
def test_of_two_samples_welchs_analysis_of_variance_is_his_t_test(one, other):
    found = welch_anova([one, other])
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert found is None
        return
    t_test = stats.ttest_ind(one, other, equal_var=False)
    assert (found.f, found.p) == pytest.approx((t_test.statistic**2, t_test.pvalue), abs=1e-12)


def test_single_samples_and_single_members_have_no_analysis_of_variance():
    assert welch_anova([[1.0, 2.0]]) is None
    assert welch_anova([[1.0, 2.0], [3.0]]) is None


def test_an_interval_is_that_of_students_t():
    # five numbers of variance 2.5: t = 2.776 of 4 degrees of freedom, times sqrt(2.5/5)
    assert half_width([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2.7764451 * 0.5**0.5)
    low, high = stats.t.interval(0.99, 2, fmean([1, 5, 9]), stats.sem([1, 5, 9]))
    assert half_width([1, 5, 9], 0.99) == pytest.approx((high - low) / 2)
    assert half_width([1.0]) is None


@given(st.sets(st.sampled_from(PAIRS)))
def test_two_names_share_a_letter_exactly_if_they_do_not_differ(different):
    found = letters(NAMES, different)
    for pair in PAIRS:
        one, other = pair
        assert bool(set(found[one]) & set(found[other])) == (pair not in different)
    assert found[NAMES[0]].startswith("a")
    used = {letter for own in found.values() for letter in own}
    members = {letter: {name for name in NAMES if letter in found[name]} for letter in used}
    assert not any(members[one] <= members[other] for one in used for other in used - {one})


def test_names_that_differ_from_all_others_have_letters_of_their_own_in_order():
    assert letters(["best", "same", "worst"], {frozenset(("best", "worst")), frozenset(("same", "worst"))}) == {
        "best": "a",
        "same": "a",
        "worst": "b",
    }
