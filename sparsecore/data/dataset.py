"""What a data set is to the engine: a plugin of the group ``sparsecore.datasets``."""

from pathlib import Path
from typing import Protocol

from sparsecore.data.images import Images


class Dataset(Protocol):
    """What a third-party data set must have.

    The plugin is a frozen attrs class with ``eq=False``. Its fields are the options a user may set, each with a
    default; its docstring's first line is what ``sparsecore plugins`` shows. Loading twice gives the same arrays.
    """

    def load(self, folder: Path | None) -> Images:
        """The images and labels.

        Args:
            folder: the user's ``--data-dir``, where the files are to be found; None where the user gave none, and the
                data set may then download them, or say in an error that it needs a folder.

        Returns:
            Images with uint8 arrays of (examples, height, width, channels), of the same height, width and channels in
            both splits, int64 labels of 0 to ``classes - 1``, and at least one example in each split.

        Raises:
            InputError: a file is missing or is not what it should be; the sentence names the file.
        """
        ...
