"""Train LeNet-300-100 on MNIST with Lightning, dense and with the callback of sparse training, and compare them.

    python examples/lightning_mnist.py --data FOLDER     # MNIST's files in FOLDER/MNIST/raw, as torchvision leaves them

The rows are the dense network and one sparse network for each strategy, trained in the same way.
"""

import argparse
import json
import logging
import platform
from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sparsecore.data.images import Images, Split
from sparsecore.data.mnist import Mnist
from sparsecore_torch.lightning import SparseTraining


class LeNet(lightning.LightningModule):  # type: ignore[misc]  # Lightning is not read by the type checker
    """A perceptron with two hidden layers, trained by AdamW along one cycle of the learning rate."""

    def __init__(self, hidden: Sequence[int], learning_rate: float) -> None:
        super().__init__()
        first, second = hidden
        self.learning_rate = learning_rate
        self.layers = nn.Sequential(
            nn.Linear(784, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 10)
        )

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        return nn.functional.cross_entropy(self.layers(images), labels)

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Log the accuracy on a batch."""
        images, labels = batch
        self.log("accuracy", (self.layers(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> Any:
        """Return the optimizer and the schedule of its learning rate."""
        optimizer = torch.optim.AdamW(self.parameters(), self.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def loader_of(images: Images, split: Split, batch: int, *, shuffle: bool) -> DataLoader[Any]:
    """Return batches of flat, normalized images and labels."""
    pixels = (torch.from_numpy(split.images).float() - float(images.mean[0])) / float(images.std[0])
    return DataLoader(TensorDataset(pixels.flatten(1), torch.from_numpy(split.labels)), batch, shuffle=shuffle)


def run(name: str, images: Images, options: argparse.Namespace) -> dict[str, Any]:
    """Train one network and test it.

    Args:
        name: of a strategy, or 'dense'.
        images: the data set.
        options: of the command line.
    """
    lightning.seed_everything(options.seed, verbose=False)
    sparse = [] if name == "dense" else [SparseTraining(strategy=name, sparsity=options.sparsity, seed=options.seed)]
    trainer = lightning.Trainer(
        max_steps=options.steps,
        callbacks=sparse,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    model, began = LeNet(options.hidden, options.learning_rate), process_time()
    trainer.fit(model, loader_of(images, images.train, options.batch, shuffle=True))
    seconds = process_time() - began
    (result,) = trainer.test(model, loader_of(images, images.test, 1000, shuffle=False), verbose=False)
    weights = sum(int(one.count_nonzero()) for one in model.parameters() if one.dim() > 1)
    return {"network": name, "weights": weights, "accuracy": 100 * result["accuracy"], "seconds": seconds}


def table_of(results: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table with a row for each network."""
    lines = ["| network | weights | test accuracy in % | processor seconds |", "|---|---|---|---|"]
    lines += ["| {network} | {weights:,} | {accuracy:.2f} | {seconds:.0f} |".format(**one) for one in results]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and compare the networks.

    Args:
        arguments: of the command line; None for those of the process.
    """
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with MNIST's files, or with MNIST/raw")
    parser.add_argument("--out", type=Path, default=Path("runs/lightning-mnist"), help="folder of the results")
    parser.add_argument("--steps", type=int, default=3000, help="optimizer steps")
    parser.add_argument("--batch", type=int, default=100, help="images of a step")
    parser.add_argument("--hidden", type=int, nargs=2, default=(300, 100), help="features of the hidden layers")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="the largest one")
    parser.add_argument("--sparsity", type=float, default=0.95, help="of the sparse networks")
    parser.add_argument("--strategies", nargs="+", default=("static", "set", "dpr"), help="of the sparse networks")
    parser.add_argument("--seed", type=int, default=0, help="of initial values, batches and topologies")
    options = parser.parse_args(arguments)
    images = Mnist().load(options.data)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    results = [run(name, images, options) for name in ("dense", *options.strategies)]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results, indent=2), "utf-8")
    (options.out / "table.md").write_text(table_of(results), "utf-8")
    print(table_of(results), end="")
    print(f"{options.steps} steps, seed {options.seed}, {torch.get_num_threads()} threads, {platform.machine()}")


if __name__ == "__main__":
    main()
