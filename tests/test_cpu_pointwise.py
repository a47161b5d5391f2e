"""Functions of each entry on the CPU backend, and their gradients, are PyTorch's in double precision."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import HALVES, MACHINES, buffer_of, drawn, on, weight_of
from kernel_arguments import KERNELS, LANES, by_channel, images, sums, two_in_one_memory
from kernel_oracle import Example, assert_close, check, direction_for, features, halved, in_kernels, in_torch
from kernel_oracle import images as example_images
from torch.nn import functional

from sparsecore.errors import InputError
from sparsecore_cpu import pointwise
from sparsecore_cpu._kernels import PointwiseFunction
from sparsecore_cpu.runtime import kernel_names

FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[torch.Tensor], torch.Tensor]]] = {
    "relu6": (pointwise.relu6, functional.relu6),
    "leaky_relu": (
        lambda ops, x: pointwise.leaky_relu(ops, x, slope=0.25),
        lambda x: functional.leaky_relu(x, 0.25),
    ),
    "silu": (pointwise.silu, functional.silu),
    "gelu": (pointwise.gelu, functional.gelu),
    "gelu by tanh": (
        lambda ops, x: pointwise.gelu(ops, x, tanh=True),
        lambda x: functional.gelu(x, approximate="tanh"),
    ),
    "hardswish": (pointwise.hardswish, functional.hardswish),
    "hardsigmoid": (pointwise.hardsigmoid, functional.hardsigmoid),
    "sigmoid": (pointwise.sigmoid, torch.sigmoid),
    "tanh": (pointwise.tanh, torch.tanh),
    "elu": (lambda ops, x: pointwise.elu(ops, x, alpha=1.5), lambda x: functional.elu(x, 1.5)),
    "softplus": (lambda ops, x: pointwise.softplus(ops, x, beta=2.0), lambda x: functional.softplus(x, 2.0, 60.0)),
    "mish": (pointwise.mish, functional.mish),
}
SEVERAL_THREADS = 3

each_function = pytest.mark.parametrize("name", FUNCTIONS)
each_machine = pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.kernels.name)
few = settings(max_examples=15)


@each_function
@few
@given(example=example_images() | features(), scale=st.sampled_from([0.001, 1.0, 4.0]))
def test_outputs_and_gradients_equal_torch_s_to_a_few_roundings(name: str, example: Example, scale: float) -> None:
    kernels, reference = FUNCTIONS[name]
    check(kernels, reference, [example.array * np.float32(scale)], border=example.border)


@each_function
@few
@given(example=example_images())
def test_images_in_bfloat16_are_read_exactly_and_rounded_once(name: str, example: Example) -> None:
    kernels, reference = FUNCTIONS[name]
    check(kernels, reference, [halved(example.array)], border=example.border, machines=HALVES, rounding=2**-8)


@each_function
@each_machine
def test_small_and_negative_outputs_keep_their_relative_precision(name: str, machine: Any) -> None:
    kernels, reference = FUNCTIONS[name]
    x = np.concatenate([np.linspace(-8, -4, 1001), np.linspace(-1e-4, 1e-4, 100), 10 ** np.linspace(-20, -4, 100)])
    x = x.astype(np.float32)[:, None]
    output, expected = in_kernels(machine, kernels, [x]).output, in_torch(reference, [x]).output
    # in PyTorch's own double precision, the distribution function loses digits
    if name == "gelu":
        expected = [[one / 2 * math.erfc(-one / math.sqrt(2))] for one in x[:, 0].tolist()]
    if name == "gelu by tanh":
        inner = math.sqrt(8 / math.pi) * (x.astype(float) + 0.044715 * x.astype(float) ** 3)
        expected = x / (1 + np.exp(-inner))
    # of the last one the exponent, here up to 50, is rounded before the exponential function is applied to it
    np.testing.assert_allclose(output, expected, rtol=1e-5 if name == "gelu by tanh" else 5e-7, atol=1e-37)


@each_function
@each_machine
def test_nan_and_infinities_pass_as_in_torch(name: str, machine: Any) -> None:
    kernels, reference = FUNCTIONS[name]
    x = np.array([[np.nan], [np.inf], [-np.inf], [3e38], [-3e38], [100], [-100]], np.float32)
    outcome, expected = in_kernels(machine, kernels, [x]), in_torch(reference, [x])
    np.testing.assert_allclose(outcome.output, expected.output, rtol=1e-6, atol=1e-30)


@each_function
@each_machine
def test_gradients_at_kinks_are_torch_s(name: str, machine: Any) -> None:
    kernels, reference = FUNCTIONS[name]
    x = np.array([[-3], [0], [3], [6], [np.nan]], np.float32)
    given_, expected = in_kernels(machine, kernels, [x]), in_torch(reference, [x])
    np.testing.assert_allclose(given_.gradients[0], expected.gradients[0], rtol=1e-6, atol=1e-7)


@each_function
@few
@given(example=example_images() | features())
def test_batch_norm_and_a_function_of_it_have_torch_s_gradients(name: str, example: Example) -> None:
    kernels, reference = FUNCTIONS[name]
    shape = (max(2, example.shape[0]), *example.shape[1:])
    x, channels = drawn(example.seed, *shape), shape[-1]
    weights = [weight_of(drawn(1, channels) + 2), weight_of(drawn(2, channels))]

    def normalized(ops: Any, x: Any, scale: Any, shift: Any) -> Any:
        statistics = np.zeros(channels, np.float32), np.ones(channels, np.float32)
        return kernels(ops, ops.batch_norm(x, scale, shift, *statistics))

    def normalized_by_torch(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        flat = functional.batch_norm(x.reshape(-1, channels), None, None, scale, shift, training=True)
        return reference(flat.reshape(x.shape))

    kinks = {-3.0, 0.0, 3.0, 6.0}
    whitened = in_torch(
        lambda *given: functional.batch_norm(
            given[0].reshape(-1, channels), None, None, *given[1:], training=True
        ).reshape(shape),
        [x, *(weight.to_array() for weight in weights)],
    ).output
    direction = direction_for(whitened)
    direction[np.min([abs(whitened - kink) for kink in kinks], axis=0) < 1e-3] = 0
    expected = in_torch(normalized_by_torch, [x, *(weight.to_array() for weight in weights)], direction)
    for machine in MACHINES:
        outcome = in_kernels(machine, normalized, [x], weights, direction, example.border)
        # a variance of few, nearly equal numbers enlarges roundings
        assert_close(outcome, expected, 1e-5 if x.size // channels > 8 else 1e-3)


@each_function
def test_a_sum_with_the_input_is_one_pass_and_both_gradients_are_added(name: str) -> None:
    kernels, reference = FUNCTIONS[name]
    x = drawn(0, 17, 3, 4, 5)
    check(lambda ops, x: ops.add(x, kernels(ops, x)), lambda x: x + reference(x), [x])
    check(lambda ops, x: ops.add(kernels(ops, x), kernels(ops, x)), lambda x: 2 * reference(x), [x])
    check(lambda ops, x: kernels(ops, kernels(ops, x)), lambda x: reference(reference(x)), [x], rounding=2e-6)


@each_function
@pytest.mark.parametrize("kernels_name", kernel_names())
@pytest.mark.parametrize("shape", [(40, 33, 5, 19), (150, 37)])
def test_every_number_of_threads_computes_the_same_bits(name: str, kernels_name: str, shape: tuple[int, ...]) -> None:
    kernels, channels = FUNCTIONS[name][0], shape[-1]
    weights = [weight_of(drawn(1, channels)), weight_of(drawn(2, channels))]

    def normalized(ops: Any, x: Any, scale: Any, shift: Any) -> Any:
        statistics = np.zeros(channels, np.float32), np.ones(channels, np.float32)
        return kernels(ops, ops.batch_norm(x, scale, shift, *statistics))

    one, several = (
        in_kernels(on(kernels_name, threads), normalized, [drawn(0, *shape)], weights)
        for threads in (1, SEVERAL_THREADS)
    )
    np.testing.assert_array_equal(one.output, several.output)
    for gradient, other in zip(one.gradients, several.gradients, strict=True):
        np.testing.assert_array_equal(gradient, other)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_parameters_that_are_not_finite_are_refused(value: float) -> None:
    x: Any = None
    for function in (
        lambda: pointwise.leaky_relu(x, x, slope=value),
        lambda: pointwise.elu(x, x, alpha=value),
        lambda: pointwise.softplus(x, x, beta=value),
    ):
        with pytest.raises(InputError, match=str(value)):
            function()


def test_softplus_refuses_a_beta_of_zero() -> None:
    x: Any = None
    with pytest.raises(InputError, match=r"positive; given 0\.0"):
        pointwise.softplus(x, x, beta=0.0)


def forward(**options: Any) -> None:
    """A call of the kernel."""
    given_ = {"function": PointwiseFunction.SILU, "parameter": 0.0, "x": images(), "out": images(), "add": None}
    KERNELS.pointwise(**given_ | {"scale": by_channel(), "shift": by_channel(), "threads": 1} | options)


def backward(**options: Any) -> None:
    """A call of the gradient's kernel."""
    given_ = {"function": PointwiseFunction.SILU, "parameter": 0.0, "gradient": images(), "x": images()}
    given_ |= {"out": images(), "add": None, "scale": by_channel(), "shift": by_channel(), "mean": by_channel()}
    KERNELS.pointwise_backward(**given_ | {"sums": sums(), "threads": 1} | options)


