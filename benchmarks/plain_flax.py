"""WRN-28-2 in flax, and a training loop by optax, which sparse training on JAX is compared with."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from networks import EXAMPLES, noise

from sparsecore.engine.schedules import Amount
from sparsecore.strategy import Every
from sparsecore_jax import sparsify
from sparsecore_strategies.dpr import DynamicReallocation

BLOCKS = "_Block_*/Conv_[12]/kernel"
"""A glob on the names of 3x3 convolutions in blocks; where the shortcut is a convolution, it is the first one."""


class _Block(nn.Module):
    """Norm, relu, convolution, twice, and a shortcut."""

    channels: int
    stride: int
    training: bool = True

    @nn.compact
    def __call__(self, x: Any) -> Any:
        active = nn.relu(_norm(self.training)(x))
        changes = x.shape[-1] != self.channels
        shortcut = nn.Conv(self.channels, (1, 1), self.stride, use_bias=False)(active) if changes else x
        residual = nn.Conv(self.channels, (3, 3), self.stride, padding=1, use_bias=False)(active)
        residual = nn.relu(_norm(self.training)(residual))
        return nn.Conv(self.channels, (3, 3), padding=1, use_bias=False)(residual) + shortcut


class WideResNet(nn.Module):
    """WRN-28-2, pre-activation; the same layers as the model ``wrn-28-2``."""

    classes: int = 10
    training: bool = True

    @nn.compact
    def __call__(self, images: Any) -> Any:
        """Logits of (batch, classes), from images of (batch, height, width, channels)."""
        x = nn.Conv(16, (3, 3), padding=1, use_bias=False)(images)
        for group, channels in enumerate((32, 64, 128)):
            for block in range(4):
                x = _Block(channels, 2 if group and not block else 1, self.training)(x)
        return nn.Dense(self.classes)(nn.relu(_norm(self.training)(x)).mean((1, 2)))


def _norm(training: bool) -> nn.Module:
    return nn.BatchNorm(use_running_average=not training, momentum=0.9, epsilon=1e-5)


def optimizer() -> optax.GradientTransformation:
    """Stochastic gradient descent as the backends do it."""
    return optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, momentum=0.9, nesterov=True))


def dense_step(batch: int, shape: tuple[int, int, int], sparsity: float | None = None) -> Callable[[], None]:
    """Return a training step on random images that lie in host memory as uint8, which ends when JAX has ended.

    Args:
        batch: images a step.
        shape: of the images, (height, width, channels).
        sparsity: of the 3x3 convolutions in blocks, by ``sparsecore_jax.sparsify``; None for a dense network.
    """
    model, rule, data = WideResNet(), optimizer(), noise(shape).train
    variables = model.init(jax.random.key(0), jnp.zeros((2, *shape)))
    start, training = variables["params"], None
    if sparsity is not None:
        start, rule, training = sparsify(start, rule, strategy="static", sparsity=sparsity, include=BLOCKS)

    def loss(parameters: Any, statistics: Any, images: Any, labels: Any) -> tuple[Any, Any]:
        given = {"params": parameters, "batch_stats": statistics}
        logits, moved = model.apply(given, images.astype(jnp.float32) / 255, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), moved["batch_stats"]

    def update(state: Any, images: Any, labels: Any) -> Any:
        parameters, statistics, kept = state
        gradient, statistics = jax.grad(loss, has_aux=True)(parameters, statistics, images, labels)
        steps, kept = rule.update(gradient, kept, parameters)
        return optax.apply_updates(parameters, steps), statistics, kept

    compiled, rng = jax.jit(update, donate_argnums=0), np.random.default_rng(0)
    state = (start, variables["batch_stats"], rule.init(start))

    def step() -> None:
        nonlocal state
        rows = rng.choice(EXAMPLES, batch, replace=False)
        parameters, statistics, kept = compiled(state, data.images[rows], data.labels[rows].astype(np.int32))
        if training is not None:
            parameters, kept = training.update(parameters, kept)
        state = jax.block_until_ready((parameters, statistics, kept))

    return step


def sparse_update(shape: tuple[int, int, int], sparsity: float) -> Callable[[], None]:
    """Return an update by DPR of about 14 % of the weights, with all that ``training.update`` does.

    Args:
        shape: of the images, (height, width, channels).
        sparsity: of the 3x3 convolutions in blocks.
    """
    dense = WideResNet().init(jax.random.key(0), jnp.zeros((2, *shape)))["params"]
    strategy = DynamicReallocation(target=Amount("14%"), initial_threshold=2e-2, schedule=Every(steps=1))
    parameters, rule, training = sparsify(dense, optimizer(), strategy=strategy, sparsity=sparsity, include=BLOCKS)
    state = rule.init(parameters)

    def update() -> None:
        nonlocal parameters, state
        # as after another step of the optimizer
        parameters, state = training.update(parameters, state._replace(count=state.count + 1))
        jax.block_until_ready((parameters, state))

    return update
