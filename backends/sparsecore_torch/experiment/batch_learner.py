"""What the learners of the torch backend share: their batches, the running sums and evaluation."""

import ctypes
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from sparsecore.data.images import Batch, Split
from sparsecore.engine.arrays import Gradient
from sparsecore.learning.protocols import Task, Totals
from sparsecore_torch.experiment.device import DeviceConfig
from sparsecore_torch.experiment.inputs import inputs_of


class RunningTotals:
    """Running sums of the loss, the number of correct predictions, and the number of examples.

    Attributes:
        vector: the three sums, float64, (3,), on the device.

    Args:
        device: that adds them up.
    """

    def __init__(self, device: torch.device) -> None:
        self.vector = torch.zeros(3, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            losses: of each example, in nats, (batch,).
            logits: (batch, classes).
            labels: int64, (batch,).
        """
        self.vector[0] += losses.sum(dtype=torch.float64)
        self.vector[1] += (logits.argmax(1) == labels).sum()
        self.vector[2] += len(labels)

    def add_totals(self, others: "RunningTotals") -> None:
        """Add other sums.

        Args:
            others: on the same device.
        """
        self.vector += others.vector

    def read(self) -> Totals:
        """Return the sums; the host waits for the device.

        Returns:
            The loss in nats, the number of correct predictions and that of examples.
        """
        loss, correct, examples = self.vector.tolist()
        return Totals(loss, int(correct), int(examples))


class BatchLearner(ABC):
    """The part of a :class:`sparsecore.learning.protocols.Learner` that does not depend on how weights are stored.

    Args:
        task: the network, its start values, the data and the optimizer.
        config: how the network is computed.
    """

    def __init__(self, task: Task, config: DeviceConfig) -> None:
        if config.device.type == "cpu":
            keep_freed_memory()
        self._config = config
        self._inputs = inputs_of(task.images, config)
        self._totals = RunningTotals(config.device)

    @abstractmethod
    def backward(self, batch: Batch, *, dense: bool = False) -> Gradient | None:
        """Compute the gradients of a batch; with ``dense`` those of all positions, too."""

    @abstractmethod
    def optimizer_step(self, learning_rate: float) -> None:
        """Take one optimizer step by the gradients."""

    @abstractmethod
    def _evaluation_logits(self, images: Tensor) -> Tensor:
        """Compute (batch, classes) without what belongs to training alone."""

    def train(self, batch: Batch, learning_rate: float) -> None:
        """Compute the gradients of a batch, and take an optimizer step."""
        self.backward(batch)
        self.optimizer_step(learning_rate)

    def upcoming(self, plan: Iterator[Batch]) -> Iterator[Batch]:
        """Return the batches of a plan, whose images may be loaded before they are asked for."""
        return self._inputs.upcoming(plan)

    def totals(self) -> Totals:
        """Return the sums since :meth:`reset_totals`."""
        return self._totals.read()

    def reset_totals(self) -> None:
        """Set the sums to zero."""
        self._totals = RunningTotals(self._config.device)

    @torch.no_grad()
    def evaluate(self, split: Split) -> Totals:
        """Return the sums over a split, as the network predicts, and without augmentation.

        Args:
            split: of the data set; any other is copied to the device at each call. Ranks share the work.
        """
        config, totals = self._config, RunningTotals(self._config.device)
        with config.computing(), config.parallel.communicating():
            for images, labels in self._inputs.of_split(split):
                logits, labels = by_label(self._evaluation_logits(images).to(config.dtype), labels)  # noqa: PLW2901
                totals.add(functional.cross_entropy(logits, labels, reduction="none"), logits, labels)
            config.parallel.total(totals.vector)
        return totals.read()


def by_label(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and labels with one row a label, where every position of a sequence has one.

    Args:
        logits: (batch, classes), or (batch, length, classes).
        labels: int64, (batch,), or (batch, length).

    Returns:
        (labels, classes) and (labels,).
    """
    return logits.flatten(0, -2), labels.flatten()


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1
_LARGEST_ON_HEAP = 2**30


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for later use, in the whole process; buffers then cost no page faults.

    Returns:
        Whether the C library could be configured so; glibc can.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _LARGEST)) and bool(mallopt(_MMAP_THRESHOLD, _LARGEST_ON_HEAP))
