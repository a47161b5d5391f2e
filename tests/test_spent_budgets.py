"""A budget of weights is spent exactly: at least one weight in each tensor, at most all, else in proportion."""

from fractions import Fraction

import pytest
from engine_examples import TWO_TENSORS, layouts
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.engine.distributions import SHARES, equal_cost_shares, spent
from sparsecore.errors import InputError

COSTS = st.fractions(min_value=Fraction(1, 1000), max_value=1000, max_denominator=1000)


@given(layouts(), st.data(), st.sampled_from([*SHARES, "flops"]))
def test_every_budget_is_spent_exactly_and_within_each_tensor(layout, data, name):
    budget = data.draw(st.integers(len(layout), layout.size))
    costs = data.draw(st.lists(COSTS, min_size=len(layout), max_size=len(layout)))
    wanted = equal_cost_shares(costs) if name == "flops" else SHARES[name](layout)
    counts = spent(budget, layout, wanted)
    assert counts.sum() == budget
    assert all(1 <= count <= size for count, size in zip(counts, layout.sizes, strict=True))
    # where a tensor is neither full nor at its one weight, it has its share within one weight
    free = [i for i, (n, size) in enumerate(zip(counts, layout.sizes, strict=True)) if 1 < n < size]
    for i in free:
        for j in free:
            exact = Fraction(int(counts[j]) * wanted[i], wanted[j])
            assert abs(int(counts[i]) - exact) <= 1 + Fraction(wanted[i], wanted[j])
    if name == "flops":
        for i in free:
            for j in free:
                assert abs(counts[i] * costs[i] - counts[j] * costs[j]) <= costs[i] + costs[j]


@pytest.mark.parametrize("budget", [1, 201, 0, -5, 2.0, True, "10"])
def test_budgets_that_cannot_be_spent_are_refused(budget):
    with pytest.raises(InputError, match="budget"):
        spent(budget, TWO_TENSORS, [1, 1])
