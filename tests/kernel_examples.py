"""Layers and a small network in training on the sparse kernels, for the tests of ``kernels="sparse"``."""

import torch
from compact_examples import STRATEGIES
from sparsify_examples import sgd
from torch import nn
from torch.nn.functional import cross_entropy

from sparsecore_torch import sparsify

CLOSE = {"rtol": 2e-4, "atol": 2e-5}
STORAGES = ["masked", "compact"]


def only(layer, sparsity=0.7, storage="masked", **options):
    """One layer, in training by itself on the sparse kernels."""
    model = nn.Sequential(layer)
    training = sparsify(
        model,
        sgd(model),
        strategy="static",
        sparsity=sparsity,
        include="*weight",
        storage=storage,
        **{"kernels": "sparse", **options},
    )
    always(training)
    return model, training


def convnet():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 10, 3, stride=2, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(10, 6, 1),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 20),
        nn.ReLU(),
        nn.Linear(20, 4),
    )


def started(kernels, storage="masked", strategy="set", order=torch.contiguous_format):
    """The network with all its weights sparse, its optimizer, and the training."""
    model = convnet().to(memory_format=order)
    optimizer = sgd(model, lr=0.05)
    training = sparsify(
        model,
        optimizer,
        strategy=STRATEGIES[strategy](),
        sparsity=0.7,
        include=["[0358].weight", "10.weight"],
        storage=storage,
        kernels=kernels,
    )
    always(training)
    return model, optimizer, training


def always(training):
    """Let a training use the sparse kernels, if it has some, also where torch is faster."""
    if training.routes.sparse:
        training.use_kernels("sparse")


def pictures(step, size=19, sides=(9, 8)):
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(size, 3, *sides, generator=generator)
    return images, torch.randint(0, 4, (size,), generator=generator)


def train(model, optimizer, steps, **options):
    losses = []
    for step in range(steps):
        images, labels = pictures(step, **options)
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
