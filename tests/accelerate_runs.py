"""Runs with accelerate and sparse training, each of which returns what a test looks at."""

import os
from pathlib import Path
from typing import Any

IS_ALONE = os.environ.get("WORLD_SIZE") == "1"
for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if IS_ALONE else ():
    os.environ.pop(name, None)

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from processes import apart
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sparsecore.strategy import Every
from sparsecore_strategies.set import SparseEvolution
from sparsecore_torch import sparsify

EPOCHS = 4
RUNS: dict[str, dict[str, Any]] = {
    "sparsify, then prepare": {"first": "sparsify"},
    "prepare, then sparsify": {"first": "prepare"},
    "compact, then prepare": {"first": "sparsify", "storage": "compact"},
    "prepare, then compact": {"first": "prepare", "storage": "compact", "precision": "no"},
}


def loader() -> DataLoader[Any]:
    inputs = torch.randn(96, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), batch_size=8)


class Run:
    """A model under accelerate, in bfloat16 and with two batches a step."""

    def __init__(self, first: str, storage: str = "masked", precision: str = "bf16") -> None:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        torch.manual_seed(0)
        self.accelerator = Accelerator(cpu=True, mixed_precision=precision, gradient_accumulation_steps=2)
        model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))
        optimizer: Any = torch.optim.AdamW(model.parameters(), 0.02)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
        options = {"strategy": SparseEvolution(schedule=Every(steps=5)), "sparsity": 0.8, "storage": storage}
        if first == "sparsify":
            self.training = sparsify(model, optimizer, **options)
        prepared = self.accelerator.prepare(model, optimizer, loader(), scheduler)
        self.model, self.optimizer, self.loader, self.scheduler = prepared
        if first == "prepare":
            self.training = sparsify(self.model, self.optimizer, **options)
        self.accelerator.register_for_checkpointing(self.training)

    def train(self, epochs: int) -> None:
        for _ in range(epochs):
            for inputs, labels in self.loader:
                with self.accelerator.accumulate(self.model):
                    loss = nn.functional.cross_entropy(self.model(inputs), labels)
                    self.accelerator.backward(loss)
                    if self.accelerator.sync_gradients:
                        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
                    self.optimizer.step()
                    self.scheduler.step()
                    self.optimizer.zero_grad()

    def answer(self) -> dict[str, Any]:
        """What has come out; the training ends."""
        step, updates = self.training.step, self.training.updates
        self.training.squash()
        plain = self.accelerator.unwrap_model(self.model)
        numbers = [float(number) for one in plain.parameters() for number in one.detach().reshape(-1)]
        weights = torch.cat([plain[index].weight.detach().reshape(-1) for index in (0, 2)])
        return {
            "values": numbers,
            "density": float((weights != 0).float().mean()),
            "step": step,
            "updates": updates,
            "rate": self.optimizer.param_groups[0]["lr"],
        }


def on_two_ranks() -> dict[str, Any]:
    """Train on each rank with its half of the batches; compact storage before ``prepare``."""
    ways = ("sparsify, then prepare", "prepare, then sparsify", "compact, then prepare")
    answers = {}
    for name in ways:
        run = Run(**RUNS[name], precision="no")
        run.train(EPOCHS)
        answers[name] = run.answer()
    return answers


def whole(folder: str) -> dict[str, Any]:
    """Train without a stop, and save the state at half the time."""
    answers = {}
    for name, options in RUNS.items():
        run = Run(**options)
        run.train(EPOCHS // 2)
        run.accelerator.save_state(str(Path(folder, name)))
        run.train(EPOCHS // 2)
        answers[name] = run.answer()
    return answers


def resumed(folder: str) -> dict[str, Any]:
    """Go on from the saved states."""
    answers = {}
    for name, options in RUNS.items():
        run = Run(**options)
        run.train(1)  # so that there is something to be replaced
        run.accelerator.load_state(str(Path(folder, name)))
        run.train(EPOCHS // 2)
        answers[name] = run.answer()
    return answers


def whole_and_resumed(folder: str) -> tuple[Any, Any]:
    """Each in a process of its own, so that the second knows nothing but the files of the first."""
    return apart(whole, folder), apart(resumed, folder)
