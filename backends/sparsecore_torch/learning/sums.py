"""Sums over examples, on the device: adding to them waits for nothing."""

import torch
from torch import Tensor

from sparsecore.learning import Totals


class Sums:
    """The loss, the hits and the number of examples.

    Attributes:
        vector: the three, float64, on the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.vector = torch.zeros(3, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            losses: of each example, in nats.
            logits: (batch, classes).
            labels: int64.
        """
        self.vector[0] += losses.sum(dtype=torch.float64)
        self.vector[1] += (logits.argmax(1) == labels).sum()
        self.vector[2] += len(labels)

    def add_sums(self, others: "Sums") -> None:
        """Add what others have summed up."""
        self.vector += others.vector

    def read(self) -> Totals:
        """The sums, on the host."""
        loss, correct, examples = self.vector.tolist()
        return Totals(loss, int(correct), int(examples))
