"""Modules of PyTorch in a file, as users have them, and runs that train them."""

from pathlib import Path

from command_line import small_images
from start_oracles import carry_out

NETS = '''"""Networks for grey images of 4x4 pixels."""

import torch
from torch import nn


def small(num_classes, width=6, dropout=0.25):
    """With batch norm and dropout."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(dropout),
        nn.Conv2d(width, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, num_classes),
    )


class Plain(nn.Module):
    """Without anything that looks at more than one image."""

    def __init__(self, hidden=16):
        super().__init__()
        self.first, self.second = nn.Linear(16, hidden), nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, 2)

    def forward(self, images):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(images.flatten(1))))))


made = Plain()


def nothing():
    return {"layers": 3}


def five():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, 1))


def normed():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 2))


def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(17, 8), nn.Linear(8, 8), nn.Linear(8, 2))
'''


def write_networks(folder: Path) -> Path:
    """Write the networks and their images into a folder.

    Returns:
        The file of the networks.
    """
    small_images(folder / "small.npz")
    (folder / "nets.py").write_text(NETS)
    return folder / "nets.py"


def train(folder: Path, out: Path, model: str, *arguments: str) -> Path:
    """Train one of the networks on the torch backend for two epochs of seven steps, with an update every two steps."""
    data = ("--data", "npz", "--data-dir", str(folder / "small.npz"), "--batch-size", "16", "--epochs", "2")
    model = model if ":" in model else f"{folder / 'nets.py'}:{model}"
    carry_out("train", "--backend", "torch", "--model", model, *data, *arguments, "--out", out)
    return out


MOVING = (
    "--strategy",
    "dpr",
    "--set",
    "strategy.schedule.steps=2",
    "--set",
    "strategy.target=20%",
    "--sparsity",
    "0.7",
)
