"""Attention by the CPU backend's kernel, compared with its definition in double precision."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("sparsecore_cpu._kernels")

from sparsecore_cpu._kernels import attend
from sparsecore_cpu.runtime import kernel_names

AnyArray = NDArray[Any]


def attention(query: AnyArray, key: AnyArray, value: AnyArray, causal: bool, scale: float) -> AnyArray:
    """By one token after another."""
    out = np.zeros((*query.shape[:3], value.shape[3]))
    for place in np.ndindex(query.shape[:3]):
        keys = min(place[2] + 1, key.shape[2]) if causal else key.shape[2]
        scores = scale * (key[place[:2]][:keys] @ query[place])
        weights = np.exp(scores - scores.max())
        out[place] = weights @ value[place[:2]][:keys] / weights.sum()
    return out


def heads(draws: np.random.Generator, examples: int, count: int, tokens: int, features: int) -> NDArray[np.float32]:
    """As a layer computes them for all examples: (heads, features, examples, tokens), and one more column."""
    memory = draws.standard_normal((count, features, examples * tokens + 1)).astype(np.float32)
    return memory[:, :, :-1].reshape(count, features, examples, tokens).transpose(2, 0, 3, 1)


@settings(max_examples=60)
@given(
    kernels=st.sampled_from(kernel_names()),
    examples=st.integers(1, 2),
    count=st.integers(1, 2),
    tokens=st.integers(1, 70),
    keys=st.integers(1, 70),
    features=st.integers(1, 9),
    values=st.integers(1, 9),
    causal=st.booleans(),
    seed=st.integers(0, 99),
)
def test_attention_equals_its_definition_on_any_number_of_threads(
    kernels: str,
    examples: int,
    count: int,
    tokens: int,
    keys: int,
    features: int,
    values: int,
    causal: bool,
    seed: int,
) -> None:
    draws = np.random.default_rng(seed)
    query, key = heads(draws, examples, count, tokens, features), heads(draws, examples, count, keys, features)
    value, scale = heads(draws, examples, count, keys, values), draws.uniform(-3, 3)
    expected = attention(*(one.astype(np.float64) for one in (query, key, value)), causal, np.float32(scale))
    made = []
    for threads in (1, 3):
        out = heads(draws, examples, count, tokens, values)
        around = out.base[..., -1].copy()
        attend(kernels, query, key, value, out, causal, scale, threads)
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(out.base[..., -1], around)
        made.append(out)
    np.testing.assert_array_equal(*made)


def test_attention_of_arrays_that_do_not_fit_together_is_refused() -> None:
    draws = np.random.default_rng(0)
    given: dict[str, Any] = {
        "kernels": "",
        "query": heads(draws, 1, 2, 5, 4),
        "key": heads(draws, 1, 2, 3, 4),
        "value": heads(draws, 1, 2, 3, 6),
        "out": heads(draws, 1, 2, 5, 6),
        "causal": False,
        "scale": 1.0,
        "threads": 1,
    }
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"kernels": "of no processor"}, "no kernels of that name"),
        ({"key": heads(draws, 1, 1, 3, 4)}, "the same examples and heads"),
        ({"value": heads(draws, 2, 2, 3, 6)}, "the same examples and heads"),
        ({"key": heads(draws, 1, 2, 3, 5)}, "the same features"),
        ({"value": heads(draws, 1, 2, 4, 6)}, "as many values as keys"),
        ({"out": heads(draws, 1, 2, 5, 4)}, "outputs are"),
        ({"out": np.zeros((1, 2, 5, 6), np.float32)}, "not behind each other"),
        ({"key": given["query"][:, :, :3].astype(np.float64)}, "float32"),
        ({"value": given["out"][:, :, :3]}, "shares memory"),
    ]
    for change, sentence in wrong:
        with pytest.raises(ValueError, match=sentence):
            attend(**{**given, **change})
