"""Convolutional networks in plain torch, as many people have them: ResNet, VGG and MobileNet."""

from torch import Tensor, nn
from torch.nn import functional


class ResNet(nn.Module):
    """A residual network (He et al. 2016) with blocks of one kind.

    Args:
        block: :class:`BasicBlock` or :class:`Bottleneck`.
        counts: the number of blocks of each of the four groups.
        classes: the number of classes.
        is_small: whether the images are small (CIFAR), so that the first convolution keeps their size.
    """

    def __init__(
        self, block: "type[BasicBlock | Bottleneck]", counts: tuple[int, ...], classes: int, *, is_small: bool
    ) -> None:
        super().__init__()
        first = nn.Conv2d(3, 64, 3, padding=1, bias=False) if is_small else nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        pool = nn.Identity() if is_small else nn.MaxPool2d(3, 2, 1)
        self.stem = nn.Sequential(first, nn.BatchNorm2d(64), nn.ReLU(inplace=True), pool)
        blocks, inside = [], 64
        for group, count in enumerate(counts):
            for number in range(count):
                made = block(inside, 64 * 2**group, stride=2 if group and not number else 1)
                blocks.append(made)
                inside = made.out
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(inside, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (N, classes), of images, (N, 3, H, W)."""
        return self.fc(self.blocks(self.stem(images)).mean((2, 3)))


class BasicBlock(nn.Module):
    """Two convolutions of 3×3 and a shortcut."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.out = width
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.shortcut = _shortcut(inside, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Images, (N, out, H / stride, W / stride), of images, (N, inside, H, W)."""
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out)) + self.shortcut(x)
        return functional.relu(out, inplace=True)


class Bottleneck(nn.Module):
    """Convolutions of 1×1, 3×3 and 1×1, and a shortcut."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.out = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, self.out, 1, bias=False), nn.BatchNorm2d(self.out)
        self.shortcut = _shortcut(inside, self.out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Images, (N, out, H / stride, W / stride), of images, (N, inside, H, W)."""
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        out = functional.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out)) + self.shortcut(x)
        return functional.relu(out, inplace=True)


def _shortcut(inside: int, out: int, stride: int) -> nn.Module:
    if inside == out and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))


def resnet18() -> ResNet:
    """ResNet-18 for CIFAR-10."""
    return ResNet(BasicBlock, (2, 2, 2, 2), 10, is_small=True)


def resnet50() -> ResNet:
    """ResNet-50 for ImageNet."""
    return ResNet(Bottleneck, (3, 4, 6, 3), 1000, is_small=False)


def vgg16() -> nn.Sequential:
    """VGG-16 with batch norm and one linear layer, for CIFAR-10."""
    parts: list[nn.Module] = []
    inside = 3
    for group, (width, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        if group:
            parts.append(nn.MaxPool2d(2))
        for _ in range(count):
            parts += [nn.Conv2d(inside, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            inside = width
    return nn.Sequential(*parts, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(inside, 10))


class MobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al. 2018) for ImageNet; depthwise convolutions stay dense by default."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        settings = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2))
        parts: list[nn.Module] = [_normalized(3, 32, 3, 2)]
        inside = 32
        for expansion, out, count, stride in (*settings, (6, 320, 1, 1)):
            for number in range(count):
                parts.append(_InvertedResidual(inside, out, 1 if number else stride, expansion))
                inside = out
        self.features = nn.Sequential(*parts, _normalized(inside, 1280, 1))
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (N, classes), of images, (N, 3, H, W)."""
        return self.classifier(self.dropout(self.features(images).mean((2, 3))))


class _InvertedResidual(nn.Module):
    def __init__(self, inside: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inside * expansion
        expand = [_normalized(inside, hidden, 1)] if expansion > 1 else []
        depthwise = _normalized(hidden, hidden, 3, stride, groups=hidden)
        self.conv = nn.Sequential(*expand, depthwise, nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out))
        self.has_shortcut = stride == 1 and inside == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


def _normalized(inside: int, out: int, side: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inside, out, side, stride, side // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU6(inplace=True))
