"""Map-style data sets of PyTorch in a file, as users have them."""

from pathlib import Path

SETS = '''"""Images that are made when they are asked for, with random noise of torch's generator."""

import random

import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset


class Bars(Dataset):
    """Bright above, or bright below; images of 4x4."""

    classes = ("above", "below")

    def __init__(self, train, size=60):
        self.size, self.train = size if train else 20, train

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        image = np.full((4, 4), 20 + index, np.uint8)
        image[2 * (index % 2) : 2 * (index % 2) + 2] += 100
        return image, index % 2


class Dropping(Dataset):
    """One part; each image loses a random half of its pixels."""

    def __init__(self, count=60, broken=False):
        self.bars, self.broken, self.targets = Bars(True, count), broken, [i % 2 for i in range(count)]

    def __len__(self):
        return len(self.bars)

    def __getitem__(self, index):
        if self.broken and index == 3:
            raise OSError("cannot identify image file")
        image = torch.from_numpy(self.bars[index][0])[None].float() / 255
        return image * (torch.rand_like(image) < 0.5) * (random.random() + np.random.rand()), self.bars[index][1]


class Palette:
    """What PIL's images of a palette look like."""

    mode = "P"


def strange(train, label=False):
    return [(np.zeros((4, 4), np.uint8), 0.5) if label else (Palette(), 0)] * 20


def samples(train, kind="dict"):
    image = np.zeros((4, 4), np.uint8)
    return [{"image": image, "label": 0} if kind == "dict" else (image, 0, "name")] * 20


class Unlike(Bars):
    """Has other classes to be tested on."""

    def __init__(self, train):
        super().__init__(train)
        self.classes = ("above", "below") if train else ("below", "middle")


def tensors(train, strange=False):
    images = torch.arange(40 * 16).reshape(40, 1, 4, 4) / 640
    return TensorDataset(images, torch.arange(40) % 2 + 3 * strange)


def noise():
    return lambda image: torch.as_tensor(image)[None].float() / 255 + torch.rand(1, 4, 4)


def no_sizes(train):
    return [(np.zeros((4 + index % 2, 4), np.uint8), index % 2) for index in range(20)]
'''


def write_sets(folder: Path) -> Path:
    """Write the data sets into a folder.

    Returns:
        Their file.
    """
    (folder / "sets.py").write_text(SETS)
    return folder / "sets.py"
