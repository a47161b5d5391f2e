"""Layer norm, RMS norm and group norm on the CPU backend, and their gradients, are PyTorch's in double precision."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import HALVES, MACHINES, buffer_of, drawn, on, weight_of
from kernel_arguments import KERNELS, LANES, by_channel, features, images, sums, two_in_one_memory
from kernel_oracle import Example, assert_close, check, halved, in_kernels, in_torch
from kernel_oracle import features as example_features
from kernel_oracle import images as example_images

from sparsecore.errors import InputError
from sparsecore.host.computation import Tape
from sparsecore_cpu import normalization
from sparsecore_cpu.activations import Activation, InputNode
from sparsecore_cpu.batch_norm import of_batch
from sparsecore_cpu.operations import CpuOperations
from sparsecore_cpu.runtime import kernel_names
from sparsecore_cpu.weighted import ListCache

few = settings(max_examples=40)
each_machine = pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.kernels.name)
EPSILON = 1e-2  # normalizing few, nearly equal numbers would enlarge their roundings


def layer_norm(ops: Any, x: Any, *parameters: Any) -> Any:
    return normalization.layer_norm(ops, x, *parameters, epsilon=EPSILON)


def layer_norm_by_torch(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(x, x.shape[-1:], *parameters, eps=EPSILON)


def rms_norm(ops: Any, x: Any, *parameters: Any) -> Any:
    return normalization.rms_norm(ops, x, *parameters, epsilon=EPSILON)


def rms_norm_by_torch(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
    return functional.rms_norm(x, x.shape[-1:], *parameters, eps=EPSILON)


def group_norm_by_torch(x: torch.Tensor, groups: int, *parameters: torch.Tensor) -> torch.Tensor:
    return torch.group_norm(x.movedim(-1, 1), groups, *parameters, eps=EPSILON).movedim(1, -1)


def parameters_of(channels: int, count: int) -> list[Any]:
    """Scale, and shift, for so many channels."""
    return [weight_of(drawn(seed, channels)) for seed in range(1, count + 1)]


@few
@given(example=example_images() | example_features(most_channels=150), parameters=st.integers(0, 2))
def test_layer_norm_and_its_parameters_gradients_are_torch_s(example: Example, parameters: int) -> None:
    weights = parameters_of(example.shape[-1], parameters)
    check(layer_norm, layer_norm_by_torch, [example.array], weights, border=example.border, rounding=1e-5)


@few
@given(example=example_images() | example_features(most_channels=150), parameters=st.integers(0, 1))
def test_rms_norm_and_its_parameter_s_gradient_are_torch_s(example: Example, parameters: int) -> None:
    weights = parameters_of(example.shape[-1], parameters)
    check(rms_norm, rms_norm_by_torch, [example.array], weights, border=example.border, rounding=1e-5)


@few
@given(
    example=example_images(most_channels=4) | example_features(most_channels=10),
    groups=st.integers(1, 5),
    parameters=st.integers(0, 2),
)
def test_group_norm_and_its_parameters_gradients_are_torch_s(example: Example, groups: int, parameters: int) -> None:
    shape = (*example.shape[:-1], example.shape[-1] * groups)
    check(
        lambda ops, x, *weights: normalization.group_norm(ops, x, groups, *weights, epsilon=EPSILON),
        lambda x, *weights: group_norm_by_torch(x, groups, *weights),
        [drawn(example.seed, *shape)],
        parameters_of(shape[-1], parameters),
        border=example.border,
        rounding=1e-5,
    )


@few
@given(example=example_images(most_channels=4))
def test_images_in_bfloat16_are_normalized_in_single_precision_and_rounded_once(example: Example) -> None:
    x = halved(example.array)
    options: dict[str, Any] = {"border": example.border, "machines": HALVES, "rounding": 2**-7}
    weights = parameters_of(x.shape[-1], 2)
    check(layer_norm, layer_norm_by_torch, [x], weights, **options)
    check(
        lambda ops, x, *weights: normalization.group_norm(ops, x, 1, *weights, epsilon=EPSILON),
        lambda x, *weights: group_norm_by_torch(x, 1, *weights),
        [x],
        weights,
        **options,
    )


def test_gradients_are_added_to_those_of_other_consumers() -> None:
    x, weights = drawn(0, 33, 24), parameters_of(24, 2)
    check(
        lambda ops, x, *weights: ops.add(x, layer_norm(ops, x, *weights)),
        lambda x, *weights: x + layer_norm_by_torch(x, *weights),
        [x],
        weights,
        rounding=1e-5,
    )
    pixels = drawn(0, 33, 3, 4, 24)
    check(
        lambda ops, x, *weights: ops.add(x, normalization.group_norm(ops, x, 3, *weights, epsilon=EPSILON)),
        lambda x, *weights: x + group_norm_by_torch(x, 3, *weights),
        [pixels],
        weights,
        rounding=1e-5,
    )


@each_machine
@pytest.mark.parametrize("channels", [768, 4099])
def test_many_features_far_from_zero_lose_no_digits_but_those_of_the_input(machine: Any, channels: int) -> None:
    x = drawn(0, 19, channels) + 100
    x[:, 0] = -5000  # a first entry unlike the others
    weights = parameters_of(channels, 2)
    expected = in_torch(layer_norm_by_torch, [x, *(weight.to_array() for weight in weights)])
    # single precision knows 100 to 4e-6, and the deviation of the inputs is more than 70
    assert_close(in_kernels(machine, layer_norm, [x], weights), expected, 1e-5)
    x = drawn(0, 19, channels) + 1000
    expected = in_torch(layer_norm_by_torch, [x, *(weight.to_array() for weight in weights)])
    outcome = in_kernels(machine, layer_norm, [x], weights)
    # single precision knows the mean, 1000, to 3e-5 of the deviation
    np.testing.assert_allclose(outcome.output, expected.output, atol=4 * 4e-5)


@each_machine
def test_constant_vectors_become_the_shift(machine: Any) -> None:
    x, weights = np.full((19, 37), 7.25, np.float32), parameters_of(37, 2)
    outcome = in_kernels(machine, normalization.layer_norm, [x], weights)
    np.testing.assert_array_equal(outcome.output, np.broadcast_to(weights[1].values, x.shape))
    assert all(np.isfinite(gradient).all() for gradient in outcome.gradients)


@each_machine
def test_without_epsilon_unused_lanes_stay_zero(machine: Any) -> None:
    x = drawn(0, 5, 2, 3, 8)
    for function in (normalization.layer_norm, normalization.rms_norm):
        outcome = in_kernels(machine, lambda ops, x, function=function: function(ops, x, epsilon=0.0), [x])
        assert np.isfinite(outcome.output).all()
        assert np.isfinite(outcome.gradients[0]).all()


@each_machine
def test_parameters_of_a_norm_of_the_network_s_input_get_gradients(machine: Any) -> None:
    x, weights = drawn(0, 19, 12), parameters_of(12, 2)
    tape: Tape[Activation] = Tape()
    ops, buffer = CpuOperations(machine, ListCache(), tape, of_batch), buffer_of(machine, x)
    given_ = Activation(machine, buffer.form, InputNode(buffer), differentiable=False)
    tape.backward(layer_norm(ops, given_, *weights), buffer_of(machine, np.ones_like(x)))
    expected = in_torch(layer_norm_by_torch, [x, *(weight.to_array() for weight in weights)], np.ones_like(x))
    for weight, gradient in zip(weights, expected.gradients[1:], strict=True):
        np.testing.assert_allclose(weight.gradient, gradient, atol=1e-5)
    assert not given_.has_gradient


@pytest.mark.parametrize("kernels", kernel_names())
@pytest.mark.parametrize("shape", [(40, 33, 5, 18), (150, 36), (1500, 6)])
def test_every_number_of_threads_computes_the_same_bits(kernels: str, shape: tuple[int, ...]) -> None:
    x, weights = drawn(0, *shape), parameters_of(shape[-1], 2)
    for function in (layer_norm, lambda ops, x, *weights: normalization.group_norm(ops, x, 3, *weights)):
        one, several = (in_kernels(on(kernels, threads), function, [x], weights) for threads in (1, 3))
        np.testing.assert_array_equal(one.output, several.output)
        for gradient, other in zip(one.gradients, several.gradients, strict=True):
            np.testing.assert_array_equal(gradient, other)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ops, x: normalization.layer_norm(ops, x, weight_of(drawn(0, 5))), r"scale of shape \(5,\).*6 channels"),
        (
            lambda ops, x: normalization.layer_norm(ops, x, None, weight_of(drawn(0, 7))),
            r"shift of shape \(7,\).*6 channels",
        ),
        (lambda ops, x: normalization.group_norm(ops, x, 4), "6 channels.*4 groups"),
        (lambda ops, x: normalization.group_norm(ops, x, 0), "6 channels.*0 groups"),
        (lambda ops, x: normalization.rms_norm(ops, x, epsilon=-1.0), r"epsilon.*-1\.0"),
        (lambda ops, x: normalization.layer_norm(ops, x, epsilon=float("nan")), "epsilon.*nan"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        in_kernels(MACHINES[0], call, [drawn(0, 3, 6)])


def statistics(count: int = 20, groups: int = 1) -> Any:
    """Memory for the statistics of images."""
    return np.zeros((count, groups, 2, LANES), np.float32)


def forward(**options: Any) -> None:
    """A call of the kernel."""
    given_ = {"x": images(), "out": images(), "scale": by_channel(), "shift": by_channel(), "statistics": statistics()}
    given_ |= {"groups": 1, "by_image": False, "epsilon": 1.0, "centered": True, "threads": 1}
    KERNELS.normalize(**given_ | options)


def backward(**options: Any) -> None:
    """A call of the gradient's kernel."""
    given_ = {"gradient": images(), "x": images(), "out": images(), "add": None, "scale": by_channel()}
    given_ |= {"statistics": statistics(), "groups": 1, "by_image": False, "centered": True, "sums": sums()}
    KERNELS.normalize_backward(**given_ | {"threads": 1} | options)


