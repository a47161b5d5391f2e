"""The handwritten digits that come with scikit-learn: 1,797 grey images of 8×8 pixels."""

from pathlib import Path
from typing import ClassVar

import attrs
import numpy as np

from sparsecore.data.images import Images, Split
from sparsecore.engine.randomness import Randomness
from sparsecore.extras import require

_TRAINING_IMAGES = 1437


@attrs.frozen(eq=False)
class Digits:
    """8×8 grey digits of scikit-learn, 1,437 for training and 360 for testing; needs no files."""

    reads_files: ClassVar = False

    def load(self, folder: Path | None) -> Images:  # noqa: ARG002
        """Load the digits from the installed scikit-learn.

        The original levels v of 0..16 become ⌊(255·v + 8)/16⌋: 255·v/16 rounded to the nearest integer, halves up.
        The split is one fixed permutation of scikit-learn's order, the same for every seed.

        Args:
            folder: ignored, because the images need no files.

        Returns:
            uint8 images of (examples, 8, 8, 1).

        Raises:
            MissingPackageError: scikit-learn is not installed.
        """
        require("sklearn", extra="data", purpose="the data set 'digits'")
        from sklearn.datasets import load_digits

        levels, labels = load_digits(return_X_y=True)
        images = ((levels.astype(np.int64) * 255 + 8) // 16).astype(np.uint8).reshape(-1, 8, 8, 1)
        # sorting a draw a position gives the same split with every version of NumPy; its permutations may change
        order = np.argsort(Randomness(0).uniform_at(np.arange(len(images)), "digits", "split"), kind="stable")
        train, test = order[:_TRAINING_IMAGES], order[_TRAINING_IMAGES:]
        labels = labels.astype(np.int64)
        return Images(Split(images[train], labels[train]), Split(images[test], labels[test]), classes=10)
