"""Cross-entropy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def cross_entropy(logits: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[Any]:
    """The loss of each example in nats, (batch,)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(shifted).sum(axis=1)) - np.take_along_axis(shifted, labels[:, None], 1)[:, 0])


def mean_gradient(logits: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[Any]:
    """The gradient of the batch's mean cross-entropy for the logits."""
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    probabilities[np.arange(len(labels)), labels] -= 1
    return np.asarray(probabilities / len(labels))


def hits(logits: NDArray[Any], labels: NDArray[np.int64]) -> int:
    """How many examples have their largest logit at the label."""
    return int(np.count_nonzero(logits.argmax(axis=1) == labels))
