"""How many weights each tensor starts with."""

from decimal import ROUND_FLOOR, Decimal
from math import prod

import numpy as np
import pytest
from engine_examples import layouts
from hypothesis import assume, example, given
from hypothesis import strategies as st

from sparsecore.engine.distributions import DISTRIBUTIONS, distribution, erdos_renyi, erdos_renyi_kernel, uniform
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError
from sparsecore_models.wrn import WideResNet

SPARSITIES = st.integers(0, 999).map(lambda thousandths: float(f"0.{thousandths:03d}"))
WIDE = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 300), st.integers(1, 300)),
        st.tuples(st.integers(1, 64), st.integers(1, 64), st.just(3), st.just(3)),
    ),
    min_size=1,
    max_size=8,
).map(lambda shapes: Layout([f"tensor{i}" for i in range(len(shapes))], shapes))
# here one weight for the smallest would take the only one of the next larger
CASCADE = Layout.of({"a": (24, 7), "b": (28, 30), "c": (13, 7), "d": (11, 6)})


def wrn_layout():
    parameters = WideResNet(28, 2).parameters((32, 32, 3), 10)
    return Layout.of({parameter.name: parameter.shape for parameter in parameters if parameter.sparse})


@given(layouts() | WIDE, SPARSITIES)
def test_uniform_counts_are_rounded_down_in_exact_decimals(layout, sparsity):
    for count, size in zip(uniform(layout, sparsity), layout.sizes, strict=True):
        exact = (1 - Decimal(str(sparsity))) * size
        assert count == max(1, int(exact.to_integral_value(ROUND_FLOOR)))


@pytest.mark.parametrize(
    ("sparsity", "count"), [(0.9, 100), (0.8, 200), (0.7, 300), (0.6, 400), (0.999, 1), (0.0, 1000)]
)
def test_sparsity_0_9_of_1000_weights_leaves_100(sparsity, count):
    assert uniform(Layout.of({"w": (1000,)}), sparsity).tolist() == [count]


def test_wide_resnet_28_2_has_the_papers_sparse_and_dense_parameters():
    layout = wrn_layout()
    assert len(layout) == 24
    assert layout.size == 1_451_520
    dense = [p for p in WideResNet(28, 2).parameters((32, 32, 3), 10) if not p.sparse and p.trained]
    assert sum(prod(p.shape) for p in dense) == 16_090


@pytest.mark.parametrize(
    ("sparsity", "weights"), [(0.9, 145_139), (0.8, 290_294), (0.7, 435_442), (0.6, 580_597), (0.5, 725_760)]
)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_wide_resnet_28_2_has_the_papers_number_of_weights(name, sparsity, weights):
    assert distribution(name)(wrn_layout(), sparsity).sum() == weights


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@given(layouts() | WIDE, SPARSITIES)
@example(CASCADE, 0.999)
def test_every_distribution_spends_the_same_budget_and_leaves_no_tensor_empty_or_overfull(name, layout, sparsity):
    counts = distribution(name)(layout, sparsity)
    assert counts.dtype == np.int64
    assert counts.sum() == uniform(layout, sparsity).sum()
    assert (counts >= 1).all()
    assert (counts <= layout.sizes).all()


def capped_densities(budget, sizes, raw):
    """The fixed point as RigL's authors compute it: tensors of a density above 1 are full, the others scale."""
    full = set()
    while True:
        rest = budget - sum(sizes[i] for i in full)
        unit = sum(raw[i] * sizes[i] for i in range(len(sizes)) if i not in full)
        scale = rest / unit if unit else 0.0
        over = {i for i in range(len(sizes)) if i not in full and scale * raw[i] > 1}
        if not over:
            return [1.0 if i in full else scale * raw[i] for i in range(len(sizes))]
        full |= over


RAW = {
    "er": lambda shape: (shape[0] + shape[1]) / (shape[0] * shape[1]),
    "erk": lambda shape: sum(shape) / prod(shape),
}


@pytest.mark.parametrize("name", RAW)
@given(WIDE, SPARSITIES)
def test_er_and_erk_have_the_papers_densities_within_rounding(name, layout, sparsity):
    budget = int(uniform(layout, sparsity).sum())
    densities = capped_densities(budget, layout.sizes, [RAW[name](shape) for shape in layout.shapes])
    wanted = np.multiply(densities, layout.sizes)
    assume((wanted >= 1).all())  # else some are lifted to one weight at the cost of the others
    assert (abs(distribution(name)(layout, sparsity) - wanted) < 1 + 1e-6).all()


def test_erk_on_wide_resnet_28_2_equals_the_fixed_point():
    layout = wrn_layout()
    densities = capped_densities(145_139, layout.sizes, [RAW["erk"](shape) for shape in layout.shapes])
    assert (abs(erdos_renyi_kernel(layout, 0.9) - np.multiply(densities, layout.sizes)) < 1).all()
    assert densities[0] > 3 * densities[-1]


def test_er_ignores_kernel_size_and_erk_uses_it():
    layout = Layout.of({"matrix": (90, 90), "kernels": (30, 30, 3, 3)})
    # per position ER gives (90+90)/(90·90) and (30+30)/(30·30), a ratio of 1 to 3
    assert erdos_renyi(layout, 0.9).tolist() == [405, 1215]
    # ERK gives (90+90)/8100 and (30+30+3+3)/8100
    assert erdos_renyi_kernel(layout, 0.9).tolist() == [1185, 435]


@pytest.mark.parametrize("sparsity", [1.0, 1.5, -0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_sparsity_outside_of_zero_to_one_is_refused_with_a_sentence(name, sparsity):
    with pytest.raises(InputError, match=rf"\[0, 1\).*given {sparsity}"):
        distribution(name)(CASCADE, sparsity)


def test_an_unknown_distribution_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"'erq'; known: er, erk, uniform"):
        distribution("erq")