@pytest.mark.parametrize("call", [forward, backward])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": images(width=6)}, "one shape"),
        ({"scale": by_channel(1)}, "one entry"),
        ({"groups": 0}, "divide"),
        ({"groups": -1}, "divide"),
        ({"groups": 3}, "divide"),
        ({"groups": 2}, "statistics are"),
        ({"statistics": statistics(21)}, "statistics are"),
        ({"statistics": statistics(20, 2)}, "statistics are"),
        ({"statistics": statistics()[..., :-1].copy()}, "statistics are"),
        ({"by_image": True}, "statistics are"),
        ({"by_image": True, "statistics": statistics(0)}, "statistics are"),
        ({"statistics": np.zeros((20, 1, 2, LANES))}, "float32"),
        ({"threads": 0}, "from 1 to"),
    ],
    ids=lambda one: ", ".join(one) if isinstance(one, dict) else "",
)
def test_arguments_of_kernels_that_do_not_fit_are_refused(call: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(**options)


@pytest.mark.parametrize("call", [forward, backward])
def test_features_have_no_statistics_by_image(call: Any) -> None:
    options: dict[str, Any] = {"x": features(), "out": features(), "by_image": True, "statistics": statistics(1)}
    if call is backward:
        options["gradient"] = features()
    with pytest.raises(ValueError, match="those of images"):
        call(**options)


def test_what_only_one_of_the_kernels_takes_is_checked_too() -> None:
    for call, message in (
        (lambda: forward(shift=by_channel(3)), "one entry"),
        (lambda: backward(add=images(width=6)), "one shape"),
        (lambda: backward(gradient=images(border=2)), "one shape"),
        (lambda: backward(sums=sums(3)), "sums are"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_outputs_that_overlap_inputs_are_refused_unless_they_are_the_same() -> None:
    one, other = two_in_one_memory()
    for call in (
        lambda: forward(x=one, out=other),
        lambda: backward(gradient=one, out=other),
        lambda: backward(x=one, out=other),
        lambda: backward(add=one, out=other),
    ):
        with pytest.raises(ValueError, match="share"):
            call()
    x = images()
    forward(x=x, out=x)
    backward(x=x, out=x, add=x, gradient=x)
