"""The formats of what sparsecore writes and reads again, each with its version; docs/formats.md describes them.

What is written names its format and version in a text, such as 'sparsecore checkpoint 2'. A change that an earlier
version of sparsecore would misread gets a new number.
"""

import re
from collections.abc import Mapping
from typing import Any

import attrs

from sparsecore.errors import InputError

KEY = "format"
"""The key that the text has, in a file of settings, a JSON object or a state dict."""

_SHOWN = 60


@attrs.frozen
class Format:
    """A format of files, folders or state dicts.

    Attributes:
        name: what the text calls it.
        what: what error sentences call something in this format.
        version: the number that is written.
        oldest: the lowest number that is read.
    """

    name: str
    what: str
    version: int
    oldest: int = 1

    @property
    def text(self) -> str:
        """The text that is written: the name of the format with its version."""
        return f"sparsecore {self.name} {self.version}"

    @property
    def readable(self) -> str:
        """The versions that are read, for error sentences."""
        oldest = (
            f"versions {self.oldest} to {self.version}" if self.oldest < self.version else f"version {self.version}"
        )
        return f"{oldest} of 'sparsecore {self.name}'"

    def is_text(self, found: object) -> bool:
        """Whether a text names this format, in any version."""
        return self._number(found) is not None

    def check(self, found: object, source: str) -> int:
        """Return the version of something that was read.

        Args:
            found: the text that it has; None where it has none.
            source: what was read, for error sentences, such as "the checkpoint runs/1/checkpoint.safetensors".

        Raises:
            InputError: it is in another format, or in a version that is not read.
        """
        number = self._number(found)
        if number is None:
            given = "has no format" if found is None else f"has the format {str(found)[:_SHOWN]!r}"
            raise InputError(f"{source} is no {self.what}: it {given}; expected {self.text!r}")
        if number > self.version:
            raise InputError(
                f"{source} has the format {found!r}, which a later version of sparsecore has written; this one reads "
                f"{self.readable}"
            )
        if number < self.oldest:
            raise InputError(
                f"{source} has the format {found!r}, which this version of sparsecore no longer reads; it reads "
                f"{self.readable}"
            )
        return number

    def take(self, tables: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Return the tables of a file without the text of the format, which is checked.

        Args:
            tables: a file's; without the text, as a file that a user wrote or that is older than the numbers, they
                are in version 1.
            source: what was read, for error sentences.

        Raises:
            InputError: the text names another format, or a version that is not read.
        """
        self.check(tables.get(KEY, f"sparsecore {self.name} 1"), source)
        return {key: value for key, value in tables.items() if key != KEY}

    def put(self, tables: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tables of a file with the text of the format before them."""
        return {KEY: self.text, **tables}

    def _number(self, found: object) -> int | None:
        match = re.fullmatch(rf"sparsecore {re.escape(self.name)} ([1-9][0-9]{{0,5}})", str(found), re.ASCII)
        return int(match[1]) if isinstance(found, str) and match else None


CHECKPOINT = Format("checkpoint", "checkpoint of a run", version=2, oldest=2)
RUN = Format("run", "run folder", version=1)
LOTTERY = Format("lottery", "lottery", version=1)
STUDY = Format("study", "study", version=1)
COMPARISON = Format("comparison", "comparison of strategies", version=1)
STATE_DICT = Format("sparse training", "state dict of sparse training", version=2, oldest=2)
SPARSE_MODEL = Format("sparse model", "file of save_sparse", version=1)
NETWORK = Format("network", "file of a network for predictions", version=2)
MODEL = Format("model", "file of a model for predictions", version=2)

FORMATS = (CHECKPOINT, RUN, LOTTERY, STUDY, COMPARISON, STATE_DICT, SPARSE_MODEL, NETWORK, MODEL)
"""All formats."""
