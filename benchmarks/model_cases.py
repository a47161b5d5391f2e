"""The networks of ``torch_models.py``: their batches, their optimizers, and steps of them in several ways."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from convolutional_models import MobileNetV2, resnet18, resnet50, vgg16
from densities import Densities
from plain_torch import wide_resnet
from torch import Tensor, nn
from torch.nn import functional
from transformer_models import GPT, Llama, VisionTransformer

from sparsecore_torch import sparsify

TOPOLOGIES = Path(__file__).parent / "topologies"

Optimize = Callable[[nn.Module], torch.optim.Optimizer]


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)


def _adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


@attrs.define(eq=False)
class Variant:
    """One way to train a network: its step, and what computes it.

    Args:
        model: is trained.
        optimizer: of its parameters.
        batch: the inputs and the labels.
        lowered: what autocast lowers activations to; None for no autocast.
        training: the sparse training; None for a dense network.
    """

    model: Any
    optimizer: torch.optim.Optimizer
    batch: tuple[Tensor, Tensor]
    lowered: torch.dtype | None
    training: Any = None

    def step(self) -> float:
        """Make one training step and return the loss."""
        inputs, labels = self.batch
        self.optimizer.zero_grad()
        with torch.autocast("cpu", self.lowered, enabled=self.lowered is not None):
            loss = functional.cross_entropy(self.model(inputs), labels)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def compile(self) -> None:
        """Compile the forward and backward pass with inductor."""
        self.model = torch.compile(self.model)

    def decisions(self) -> dict[str, str]:
        """Return what computes each region, and the ratio of times that decided it."""
        made = {} if self.training is None else self.training.routes.decisions.made
        return {case: str(decision) for case, decision in made.items()}


@attrs.frozen
class Case:
    """A network and its batch.

    Attributes:
        title: for tables.
        make: makes the network.
        batch: examples a step.
        shape: of an example: (3, H, W) for images, (features,), or (length,) for tokens.
        classes: of the labels.
        tokens: the size of the vocabulary; 0 where the inputs are no tokens.
        optimize: makes the optimizer.
        settings: of ``sparsify``.
        sparsities: returns the sparsity of each sparse tensor, by the name of its parameter, for that of the network;
            None where all have the same.
        is_slow: whether it is measured only when it is asked for.
    """

    title: str
    make: Callable[[], nn.Module]
    batch: int
    shape: tuple[int, ...]
    classes: int
    tokens: int = 0
    optimize: Optimize = _sgd
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    sparsities: Callable[[float], Mapping[str, float]] | None = None
    is_slow: bool = False

    @property
    def has_images(self) -> bool:
        """Whether an example is an image, which may lie in memory in two orders."""
        return len(self.shape) == 3

    def smaller(self) -> "Case":
        """Return the same network with a few examples a step."""
        return attrs.evolve(self, batch=min(self.batch, 16))

    def compact(self) -> "Case":
        """Return the same network with the active weights alone in memory."""
        return attrs.evolve(self, title=f"{self.title}, compact storage", settings={"storage": "compact"})

    def dense(self, is_channels_last: bool, lowered: torch.dtype | None) -> Variant:
        """Return the dense network.

        Args:
            is_channels_last: whether images and filters lie in memory with their channels last.
            lowered: what autocast lowers activations to; None for no autocast.
        """
        order = torch.channels_last if is_channels_last else torch.contiguous_format
        torch.manual_seed(0)
        model = self.make().to(memory_format=order)
        inputs, labels = self._examples()
        inputs = inputs.contiguous(memory_format=order) if self.has_images else inputs
        return Variant(model, self.optimize(model), (inputs, labels), lowered)

    def sparse(self, sparsity: float, lowered: torch.dtype | None = None, kernels: str = "sparse") -> Variant:
        """Return the sparse network, with its images in channels last.

        Args:
            sparsity: of the sparse tensors together.
            lowered: what autocast lowers activations to; None for no autocast.
            kernels: "sparse" or "dense".
        """
        made = self.dense(self.has_images, lowered)
        training = sparsify(
            made.model,
            made.optimizer,
            strategy="static",
            sparsity=self.sparsities(sparsity) if self.sparsities else sparsity,
            kernels=kernels,
            **self.settings,
        )
        return attrs.evolve(made, training=training)

    def _examples(self) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(1)
        size = (self.batch, *self.shape)
        if self.tokens:
            tokens = torch.randint(self.tokens, size, generator=random)
            return tokens, tokens.roll(-1, 1).flatten()
        return torch.randn(size, generator=random), torch.randint(self.classes, (self.batch,), generator=random)


def reached_by_dpr(sparsity: float) -> dict[str, float]:
    """Return the sparsity of each convolution of WRN-28-2 that a run of DPR reached.

    Args:
        sparsity: of the network, for which there is a file of ``densities.py``.

    Raises:
        InputError: there is none.
    """
    densities = Densities.read(TOPOLOGIES / f"dpr-cifar10-{sparsity}.json").tensors
    return {_in_torch(name): 1 - density for name, density in densities.items()}


def _in_torch(name: str) -> str:
    """Return the name in the network of torch, whose blocks are counted through its groups."""
    group, block, convolution = map(int, re.findall(r"\d+", name))
    return f"blocks.{4 * (group - 1) + block - 1}.conv{convolution}.weight"


_CASES: Mapping[str, Case] = {
    "wrn-28-2": Case("WRN-28-2, 32×32, batch 100", wide_resnet, 100, (3, 32, 32), 10),
    "wrn-28-2-dpr": Case(
        "WRN-28-2, 32×32, batch 100, densities that DPR reached",
        wide_resnet,
        100,
        (3, 32, 32),
        10,
        settings={"exclude": ("first.weight", "*.shortcut.weight", "classifier.weight")},
        sparsities=reached_by_dpr,
    ),
    "resnet-18": Case("ResNet-18, 32×32, batch 50", resnet18, 50, (3, 32, 32), 10),
    "vgg-16": Case("VGG-16 with batch norm, 32×32, batch 50", vgg16, 50, (3, 32, 32), 10),
    "resnet-50": Case("ResNet-50, 224×224, batch 16", resnet50, 16, (3, 224, 224), 1000),
    "mobilenet-v2": Case("MobileNetV2, 224×224, batch 16", MobileNetV2, 16, (3, 224, 224), 1000),
    "vit-tiny": Case("ViT-Tiny/16, 224×224, batch 16", VisionTransformer, 16, (3, 224, 224), 1000, optimize=_adamw),
    "gpt": Case("GPT, 4 layers of 256, 128 tokens, batch 16", GPT, 16, (128,), 256, tokens=256, optimize=_adamw),
    "mlp": Case(
        "MLP 1024-4096-4096-10, compact storage, batch 100",
        lambda: nn.Sequential(nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 10)),
        100,
        (1024,),
        10,
        settings={"storage": "compact"},
    ),
    "llama": Case(
        "Llama of 97 M, 512 tokens, AdamW", Llama, 1, (512,), 8000, tokens=8000, optimize=_adamw, is_slow=True
    ),
}

CASES: Mapping[str, Case] = {
    **_CASES,
    **{f"{name}-compact": _CASES[name].compact() for name in ("resnet-18", "vgg-16", "vit-tiny", "gpt")},
}


def check_losses(case: Case, sparsity: float) -> dict[str, list[float]]:
    """Return the losses of two steps with dense and with sparse kernels, which must be equal but for rounding.

    The first is compared to four digits. The second follows from the gradients, which rounding changes far more: where
    a relu or a maximum decides otherwise, those of the dense kernels in float32 differ from float64 by up to 9e-3 in
    VGG-16 (relative norm of the gradient of a tensor), those of the sparse ones by up to 2e-3.

    Args:
        case: the network.
        sparsity: of both.
    """
    losses = {}
    for kernels in ("dense", "sparse"):
        variant = case.sparse(sparsity, kernels=kernels)
        if kernels == "sparse":
            variant.training.use_kernels("sparse")  # also where they are slower
        torch.manual_seed(2)  # of dropout
        losses[kernels] = [variant.step() for _ in range(2)]
    for dense, sparse, tolerance in zip(losses["dense"], losses["sparse"], (5e-4, 5e-3), strict=True):
        if abs(sparse - dense) > tolerance * abs(dense):
            raise SystemExit(f"{case.title}: the losses of two steps differ by the kernels: {losses}")
    return losses