@pytest.mark.parametrize("call", [forward, backward])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": images(width=6)}, "one shape"),
        ({"x": images(border=2)}, "one shape"),
        ({"out": images(count=2)}, "batches of one size"),
        ({"add": images(height=5)}, "one shape"),
        ({"scale": by_channel(1)}, "one entry"),
        ({"shift": by_channel(3)}, "one entry"),
        ({"threads": 0}, "from 1 to"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else given,
)
def test_arguments_that_do_not_fit_are_refused(call: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(**options)


def test_sums_and_means_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sums are \(channels, 2\)"):
        backward(sums=sums(3))
    with pytest.raises(ValueError, match="one entry"):
        backward(mean=by_channel(1))
    with pytest.raises(ValueError, match="one shape"):
        backward(gradient=images(width=6))


def test_a_number_that_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError):
        forward(function=99)


def test_outputs_that_overlap_inputs_are_refused_unless_they_are_the_same() -> None:
    one, other = two_in_one_memory()
    for call in (
        lambda: forward(x=one, out=other),
        lambda: forward(add=one, out=other),
        lambda: backward(gradient=one, out=other),
        lambda: backward(x=one, out=other),
    ):
        with pytest.raises(ValueError, match="share"):
            call()
    x = buffer_of(on(KERNELS.name), drawn(0, LANES, 4, 5, 2)).handle
    forward(x=x, out=x, add=x)
    backward(x=x, out=x, add=x, gradient=x)
