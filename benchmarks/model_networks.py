"""The networks of ``predict_models.py``, with random weights of which a share is zero."""

from collections.abc import Callable, Mapping

import torch
from convolutional_models import MobileNetV2, resnet18, resnet50, vgg16
from plain_torch import WideResNet
from torch import nn
from transformer_models import Block, VisionTransformer

NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "WRN-28-2": (WideResNet, (3, 32, 32)),
    "ResNet-18": (resnet18, (3, 32, 32)),
    "VGG-16": (vgg16, (3, 32, 32)),
    "ResNet-50": (resnet50, (3, 224, 224)),
    "MobileNetV2": (MobileNetV2, (3, 224, 224)),
    "ViT-Tiny": (VisionTransformer, (3, 224, 224)),
    "GPT-2 block": (lambda: Block(768, 12, is_causal=True), (128, 768)),
    "MLP": (
        lambda: nn.Sequential(nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 10)),
        (1024,),
    ),
}
"""What makes each, and the shape of an example."""


def sparse_network(name: str, sparsity: float) -> nn.Module:
    """The network in evaluation, with this share of zeros in each weight, drawn at random.

    The first convolution, depthwise ones and norms stay dense, as is usual.
    """
    torch.manual_seed(0)
    model = NETWORKS[name][0]().eval()
    for layer in model.modules():
        is_sparse_convolution = isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.in_channels > 3
        if is_sparse_convolution or isinstance(layer, nn.Linear):
            layer.weight.data *= torch.rand_like(layer.weight) >= sparsity
    return model
