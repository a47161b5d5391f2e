"""Plain torch networks and a training loop, which sparse training is compared with."""

import time
from typing import Any

import numpy as np
import torch
from networks import EXAMPLES, noise
from torch import Tensor, nn
from torch.nn import functional


class WideResNet(nn.Module):
    """WRN-28-2, pre-activation; the same layers as the model ``wrn-28-2``."""

    def __init__(self, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        blocks, inside = [], 16
        for group, out in enumerate((32, 64, 128)):
            for block in range(4):
                blocks.append(_Block(inside, out, stride=2 if group and not block else 1))
                inside = out
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(inside)
        self.classifier = nn.Linear(inside, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits of (batch, classes)."""
        x = functional.relu(self.norm(self.blocks(self.first(images))))
        return self.classifier(x.mean((2, 3)))


class _Block(nn.Module):
    """Norm, relu, convolution, twice, and a shortcut."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inside), nn.BatchNorm2d(out)
        self.conv1 = nn.Conv2d(inside, out, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inside, out, 1, stride, bias=False) if inside != out else None

    def forward(self, x: Tensor) -> Tensor:
        active = functional.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(functional.relu(self.norm2(self.conv1(active)))) + shortcut


def perceptron(units: int, layers: int) -> nn.Sequential:
    """So many hidden layers of so many units, on flat images of as many pixels, and a classifier."""
    hidden = [part for _ in range(layers) for part in (nn.Linear(units, units, bias=False), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(units, 10))


def optimizer_of(model: nn.Module) -> torch.optim.SGD:
    """Stochastic gradient descent as the backends do it."""
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)


class Loop:
    """Training steps on random batches of images that lie on the device as uint8.

    Args:
        model: the network.
        optimizer: of its parameters.
        batch: images a step.
        shape: of the images, (height, width, channels).
        examples: how many there are.
        lowered: what autocast lowers activations to; None for no autocast.
        memory_format: of the batches; the network's should be the same.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: int,
        shape: tuple[int, int, int],
        examples: int = EXAMPLES,
        lowered: torch.dtype | None = None,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self.model, self.optimizer, self._batch, self._lowered = model, optimizer, batch, lowered
        self._memory_format = memory_format
        self._device = next(model.parameters()).device
        images = noise(shape, examples)
        self._pictures = torch.from_numpy(images.train.images).to(self._device)
        self._labels = torch.from_numpy(images.train.labels).to(self._device)
        self._mean, self._std = (
            torch.as_tensor(moment, dtype=torch.float32, device=self._device) for moment in (images.mean, images.std)
        )
        self._rng = np.random.default_rng(0)
        self.optimizer_seconds: list[float] = []

    def step(self) -> None:
        """One step; the optimizer's part of it is noted in ``optimizer_seconds``."""
        images, labels = self.some()
        self.optimizer.zero_grad()
        self.loss(images, labels).backward()
        begin = time.perf_counter()
        self.optimizer.step()
        self.optimizer_seconds.append(time.perf_counter() - begin)

    def some(self) -> tuple[Tensor, Tensor]:
        """A batch as (batch, channels, height, width) and its labels."""
        rows = torch.from_numpy(self._rng.choice(len(self._pictures), self._batch, replace=False)).to(self._device)
        pictures = self._pictures[rows].float().sub_(self._mean).div_(self._std)
        pictures = pictures.permute(0, 3, 1, 2).contiguous(memory_format=self._memory_format)
        return pictures, self._labels[rows]

    def loss(self, images: Tensor, labels: Tensor) -> Any:
        """The batch's mean cross-entropy."""
        with torch.autocast(self._device.type, self._lowered, enabled=self._lowered is not None):
            return functional.cross_entropy(self.model(images), labels)


def wide_resnet(device: str = "cpu", memory_format: torch.memory_format = torch.channels_last) -> WideResNet:
    """WRN-28-2 on the device; on most, channels last is the faster memory format."""
    return WideResNet().to(device=device, memory_format=memory_format)
