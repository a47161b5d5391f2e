"""Small models with what networks are made of, for the tests of regions."""

import torch
from kernel_examples import always
from sparsify_examples import sgd
from torch import nn
from torch.nn import functional

from sparsecore_torch import sparsify


def sparse(model, storage="masked", **options):
    """Sparse training of all matrices and kernels of a model, by default in regions wherever possible."""
    matrices = [name for name, one in model.named_parameters() if one.ndim > 1]
    options = {"strategy": "static", "sparsity": 0.7, "include": matrices, "kernels": "sparse", **options}
    training = sparsify(model, sgd(model), storage=storage, **options)
    always(training)
    return training


class Residual(nn.Module):
    """Two blocks with batch norm, the second with a stride and a shortcut that is a convolution."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (8, 8, 12, 12, 12))
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.three = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False)
        self.four = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(8, 12, 1, stride=2, bias=False)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = functional.silu(self.norms[0](self.stem(x)))
        x = x + self.two(functional.silu(self.norms[1](self.one(x))))
        y = self.norms[3](self.four(functional.silu(self.norms[2](self.three(x)))))
        y += self.norms[4](self.shortcut(x))
        y = functional.adaptive_avg_pool2d(functional.silu(y), 1)
        return self.head(torch.flatten(y, 1))


class SqueezeExcite(nn.Module):
    """An inverted bottleneck: depthwise, a factor for each channel, hardswish."""

    def __init__(self):
        super().__init__()
        self.expand, self.depthwise = nn.Conv2d(4, 12, 1), nn.Conv2d(12, 12, 5, padding=2, groups=12)
        self.norm = nn.BatchNorm2d(12, momentum=0.3, eps=1e-3)
        self.squeeze, self.excite = nn.Conv2d(12, 3, 1), nn.Conv2d(3, 12, 1)
        self.project = nn.Conv2d(12, 4, 1)

    def forward(self, x):
        y = functional.hardswish(self.norm(self.depthwise(functional.hardswish(self.expand(x)))))
        factor = self.excite(functional.silu(self.squeeze(y.mean((2, 3), keepdim=True))))
        y = y * functional.hardsigmoid(factor)
        return x + self.project(y) * 0.5


class FeedForward(nn.Module):
    """The half of a transformer's block that has no attention, on (batch, tokens, features)."""

    def __init__(self):
        super().__init__()
        self.norm, self.other = nn.LayerNorm(12), nn.RMSNorm(12, eps=1e-6)
        self.up, self.gate, self.down = nn.Linear(12, 20), nn.Linear(12, 20), nn.Linear(20, 12)
        self.gamma = nn.Parameter(torch.full((12,), 0.3))

    def forward(self, x):
        y = self.norm(x)
        y = self.down(functional.gelu(self.up(y)) * torch.tanh(self.gate(y)))
        return self.other(x + y * self.gamma)


class SideBySide(nn.Module):
    """Convolutions of several shapes side by side, with pooling between."""

    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(4, 6, 3, padding="same", dilation=2)
        self.right = nn.Conv2d(4, 6, (1, 5), padding=(0, 2), stride=(1, 1), groups=2)
        self.norm = nn.GroupNorm(3, 12)
        self.last = nn.Conv2d(12, 6, 3, stride=(2, 1), padding=(1, 0))
        self.head = nn.Linear(6 * 2 * 3, 3)

    def forward(self, x):
        y = torch.cat([functional.leaky_relu(self.left(x), 0.1), functional.elu(self.right(x))], 1)
        y = functional.avg_pool2d(self.norm(y), 3, 2, 1)
        y = functional.max_pool2d(torch.sigmoid(self.last(y)), 2, 1, 1)
        y = functional.adaptive_avg_pool2d(y, (2, 3))
        return self.head(y.reshape(y.shape[0], -1))


def _made(model, *shape, seed=0):
    def make():
        torch.manual_seed(seed)
        return model(), (torch.randn(*shape),)

    return make


MODELS = {
    "residual": _made(Residual, 9, 3, 8, 8),
    "squeeze-excite": _made(SqueezeExcite, 18, 4, 6, 5),
    "feed-forward": _made(FeedForward, 3, 7, 12),
    "side-by-side": _made(SideBySide, 5, 4, 9, 8),
}
"""Makes a model and its inputs, always the same, by a name."""


def gradients_of(model, inputs):
    """The output, and the gradients of a loss for inputs and Parameters by name."""
    inputs = [one.clone().requires_grad_() for one in inputs]
    out = model(*inputs)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    (out * weights).sum().backward()
    found = {f"input {number}": one.grad for number, one in enumerate(inputs)}
    return out.detach(), found | {name: one.grad for name, one in model.named_parameters()}
