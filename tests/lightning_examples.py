"""A small LightningModule, its data and its trainers, for processes of their own.

Lightning imports torchvision, whose operators cannot be loaded beside a PyTorch for the CPU alone; the module that
registers them is replaced by an empty one, as nothing here uses it.
"""

import sys
import types
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
# Lightning's own use of PyTorch, and its advice
for message in (r"`isinstance\(treespec", "Be aware that when using `ckpt_path`", "The dirpath has changed"):
    warnings.filterwarnings("ignore", message)

import lightning
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sparsecore.strategy import Every
from sparsecore_strategies.set import SparseEvolution

warnings.simplefilter("ignore", PossibleUserWarning)

OPTIONS = {"strategy": SparseEvolution(schedule=Every(steps=5)), "sparsity": 0.8}


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))


def loader() -> DataLoader[Any]:
    inputs = torch.randn(96, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), batch_size=8)


class Module(lightning.LightningModule):
    """A perceptron with one optimizer and a schedule of its learning rate."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = layers()

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

    def training_step(self, batch: Any, _: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("loss", self.loss(batch))

    def test_step(self, batch: Any) -> None:
        self.log("test_loss", self.loss(batch))

    def predict_step(self, batch: Any, _: int) -> Tensor:
        return self.layers(batch[0])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 0.02)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2)]


class Alternating(Module):
    """Two networks with an optimizer each, which manual optimization steps in turns; a third one has dense tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.other = layers()
        self.scale = nn.Parameter(torch.ones(3))

    def training_step(self, batch: Any, index: int) -> None:
        optimizers: Any = self.optimizers()
        self.zero_grad()
        network = (self.layers, self.other)[index % 2]
        self.manual_backward(nn.functional.cross_entropy(network(batch[0]) * self.scale, batch[1]))
        optimizers[index % 2].step()
        optimizers[2].step()

    def configure_optimizers(self) -> Any:
        networks = self.layers, self.other
        return [*(torch.optim.SGD(one.parameters(), 0.1) for one in networks), torch.optim.SGD([self.scale], 0.1)]


class Stop(Callback):
    """Raises an error after some steps, as a crash or ^C does."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.after:
            raise RuntimeError("stopped")


class DensestSeen(Callback):
    """Notes the largest density of hidden weights in validation."""

    def __init__(self) -> None:
        self.density = 0.0

    def on_validation_batch_end(self, _: Any, pl_module: Any, *__: Any) -> None:
        self.density = max(self.density, density(pl_module.layers))


def density(network: Any) -> float:
    """Return the share of the weights of the first two layers that are not zero."""
    weights = torch.cat([network[index].weight.detach().reshape(-1) for index in (0, 2)])
    return float((weights != 0).float().mean())


def trainer(callbacks: Sequence[Any], folder: str | Path, epochs: int = 4, **options: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    keep = {"enable_checkpointing": any("Checkpoint" in type(one).__name__ for one in callbacks)}
    return lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=folder,
        callbacks=[*callbacks],
        **{**quiet, **keep, "devices": 1, **options},
    )


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(mine, its) for mine, its in pairs)
