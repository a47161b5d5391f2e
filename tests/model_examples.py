"""Small networks of torch with zeros among their weights, and what they compute in double precision."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional


class ResidualNetwork(nn.Module):
    """Convolutions with batch norm and relu, a pooled stem, and shortcuts with and without a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 5, 2, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        self.blocks = nn.Sequential(_ResidualBlock(8, 8, 1), _ResidualBlock(8, 12, 2))
        self.pool, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))


class _ResidualBlock(nn.Module):
    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.norm2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if (inside, stride) != (out, 1):
            self.shortcut = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        y += self.shortcut(x)
        return functional.relu(y)


class MobileNetwork(nn.Module):
    """Depthwise convolutions with relu6 and hardswish, and squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(3, 12, 1), nn.BatchNorm2d(12), nn.ReLU6(inplace=True))
        self.depthwise = nn.Sequential(
            nn.Conv2d(12, 12, 3, 2, 1, groups=12, bias=False), nn.BatchNorm2d(12), nn.Hardswish()
        )
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.project = nn.Sequential(nn.Conv2d(12, 8, 1, groups=2), nn.SiLU(), nn.Dropout(0.2))
        self.classifier = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.expand(x))
        share = functional.adaptive_avg_pool2d(x, 1)
        x = x * functional.hardsigmoid(self.excite(functional.relu(self.squeeze(share))))
        x = self.project(x) * torch.sigmoid(x[:, :8])
        return self.classifier(x.mean((2, 3)))


class Mixed(nn.Module):
    """Concatenation, all poolings, group norm, dilation, channels last, upsampling and slices."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding="same", dilation=(2, 1))
        self.group = nn.GroupNorm(3, 6)
        self.norm, self.pointwise, self.back = nn.LayerNorm(12), nn.Linear(12, 24), nn.Linear(24, 12)
        self.scale = nn.Parameter(torch.ones(12, 1, 1))
        self.classifier = nn.Linear(12 * 3 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.leaky_relu(self.group(self.first(x)), 0.2)
        x = torch.cat([functional.max_pool2d(x, 3, 2, 1), functional.avg_pool2d(x, 3, 2, 1)], 1)
        y = self.norm(x.permute(0, 2, 3, 1))
        y = self.back(functional.gelu(self.pointwise(y))).permute(0, 3, 1, 2)
        x = functional.interpolate(x + self.scale * y, scale_factor=2.0)
        one, other = functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False).chunk(2, 1)
        x = torch.cat([functional.elu(one - other), functional.tanh(other) / 2 + 1], 1)
        x = functional.adaptive_max_pool2d(functional.adaptive_avg_pool2d(x, (5, 4)), (3, 4))
        return self.classifier(x.reshape(x.shape[0], -1))


class Perceptron(nn.Sequential):
    """Linear layers, of which the middle one is dense, with functions and norms between them."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(20, 48),
            nn.BatchNorm1d(48),
            nn.ReLU(),
            nn.Linear(48, 48),
            nn.Softplus(),
            nn.RMSNorm(48),
            nn.Linear(48, 24, bias=False),
            nn.Mish(),
            nn.Linear(24, 10),
        )


class Transformer(nn.Module):
    """Two blocks as of GPT: embeddings, causal attention by the fused function and by products, and tied weights."""

    def __init__(self, features: int = 32, heads: int = 4, tokens: int = 12) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(40, features), nn.Embedding(tokens, features)
        self.blocks = nn.ModuleList(_TransformerBlock(features, heads, fused) for fused in (True, False))
        self.norm, self.head = nn.LayerNorm(features), nn.Linear(features, 40, bias=False)
        self.head.weight = self.words.weight

    def forward(self, indices: Tensor) -> Tensor:
        x = self.words(indices) + self.places(torch.arange(indices.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).flatten(0, 1)


class _TransformerBlock(nn.Module):
    def __init__(self, features: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.norm1, self.norm2 = nn.LayerNorm(features), nn.LayerNorm(features)
        self.attend, self.project = nn.Linear(features, 3 * features), nn.Linear(features, features)
        self.expand, self.contract = nn.Linear(features, 4 * features), nn.Linear(4 * features, features)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, features = x.shape
        parts = self.attend(self.norm1(x)).split(features, dim=2)
        query, key, value = (
            part.view(batch, tokens, self.heads, features // self.heads).transpose(1, 2) for part in parts
        )
        if self.fused:
            heads = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            scores = query @ key.transpose(-2, -1) / (features // self.heads) ** 0.5
            scores = scores.masked_fill(torch.tril(torch.ones(tokens, tokens)) == 0, float("-inf"))
            heads = functional.softmax(scores, dim=-1) @ value
        x = x + self.project(heads.transpose(1, 2).contiguous().view(batch, tokens, features))
        return x + self.contract(functional.gelu(self.expand(self.norm2(x)), approximate="tanh"))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (ResidualNetwork, (3, 17, 22)),
    "mobile": (MobileNetwork, (3, 11, 14)),
    "mixed": (Mixed, (3, 10, 14)),
    "perceptron": (Perceptron, (20,)),
    "transformer": (Transformer, (12,)),
}


@cache
def network(name: str) -> nn.Module:
    """The network of this name with a third of its weights, and statistics that were drawn."""
    torch.manual_seed(0)
    model = NETWORKS[name][0]()
    for number, parameter in enumerate(model.parameters()):
        if parameter.ndim > 1 and number != 4:
            parameter.data *= torch.rand_like(parameter) < 0.3
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 2)
            module.weight.data.uniform_(-1, 2)
    return model


def inputs_for(name: str, examples: int, seed: int = 1) -> Tensor:
    """Inputs that were drawn."""
    generator = torch.Generator().manual_seed(seed)
    shape = (examples, *NETWORKS[name][1])
    if name == "transformer":
        return torch.randint(0, 40, shape, generator=generator)
    return torch.randn(shape, generator=generator)


def outputs_of(name: str, inputs: Tensor) -> NDArray[np.float64]:
    """What torch computes in double precision."""
    model = copy.deepcopy(network(name)).double().eval()
    given = inputs.double() if inputs.is_floating_point() else inputs
    with torch.no_grad():
        return model(given).numpy()


def as_array(inputs: Tensor) -> NDArray[Any]:
    """The inputs as NumPy has them."""
    return inputs.numpy()
