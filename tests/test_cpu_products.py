"""Products and sums of activations and dropout on the CPU backend, and their gradients, are PyTorch's in double."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import HALVES, MACHINES, array_of, buffer_of, drawn, on, weight_of
from kernel_arguments import KERNELS, LANES, features, images, two_in_one_memory
from kernel_oracle import Example, check, halved, in_kernels
from kernel_oracle import features as example_features
from kernel_oracle import images as example_images

from sparsecore.errors import InputError
from sparsecore.host.computation import Tape
from sparsecore_cpu import dropout as dropouts
from sparsecore_cpu import products
from sparsecore_cpu.activations import Activation, InputNode
from sparsecore_cpu.batch_norm import of_batch
from sparsecore_cpu.operations import CpuOperations
from sparsecore_cpu.runtime import Form, kernel_names
from sparsecore_cpu.weighted import ListCache

few = settings(max_examples=25)
each_machine = pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.kernels.name)
PAIRS = {"multiply": (products.multiply, torch.mul), "add": (products.add, torch.add)}
each_pair = pytest.mark.parametrize("name", PAIRS)
BROADCAST = ["(N, C)", "(N, 1)", "(N, H, W, 1)"]


def second_of(shape: tuple[int, ...], kind: str) -> tuple[int, ...]:
    """The shape of what is broadcast over such images."""
    return {"(N, C)": (shape[0], shape[3]), "(N, 1)": (shape[0], 1), "(N, H, W, 1)": (*shape[:3], 1)}[kind]


def broadcast(y: torch.Tensor) -> torch.Tensor:
    """Features as images of one pixel."""
    return y if y.ndim == 4 else y[:, None, None]


@each_pair
@few
@given(example=example_images() | example_features())
def test_tensors_of_one_shape_are_combined_entry_by_entry(name: str, example: Example) -> None:
    kernels, reference = PAIRS[name]
    check(kernels, reference, [example.array, drawn(1, *example.shape)], border=example.border)


@each_pair
@pytest.mark.parametrize("kind", BROADCAST)
@few
@given(example=example_images())
def test_a_broadcast_operand_gets_the_sum_of_the_gradients(name: str, kind: str, example: Example) -> None:
    kernels, reference = PAIRS[name]
    arrays = [example.array, drawn(1, *second_of(example.shape, kind))]
    check(kernels, lambda x, y: reference(x, broadcast(y)), arrays, border=example.border)
    check(lambda ops, x, y: kernels(ops, y, x), lambda x, y: reference(x, broadcast(y)), arrays, border=example.border)


@each_pair
@few
@given(example=example_features())
def test_vectors_are_combined_with_one_number_each(name: str, example: Example) -> None:
    kernels, reference = PAIRS[name]
    check(kernels, reference, [example.array, drawn(1, example.shape[0], 1)])


@each_pair
@pytest.mark.parametrize("kind", ["equal", *BROADCAST])
@few
@given(example=example_images())
def test_images_in_bfloat16_are_rounded_once(name: str, kind: str, example: Example) -> None:
    kernels, reference = PAIRS[name]
    shape = example.shape if kind == "equal" else second_of(example.shape, kind)
    arrays = [halved(example.array), halved(drawn(1, *shape))]
    check(
        kernels,
        lambda x, y: reference(x, broadcast(y)),
        arrays,
        border=example.border,
        machines=HALVES,
        rounding=2**-8,
    )


def test_products_are_fused_with_sums_and_with_themselves() -> None:
    x, y = drawn(0, 17, 3, 4, 5), drawn(1, 17, 5)
    check(lambda ops, x, y: ops.add(products.multiply(ops, x, y), x), lambda x, y: x * y[:, None, None] + x, [x, y])
    check(lambda ops, x: products.multiply(ops, x, x), lambda x: x * x, [x])
    check(lambda ops, x: products.multiply(ops, products.multiply(ops, x, x), x), lambda x: x**3, [x], rounding=2e-6)


@each_machine
def test_images_with_different_borders_are_combined(machine: Any) -> None:
    x, y = drawn(0, 17, 3, 4, 5), drawn(1, 17, 3, 4, 5)
    tape: Tape[Activation] = Tape()
    ops = CpuOperations(machine, ListCache(), tape, of_batch)
    one, two = (buffer_of(machine, array, border) for array, border in ((x, 1), (y, 2)))
    given_ = [Activation(machine, buffer.form, InputNode(buffer)) for buffer in (one, two)]
    output = products.multiply(ops, *given_)
    np.testing.assert_array_equal(array_of(output.buffer()), x * y)
    tape.backward(output, buffer_of(machine, np.ones_like(x)))
    for own, other in zip(given_, (y, x), strict=True):
        np.testing.assert_array_equal(array_of(own.gradient.total(machine, own.form)), other)


@pytest.mark.parametrize(
    "shapes", [[(3, 4), (3, 5)], [(3, 2, 2, 4), (3, 2, 1, 4)], [(3, 4), (2, 4)], [(3, 4), (3, 2, 2, 1)]]
)
def test_shapes_that_cannot_be_broadcast_are_refused_by_name(shapes: list[tuple[int, ...]]) -> None:
    machine = MACHINES[0]
    ops = CpuOperations(machine, ListCache(), Tape(), of_batch)
    buffers = [buffer_of(machine, drawn(0, *shape)) for shape in shapes]
    given_ = [Activation(machine, buffer.form, InputNode(buffer)) for buffer in buffers]
    for combine in (products.multiply, products.add):
        with pytest.raises(InputError, match="cannot be combined") as refused:
            combine(ops, *given_)
        assert all(str(shape) in str(refused.value) for shape in shapes)


@few
@given(example=example_images() | example_features(), number=st.sampled_from([-2.5, 0.0, 0.125]))
def test_products_and_sums_with_numbers_are_fused_with_relu(example: Example, number: float) -> None:
    x = example.array
    x[abs(x + number) < 1e-5] = 1
    check(lambda ops, x: products.scale(ops, x, number), lambda x: x * number, [x], border=example.border)
    check(lambda ops, x: products.shift(ops, x, number), lambda x: x + number, [x], border=example.border)
    check(
        lambda ops, x: ops.relu(products.scale(ops, x, number)),
        lambda x: torch.relu(x * number),
        [x],
        border=example.border,
    )
    check(
        lambda ops, x: ops.relu(products.shift(ops, x, number)),
        lambda x: torch.relu(x + number),
        [x],
        border=example.border,
    )


@few
@given(example=example_images() | example_features())
def test_layer_scale_and_its_parameters_gradients_are_torch_s(example: Example) -> None:
    channels, x = example.shape[-1], example.array
    gamma, beta = weight_of(drawn(1, channels)), weight_of(drawn(2, channels))
    options: dict[str, Any] = {"border": example.border, "rounding": 2e-6}
    check(products.scale_channels, lambda x, gamma: x * gamma, [x], [gamma], **options)
    check(products.scale_channels, lambda x, gamma, beta: x * gamma + beta, [x], [gamma, beta], **options)
    check(
        lambda ops, x, gamma: ops.add(x, products.scale_channels(ops, x, gamma)),
        lambda x, gamma: x + x * gamma,
        [x],
        [gamma],
        **options,
    )
    check(
        lambda ops, x, gamma, beta: ops.add(
            products.scale_channels(ops, x, gamma, beta), products.scale_channels(ops, x, beta, gamma)
        ),
        lambda x, gamma, beta: x * gamma + beta + (x * beta + gamma),
        [x],
        [gamma, beta],
        **options,
    )


def test_a_parameter_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(4,\).*5 channels"):
        in_kernels(MACHINES[0], products.scale_channels, [drawn(0, 3, 5)], [weight_of(drawn(0, 4))])


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(number: float) -> None:
    for function in (products.scale, products.shift):
        with pytest.raises(InputError, match=str(number)):
            in_kernels(MACHINES[0], lambda ops, x, function=function: function(ops, x, number), [drawn(0, 3, 5)])


@few
@given(example=example_images() | example_features(), probability=st.sampled_from([0.0, 0.25, 0.9, 1.0]))
def test_dropout_keeps_what_the_mask_says_and_scales_it(example: Example, probability: float) -> None:
    kept = np.random.default_rng(example.seed).random(example.shape) >= probability
    factor = 1 / (1 - probability) if probability < 1 else 0.0

    def reference(x: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.from_numpy(kept), x * factor, 0.0)

    for mask in (kept, kept.astype(np.uint8) * 7):
        check(
            lambda ops, x, mask=mask: dropouts.dropout(ops, x, mask, probability),
            reference,
            [example.array],
            border=example.border,
        )
    check(
        lambda ops, x: ops.add(dropouts.dropout(ops, x, kept, probability), x),
        lambda x: reference(x) + x,
        [example.array],
        border=example.border,
    )


@each_machine
@few
@given(example=example_images() | example_features())
def test_masks_in_the_kernels_layout_are_used_as_they_are(machine: Any, example: Example) -> None:
    form = Form(*example.shape, example.border) if len(example.shape) == 4 else Form.of_features(*example.shape)
    shape = dropouts.mask_shape(form, machine.kernels.lanes)
    kept = np.random.default_rng(example.seed).integers(0, 2, shape, np.uint8)
    x = abs(example.array) + 1
    outcome = in_kernels(
        machine,
        lambda ops, x: dropouts.dropout(ops, x, kept, 0.5),
        [x],
        direction=np.ones_like(x),
        border=example.border,
    )
    # what is kept is known from a buffer whose entries are the mask
    inside = machine.buffers.take(form)
    lanes_in_use = buffer_of(machine, np.ones_like(x), example.border).inside
    inside.fill(np.float32(kept) * lanes_in_use)
    np.testing.assert_array_equal(outcome.output, 2 * x * array_of(inside))
    np.testing.assert_array_equal(outcome.gradients[0], 2 * array_of(inside))


@few
@given(example=example_images() | example_features(), whole=st.booleans())
def test_whole_channels_or_images_are_dropped(example: Example, whole: bool) -> None:
    columns = 1 if whole or len(example.shape) == 2 else example.shape[-1]
    kept = np.random.default_rng(example.seed).random((example.shape[0], columns)) < 0.5
    sides = (1,) * (len(example.shape) - 2)

    def reference(x: torch.Tensor) -> torch.Tensor:
        return x * torch.from_numpy(kept).reshape(len(kept), *sides, columns) * 2

    check(
        lambda ops, x: dropouts.dropout_channels(ops, x, kept, 0.5),
        reference,
        [example.array],
        border=example.border,
    )


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_probabilities_outside_of_their_range_are_refused(probability: float) -> None:
    kept = np.ones((3, 5), bool)
    for function, mask in ((dropouts.dropout, kept), (dropouts.dropout_channels, kept[:, :1])):
        with pytest.raises(InputError, match=str(probability)):
            in_kernels(
                MACHINES[0],
                lambda ops, x, function=function, mask=mask: function(ops, x, mask, probability),
                [drawn(0, 3, 5)],
            )


@pytest.mark.parametrize("mask", [np.ones((3, 4), bool), np.ones((3, 5), np.float32), np.ones((5, 3), np.uint8)])
def test_masks_that_do_not_fit_are_refused(mask: Any) -> None:
    for function in (dropouts.dropout, dropouts.dropout_channels):
        with pytest.raises(InputError, match=r"\(3, "):
            in_kernels(MACHINES[0], lambda ops, x, function=function: function(ops, x, mask, 0.5), [drawn(0, 3, 5)])


def squeezed_and_excited(ops: Any, x: Any, weight: Any) -> Any:
    features_ = ops.linear(ops.global_average_pool(x), weight)
    return products.multiply(ops, x, features_)


@few
@given(example=example_images())
def test_squeeze_and_excitation_has_torch_s_gradients(example: Example) -> None:
    channels = example.shape[-1]

    def reference(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x * functional.linear(x.mean((1, 2)), weight)[:, None, None]

    weight = weight_of(drawn(3, channels, channels))
    check(squeezed_and_excited, reference, [example.array], [weight], rounding=1e-5)


@pytest.mark.parametrize("kernels", kernel_names())
def test_every_number_of_threads_computes_the_same_bits(kernels: str) -> None:
    x, weight, gamma = drawn(0, 40, 33, 5, 19), weight_of(drawn(1, 19, 19)), weight_of(drawn(2, 19))

    def forward(ops: Any, x: Any, weight: Any, gamma: Any) -> Any:
        return products.scale_channels(ops, squeezed_and_excited(ops, x, weight), gamma)

    one, several = (in_kernels(on(kernels, threads), forward, [x], [weight, gamma]) for threads in (1, 3))
    np.testing.assert_array_equal(one.output, several.output)
    for gradient, other in zip(one.gradients, several.gradients, strict=True):
        np.testing.assert_array_equal(gradient, other)


def kept(*shape: int) -> Any:
    """A mask of ones."""
    return np.ones(shape, np.uint8)


REFUSED: dict[str, tuple[str, Any]] = {
    "a product of two batches": ("one size", lambda: KERNELS.multiply(images(), images(count=2), images(), None, 1)),
    "a product of two widths": (
        "one channel",
        lambda: KERNELS.multiply(images(), images(width=6), images(), None, 1),
    ),
    "a product of two borders": (
        "one channel",
        lambda: KERNELS.multiply(images(), images(border=2), images(), None, 1),
    ),
    "features that are too many": (
        "one channel or as many",
        lambda: KERNELS.multiply(images(), features(channels=3), images(), None, 1),
    ),
    "images for features": (
        "first one's shape",
        lambda: KERNELS.add(features(), images(channels=1), features(), None, 1),
    ),
    "an output of another shape": ("one shape", lambda: KERNELS.add(images(), images(), images(width=6), None, 1)),
    "a start of another shape": ("one shape", lambda: KERNELS.add(images(), images(), images(), images(width=6), 1)),
    "sums that are images": ("are features", lambda: KERNELS.sum_pixels(images(), None, images(), 1)),
    "sums of few channels": ("as many", lambda: KERNELS.sum_pixels(images(), None, features(channels=1), 1)),
    "sums of another batch": ("batch", lambda: KERNELS.sum_pixels(images(), None, features(count=2), 1)),
    "factors of another shape": (
        "one shape",
        lambda: KERNELS.sum_pixels(images(), images(width=6), features(), 1),
    ),
    "sums of two channels": ("one channel", lambda: KERNELS.sum_channels(images(), None, images(), 1)),
    "sums of fewer pixels": (
        "one channel",
        lambda: KERNELS.sum_channels(images(), None, images(channels=1, width=4), 1),
    ),
    "a mask with a border": (
        "inside the border",
        lambda: KERNELS.dropout(images(), kept(1, 6, 2, 7, LANES), 2.0, images(), None, 1),
    ),
    "a mask of four axes": ("5 axes", lambda: KERNELS.dropout(images(), kept(4, 2, 5, LANES), 2.0, images(), None, 1)),
    "a mask of floats": (
        "uint8",
        lambda: KERNELS.dropout(images(), np.ones((1, 4, 2, 5, LANES), np.float32), 2.0, images(), None, 1),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_arguments_of_kernels_that_do_not_fit_are_refused(what: str) -> None:
    message, call = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        call()


def test_outputs_that_overlap_inputs_are_refused_unless_they_are_the_same() -> None:
    one, other = two_in_one_memory()
    for call in (
        lambda: KERNELS.multiply(one, images(), other, None, 1),
        lambda: KERNELS.multiply(images(), one, other, None, 1),
        lambda: KERNELS.add(images(), images(), one, other, 1),
        lambda: KERNELS.dropout(one, kept(1, 4, 2, 5, LANES), 2.0, other, None, 1),
    ):
        with pytest.raises(ValueError, match="share"):
            call()
    x = images()
    KERNELS.multiply(x, x, x, x, 1)
    KERNELS.dropout(x, kept(1, 4, 2, 5, LANES), 2.0, x, x, 1)
