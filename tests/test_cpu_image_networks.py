"""The building blocks of well-known image networks have torch's outputs and gradients on the CPU backend."""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import HALVES, drawn, in_kernels, weight_of
from torch.nn import functional
from torch_oracles import check_against_torch, in_halves, in_torch

from sparsecore_cpu.pooling import adaptive_avg_pool2d, avg_pool2d, max_pool2d
from sparsecore_cpu.shapes import (
    concatenate,
    from_tokens,
    pad2d,
    select_channels,
    split_channels,
    to_tokens,
    upsample_nearest2d,
)
from sparsecore_cpu.window import Padding

Shapes = Sequence[tuple[int, ...]]


@attrs.frozen
class Ours:
    """The operations of the CPU backend that a block is written in."""

    ops: Any

    def conv(self, x: Any, *weights: Any, **window: Any) -> Any:
        return self.ops.conv2d(x, *weights, **window)

    def norm(self, x: Any, scale: Any, shift: Any) -> Any:
        statistics = np.zeros(x.form.channels, np.float32), np.ones(x.form.channels, np.float32)
        return self.ops.batch_norm(x, scale, shift, *statistics)

    def relu(self, x: Any) -> Any:
        return self.ops.relu(x)

    def add(self, x: Any, y: Any) -> Any:
        return self.ops.add(x, y)

    def linear(self, x: Any, *weights: Any) -> Any:
        return self.ops.linear(x, *weights)

    def cat(self, *parts: Any) -> Any:
        return concatenate(self.ops, parts)

    def halves(self, x: Any) -> Any:
        return split_channels(self.ops, x, [x.form.channels // 2] * 2)

    def select(self, x: Any, channels: Sequence[int]) -> Any:
        return select_channels(self.ops, x, channels)

    def max_pool(self, x: Any, *window: Any) -> Any:
        return max_pool2d(self.ops, x, *window)

    def avg_pool(self, x: Any, *window: Any) -> Any:
        return avg_pool2d(self.ops, x, *window)

    def adaptive(self, x: Any, size: int) -> Any:
        return adaptive_avg_pool2d(self.ops, x, size)

    def flatten(self, x: Any) -> Any:
        return self.ops.flatten(x, channels_first=True)

    def upsample(self, x: Any) -> Any:
        return upsample_nearest2d(self.ops, x, 2)

    def pad(self, x: Any, side: int) -> Any:
        return pad2d(self.ops, x, Padding(side, side, side, side))

    def tokens(self, x: Any) -> Any:
        return to_tokens(self.ops, x)

    def untokens(self, x: Any, height: int, width: int) -> Any:
        return from_tokens(self.ops, x, height, width)


class Theirs:
    """The same operations of torch."""

    conv = staticmethod(functional.conv2d)
    relu = staticmethod(functional.relu)
    linear = staticmethod(functional.linear)
    add = staticmethod(torch.add)
    max_pool = staticmethod(functional.max_pool2d)
    avg_pool = staticmethod(functional.avg_pool2d)
    adaptive = staticmethod(functional.adaptive_avg_pool2d)

    def norm(self, x: Any, scale: Any, shift: Any) -> Any:
        return functional.batch_norm(x, None, None, scale, shift, training=True)

    def cat(self, *parts: Any) -> Any:
        return torch.cat(parts, 1)

    def halves(self, x: Any) -> Any:
        return x.chunk(2, 1)

    def select(self, x: Any, channels: Sequence[int]) -> Any:
        return x[:, list(channels)]

    def flatten(self, x: Any) -> Any:
        return x.flatten(1)

    def upsample(self, x: Any) -> Any:
        return functional.interpolate(x, scale_factor=2)

    def pad(self, x: Any, side: int) -> Any:
        return functional.pad(x, (side,) * 4)

    def tokens(self, x: Any) -> Any:
        return x.flatten(2).transpose(1, 2).flatten(0, 1)

    def untokens(self, x: Any, height: int, width: int) -> Any:
        return x.reshape(-1, height, width, x.shape[1]).permute(0, 3, 1, 2)


def mobile(f: Any, x: Any, w: list[Any]) -> Any:
    """An inverted residual: expansion, depthwise convolution, projection."""
    wide = f.relu(f.norm(f.conv(x, w[0]), w[1], w[2]))
    deep = f.relu(f.norm(f.conv(wide, w[3], padding=1, groups=12), w[4], w[5]))
    return f.add(x, f.conv(deep, w[6]))


def dense(f: Any, x: Any, w: list[Any]) -> Any:
    """Two layers of a DenseNet, each of which reads all before it, and a transition."""
    for layer in (w[:3], w[3:6]):
        x = f.cat(x, f.conv(f.relu(f.norm(x, *layer[:2])), layer[2], padding=1))
    return f.avg_pool(x, 2)


def inception(f: Any, x: Any, w: list[Any]) -> Any:
    """Branches of several kernels and of pooling."""
    factored = f.conv(f.relu(f.conv(x, w[1], padding=(0, 3))), w[2], padding=(3, 0))
    pooled = f.conv(f.max_pool(x, 3, 1, 1), w[3], w[4])
    return f.relu(f.cat(f.conv(x, w[0], padding=2), factored, pooled, f.avg_pool(x, 3, 1, 1)))


def vgg(f: Any, x: Any, w: list[Any]) -> Any:
    """Convolutions with biases, pooling and a linear layer."""
    x = f.max_pool(f.relu(f.conv(x, w[0], w[1], padding=1)), 2)
    x = f.max_pool(f.relu(f.conv(x, w[2], w[3], padding=1)), 2)
    return f.linear(f.flatten(f.adaptive(x, 3)), w[4], w[5])


def resnext(f: Any, x: Any, w: list[Any]) -> Any:
    """A stem, and a grouped convolution with a stride beside a shortcut."""
    x = f.max_pool(f.relu(f.norm(f.conv(x, w[0], stride=2, padding=3), w[1], w[2])), 3, 2, 1)
    grouped = f.relu(f.conv(x, w[3], stride=2, padding=1, groups=4))
    return f.relu(f.add(f.conv(x, w[4], stride=2), grouped))


def shuffle(f: Any, x: Any, w: list[Any]) -> Any:
    """One half is left as it is; then the channels are shuffled."""
    kept, given = f.halves(x)
    made = f.relu(f.conv(f.conv(given, w[0], padding=1, groups=4), w[1], w[2]))
    return f.select(f.cat(kept, made), [0, 4, 1, 5, 2, 6, 3, 7])


def unet(f: Any, x: Any, w: list[Any]) -> Any:
    """Down by pooling, dilated convolutions, up again, and a skip connection."""
    down = f.relu(f.conv(f.max_pool(x, 2), w[0], dilation=2, padding=2))
    return f.conv(f.pad(f.cat(f.upsample(down), x), 1), w[1], w[2])


def patches(f: Any, x: Any, w: list[Any]) -> Any:
    """Patches as tokens, a layer of each token, and images again."""
    tokens = f.tokens(f.conv(x, w[0], w[1], stride=4))
    return f.conv(f.untokens(f.relu(f.linear(tokens, w[2], w[3])), 3, 2), w[4])


BLOCKS: dict[str, tuple[Callable[..., Any], tuple[int, ...], Shapes]] = {
    "MobileNet": (mobile, (6, 7, 4), ((12, 4, 1, 1), (12,), (12,), (12, 1, 3, 3), (12,), (12,), (4, 12, 1, 1))),
    "DenseNet": (dense, (8, 6, 5), ((5,), (5,), (3, 5, 3, 3), (8,), (8,), (3, 8, 3, 3))),
    "Inception": (inception, (9, 8, 4), ((3, 4, 5, 5), (5, 4, 1, 7), (4, 5, 7, 1), (2, 4, 1, 1), (2,))),
    "VGG": (vgg, (14, 12, 3), ((6, 3, 3, 3), (6,), (5, 6, 3, 3), (5,), (7, 45), (7,))),
    "ResNeXt": (resnext, (21, 20, 3), ((8, 3, 7, 7), (8,), (8,), (16, 2, 3, 3), (16, 8, 1, 1))),
    "ShuffleNet": (shuffle, (5, 6, 8), ((4, 1, 3, 3), (4, 4, 1, 1), (4,))),
    "U-Net": (unet, (8, 10, 3), ((4, 3, 3, 3), (2, 7, 3, 3), (2,))),
    "ViT": (patches, (12, 8, 3), ((8, 3, 4, 4), (8,), (6, 8), (6,), (3, 6, 1, 1))),
}


@pytest.mark.parametrize("batch", [1, 3, 17])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_well_known_networks_have_torch_s_gradients(name: str, batch: int) -> None:
    block, images, shapes = BLOCKS[name]
    weights = [_drawn_weight(seed, shape) for seed, shape in enumerate(shapes)]
    x = drawn(99, batch, *images)
    given = lambda ops, x, w: block(Ours(ops), x, w), lambda x, w: block(Theirs(), x, w)
    check_against_torch(*given, x, weights, rounding=1e-4)


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_in_bfloat16_have_torch_s_outputs_up_to_rounding(name: str) -> None:
    """Gradients are not compared: where two pixels are about equal, rounding decides which is the larger one."""
    block, images, shapes = BLOCKS[name]
    weights = [_drawn_weight(seed, shape) for seed, shape in enumerate(shapes)]
    x = in_halves(drawn(99, 17, *images))
    expected = in_torch(lambda x, w: block(Theirs(), x, w), x, weights, None).output
    for machine in HALVES:
        made = in_kernels(
            machine, lambda ops, x, w: block(Ours(ops), x, w), x, weights, np.zeros_like(expected, np.float32)
        )
        np.testing.assert_allclose(made.output, expected, rtol=0, atol=0.02 * max(1, abs(expected).max()))


def _drawn_weight(seed: int, shape: tuple[int, ...]) -> Any:
    """A weight whose outputs are about as large as its inputs; half of the entries of a large one are active."""
    dense = drawn(seed, *shape) / np.sqrt(max(1, np.prod(shape[1:])))
    dense = dense.astype(np.float32) + (len(shape) == 1)
    positions = np.flatnonzero(drawn(seed + 50, dense.size) > 0) if dense.size > 60 else None
    return weight_of(dense, positions)
