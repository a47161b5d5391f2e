"""Networks that everybody knows, in torch, with random weights of which a share is zero."""

from collections.abc import Callable, Mapping

import torch
from plain_torch import WideResNet
from torch import Tensor, nn
from torch.nn import functional


class _Residual(nn.Module):
    """The basic block of He et al. (2016)."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.norm2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if (inside, stride) != (out, 1):
            self.shortcut = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(y + self.shortcut(x))


def resnet18() -> nn.Module:
    """ResNet-18 for images of 224×224 pixels."""
    stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    blocks, inside = [], 64
    for out in (64, 128, 256, 512):
        blocks += [_Residual(inside, out, 1 if out == inside else 2), _Residual(out, out, 1)]
        inside = out
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


class _Inverted(nn.Module):
    """The block of Sandler et al. (2018): expand, depthwise convolution, project."""

    def __init__(self, inside: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inside * expansion
        expand = [_unit(inside, wide, 1)] if expansion != 1 else []
        project = nn.Sequential(nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out))
        self.layers = nn.Sequential(*expand, _unit(wide, wide, 3, stride, wide), project)
        self.adds = stride == 1 and inside == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


def _unit(inside: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    convolution = nn.Conv2d(inside, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU6())


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 for images of 224×224 pixels."""
    blocks, inside = [_unit(3, 32, 3, 2)], 32
    for expansion, out, count, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for number in range(count):
            blocks.append(_Inverted(inside, out, stride if number == 0 else 1, expansion))
            inside = out
    blocks += [_unit(inside, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    return nn.Sequential(*blocks)


class TransformerBlock(nn.Module):
    """A block of GPT-2 of the smallest size: 768 features, 12 heads."""

    def __init__(self, features: int = 768, heads: int = 12) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(features), nn.LayerNorm(features)
        self.attend, self.project = nn.Linear(features, 3 * features), nn.Linear(features, features)
        self.expand, self.contract = nn.Linear(features, 4 * features), nn.Linear(4 * features, features)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, (batch, tokens, features)."""
        batch, tokens, features = x.shape
        parts = self.attend(self.norm1(x)).split(features, dim=2)
        query, key, value = (
            part.view(batch, tokens, self.heads, features // self.heads).transpose(1, 2) for part in parts
        )
        heads = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project(heads.transpose(1, 2).reshape(batch, tokens, features))
        return x + self.contract(functional.gelu(self.expand(self.norm2(x)), approximate="tanh"))


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "WRN-28-2": (WideResNet, (3, 32, 32)),
    "ResNet-18": (resnet18, (3, 224, 224)),
    "MobileNetV2": (mobilenet_v2, (3, 224, 224)),
    "GPT-2 block": (TransformerBlock, (128, 768)),
}
"""What makes each, and the shape of an example."""


def sparse_network(name: str, sparsity: float) -> nn.Module:
    """The network in evaluation, with this share of zeros in each weight, drawn at random.

    The first convolution, depthwise ones and norms stay dense, as is usual.
    """
    torch.manual_seed(0)
    model = NETWORKS[name][0]().eval()
    layers = [one for one in model.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    for layer in layers:
        if isinstance(layer, nn.Linear) or (layer.groups == 1 and layer.in_channels > 3):
            layer.weight.data *= torch.rand_like(layer.weight) >= sparsity
    return model
