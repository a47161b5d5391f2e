"""Blocks of well-known networks, forward and backward, equal PyTorch's in double precision with all kernels."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import drawn, weight_of
from kernel_oracle import check

from sparsecore.host.weights import WeightView
from sparsecore_cpu import dropout, normalization, pointwise, products

ROUNDING = 1e-4  # a block is a chain of sums of up to hundreds of terms
BATCH = 17


def weights_of(*shapes: tuple[int, ...]) -> list[WeightView]:
    """Weights that keep the size of what they are applied to, half of the entries of the matrices active."""
    made = []
    for seed, shape in enumerate(shapes):
        dense = drawn(seed, *shape) / np.float32(max(1, np.prod(shape[1:]) / 2)) ** 0.5
        active = np.arange(0, dense.size, 2 if len(shape) > 1 and dense.size > 1 else 1)
        made.append(weight_of(dense, active))
    return made


def test_an_inverted_residual_with_squeeze_and_excitation() -> None:
    """MobileNetV3: both norms are fused with the hardswish behind them, the last one with the sum."""
    channels, wide, squeezed = 6, 12, 4
    weights = weights_of(
        *((wide, channels, 1, 1), (wide,), (wide,), (wide, 1, 3, 3), (wide,), (wide,)),
        *((squeezed, wide), (squeezed,), (wide, squeezed), (wide,), (channels, wide, 1, 1), (channels,), (channels,)),
    )

    def kernels(ops: Any, x: Any, *given: Any) -> Any:
        expand, s1, b1, deep, s2, b2, down, down_bias, up, up_bias, project, s3, b3 = given

        def norm(y: Any, scale: Any, shift: Any) -> Any:
            count = y.form.channels
            return ops.batch_norm(y, scale, shift, np.zeros(count, np.float32), np.ones(count, np.float32))

        y = pointwise.hardswish(ops, norm(ops.conv2d(x, expand), s1, b1))
        y = pointwise.hardswish(ops, norm(ops.conv2d(y, deep, padding=1, groups=wide), s2, b2))
        gate = ops.relu(ops.linear(ops.global_average_pool(y), down, down_bias))
        gate = pointwise.hardsigmoid(ops, ops.linear(gate, up, up_bias))
        return ops.add(norm(ops.conv2d(products.multiply(ops, y, gate), project), s3, b3), x)

    def reference(x: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        expand, s1, b1, deep, s2, b2, down, down_bias, up, up_bias, project, s3, b3 = given

        def norm(y: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
            return functional.batch_norm(y, None, None, scale, shift, training=True)

        images = x.permute(0, 3, 1, 2)
        y = functional.hardswish(norm(functional.conv2d(images, expand), s1, b1))
        y = functional.hardswish(norm(functional.conv2d(y, deep, padding=1, groups=wide), s2, b2))
        gate = functional.relu(functional.linear(y.mean((2, 3)), down, down_bias))
        gate = functional.hardsigmoid(functional.linear(gate, up, up_bias))
        y = norm(functional.conv2d(y * gate[:, :, None, None], project), s3, b3)
        return (y + images).permute(0, 2, 3, 1)

    compare(kernels, reference, drawn(50, BATCH, 6, 5, channels), weights)


def test_a_block_of_convnext() -> None:
    """A norm over channels, GELU, layer scale and stochastic depth, which are fused with the sum."""
    channels, wide = 6, 24
    weights = weights_of(
        *((channels, 1, 7, 7), (channels,), (channels,), (channels,), (wide, channels, 1, 1), (wide,)),
        *((channels, wide, 1, 1), (channels,), (channels,)),
    )
    kept = np.arange(BATCH)[:, None] % 3 > 0

    def kernels(ops: Any, x: Any, *given: Any) -> Any:
        deep, deep_bias, scale, shift, up, up_bias, down, down_bias, gamma = given
        y = normalization.layer_norm(ops, ops.conv2d(x, deep, deep_bias, padding=3, groups=channels), scale, shift)
        y = ops.conv2d(pointwise.gelu(ops, ops.conv2d(y, up, up_bias)), down, down_bias)
        return ops.add(x, dropout.dropout_channels(ops, products.scale_channels(ops, y, gamma), kept, 0.25))

    def reference(x: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        deep, deep_bias, scale, shift, up, up_bias, down, down_bias, gamma = given
        images = x.permute(0, 3, 1, 2)
        y = functional.conv2d(images, deep, deep_bias, padding=3, groups=channels).permute(0, 2, 3, 1)
        y = functional.layer_norm(y, (channels,), scale, shift).permute(0, 3, 1, 2)
        y = functional.conv2d(functional.gelu(functional.conv2d(y, up, up_bias)), down, down_bias)
        return x + y.permute(0, 2, 3, 1) * gamma * torch.from_numpy(kept / 0.75)[:, None, None]

    compare(kernels, reference, drawn(50, BATCH, 7, 5, channels), weights)


def test_a_multilayer_perceptron_of_a_transformer() -> None:
    features, wide = 10, 40
    weights = weights_of((features,), (features,), (wide, features), (wide,), (features, wide), (features,))
    kept = [np.random.default_rng(seed).random((BATCH, count)) > 0.2 for seed, count in enumerate((wide, features))]

    def kernels(ops: Any, x: Any, *given: Any) -> Any:
        scale, shift, up, up_bias, down, down_bias = given
        y = ops.linear(normalization.layer_norm(ops, x, scale, shift), up, up_bias)
        y = dropout.dropout(ops, pointwise.gelu(ops, y, tanh=True), kept[0], 0.2)
        return ops.add(x, dropout.dropout(ops, ops.linear(y, down, down_bias), kept[1], 0.2))

    def reference(x: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        scale, shift, up, up_bias, down, down_bias = given
        y = functional.linear(functional.layer_norm(x, (features,), scale, shift), up, up_bias)
        y = functional.gelu(y, approximate="tanh") * torch.from_numpy(kept[0] / 0.8)
        return x + functional.linear(y, down, down_bias) * torch.from_numpy(kept[1] / 0.8)

    compare(kernels, reference, drawn(50, BATCH, features), weights)


def test_a_residual_block_of_a_diffusion_model() -> None:
    """Group norm, SiLU, and an embedding of the time step that is added to all pixels."""
    channels, groups = 8, 4
    norm, filters = (channels,), (channels, channels, 3, 3)
    weights = weights_of(norm, norm, filters, (channels, channels), norm, norm, norm, filters)

    def kernels(ops: Any, x: Any, *given: Any) -> Any:
        s1, b1, first, embed, embed_bias, s2, b2, second = given
        y = pointwise.silu(ops, normalization.group_norm(ops, x, groups, s1, b1))
        step = ops.linear(pointwise.silu(ops, ops.global_average_pool(x)), embed, embed_bias)
        y = products.add(ops, ops.conv2d(y, first, padding=1), step)
        y = pointwise.silu(ops, normalization.group_norm(ops, y, groups, s2, b2))
        return ops.add(ops.conv2d(y, second, padding=1), x)

    def reference(x: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        s1, b1, first, embed, embed_bias, s2, b2, second = given
        images = x.permute(0, 3, 1, 2)
        y = functional.silu(functional.group_norm(images, groups, s1, b1))
        step = functional.linear(functional.silu(images.mean((2, 3))), embed, embed_bias)
        y = functional.conv2d(y, first, padding=1) + step[:, :, None, None]
        y = functional.silu(functional.group_norm(y, groups, s2, b2))
        return (functional.conv2d(y, second, padding=1) + images).permute(0, 2, 3, 1)

    compare(kernels, reference, drawn(50, BATCH, 5, 6, channels), weights)


def test_a_norm_of_the_sum_of_a_norm_and_a_convolution() -> None:
    """The convolution is fused with the sum, so that it computes the moments of the last norm, too."""
    channels = 5
    weights = weights_of((channels, channels, 3, 3), *[(channels,)] * 4)

    def kernels(ops: Any, x: Any, *given: Any) -> Any:
        matrix, *vectors = given

        def norm(y: Any, scale: Any, shift: Any) -> Any:
            return ops.batch_norm(y, scale, shift, np.zeros(channels, np.float32), np.ones(channels, np.float32))

        return norm(ops.add(norm(x, *vectors[:2]), ops.conv2d(x, matrix, padding=1)), *vectors[2:])

    def reference(x: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        matrix, *vectors = given

        def norm(y: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
            return functional.batch_norm(y, None, None, scale, shift, training=True)

        images = x.permute(0, 3, 1, 2)
        y = norm(images, *vectors[:2]) + functional.conv2d(images, matrix, padding=1)
        return norm(y, *vectors[2:]).permute(0, 2, 3, 1)

    compare(kernels, reference, drawn(50, BATCH, 5, 6, channels), weights)


def compare(kernels: Any, reference: Any, x: Any, weights: list[WeightView]) -> None:
    """Compare outputs and all gradients; those of inactive weights are not computed."""

    def masked(x: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        actives = [torch.from_numpy(weight.to_array() != 0) for weight in weights]
        return reference(x, *(dense * active for dense, active in zip(given, actives, strict=True)))

    check(kernels, masked, [x], weights, rounding=ROUNDING)
