"""Attention by the CPU backend's kernel, compared with its definition in double precision."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("sparsecore_cpu._kernels")

from sparsecore_cpu._kernels import attend, attend_in_training, attention_gradients
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


def tokens(draws: np.random.Generator, examples: int, count: int, length: int, features: int) -> NDArray[np.float32]:
    """As torch has heads: (examples, tokens, heads, features), and one more number in each."""
    memory = draws.standard_normal((examples, length, count, features + 1)).astype(np.float32)
    return memory[..., :-1].transpose(0, 2, 1, 3)


def gradients(
    query: AnyArray, key: AnyArray, value: AnyArray, gradient: AnyArray, causal: bool, scale: float
) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Of queries, keys and values, by the derivative of the softmax of each query."""
    of_query, of_key, of_value = (np.zeros(one.shape) for one in (query, key, value))
    for place in np.ndindex(query.shape[:3]):
        head, keys = place[:2], min(place[2] + 1, key.shape[2]) if causal else key.shape[2]
        scores = scale * (key[head][:keys] @ query[place])
        weights = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        jacobian = np.diag(weights) - np.outer(weights, weights)
        of_scores = jacobian @ (value[head][:keys] @ gradient[place])
        of_query[place] = scale * of_scores @ key[head][:keys]
        of_key[head][:keys] += scale * np.outer(of_scores, query[place])
        of_value[head][:keys] += np.outer(weights, gradient[place])
    return of_query, of_key, of_value


@given(
    kernels=st.sampled_from(kernel_names()),
    examples=st.integers(1, 2),
    count=st.integers(1, 2),
    lengths=st.tuples(st.integers(1, 140), st.integers(1, 140)),
    features=st.integers(1, 70),
    causal=st.booleans(),
    seed=st.integers(0, 99),
)
def test_attention_in_training_and_its_gradients_equal_their_definition_on_any_number_of_threads(
    kernels: str, examples: int, count: int, lengths: tuple[int, int], features: int, causal: bool, seed: int
) -> None:
    draws = np.random.default_rng(seed)
    query, gradient = (tokens(draws, examples, count, lengths[0], features) for _ in range(2))
    key, value = (tokens(draws, examples, count, lengths[1], features) for _ in range(2))
    scale = float(np.float32(draws.uniform(-2, 2) / np.sqrt(features)))
    exact = [one.astype(np.float64) for one in (query, key, value, gradient)]
    expected = [attention(*exact[:3], causal, scale), *gradients(*exact, causal, scale)]
    made: list[list[AnyArray]] = []
    for threads in (1, 3):
        out, *of_given = (tokens(draws, *one.shape) for one in (query, query, key, value))
        around = [one.base[..., -1].copy() for one in (out, *of_given)]
        sums = np.full(query.shape[:3], np.nan, np.float32)
        attend_in_training(kernels, query, key, value, out, sums, causal, scale, threads)
        attention_gradients(kernels, query, key, value, out, sums, gradient, *of_given, causal, scale, threads)
        for found, wanted in zip((out, *of_given), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5 * max(1, np.abs(wanted).max()))
        for found, before in zip((out, *of_given), around, strict=True):
            np.testing.assert_array_equal(found.base[..., -1], before)
        made.append([out, sums, *of_given])
    for one, other in zip(*made, strict=True):
        np.testing.assert_array_equal(one, other)


def test_attention_in_training_of_arrays_that_do_not_fit_together_is_refused() -> None:
    draws = np.random.default_rng(0)
    named = {
        name: tokens(draws, 1, 2, 3 if name in {"key", "value"} else 5, 4) for name in ("query", "key", "value", "out")
    }
    given: dict[str, Any] = {"kernels": "", **named, "log_sums": np.zeros((1, 2, 5), np.float32)}
    more = {"causal": True, "scale": 1.0, "threads": 1}
    of_given = {f"{name}_gradient": tokens(draws, *named[name].shape) for name in ("query", "key", "value")}
    forward: list[tuple[dict[str, Any], str]] = [
        ({"kernels": "of no processor"}, "no kernels of that name"),
        ({"value": tokens(draws, 1, 2, 4, 4)}, "the shape of keys"),
        ({"out": tokens(draws, 1, 2, 5, 3)}, "the shape of queries"),
        (
            {"key": tokens(draws, 1, 1, 3, 4), "value": tokens(draws, 1, 1, 3, 4)},
            "the same examples, heads and features",
        ),
        ({name: tokens(draws, *one.shape[:3], 0) for name, one in named.items()}, "no feature"),
        ({"log_sums": np.zeros((1, 2, 4), np.float32)}, "logarithms"),
        ({"query": heads(draws, 1, 2, 5, 4)}, "not behind each other"),
        ({"out": named["query"]}, "shares memory"),
    ]
    for change, sentence in forward:
        with pytest.raises(ValueError, match=sentence):
            attend_in_training(**{**given, **more, **change})
    backward: list[tuple[dict[str, Any], str]] = [
        *forward[:-1],
        ({"gradient": tokens(draws, 1, 2, 4, 4)}, "the shape of outputs"),
        *(({name: tokens(draws, 1, 2, 2, 4)}, "has their shape") for name in of_given),
        ({"key_gradient": of_given["value_gradient"]}, "shares memory"),
        ({"query_gradient": named["out"]}, "shares memory"),
    ]
    for change, sentence in backward:
        with pytest.raises(ValueError, match=sentence):
            attention_gradients(**{**given, "gradient": tokens(draws, 1, 2, 5, 4), **of_given, **more, **change})
