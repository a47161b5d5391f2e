"""The text of Python's help topics, some 465,000 characters, as a data set of characters."""

from pathlib import Path
from typing import ClassVar

import attrs

from sparsecore.data.tokens import Tokens, tokens_of


@attrs.frozen(eq=False)
class HelpTopics:
    """Characters of Python's own help topics, for modules of PyTorch; needs no files, and differs between Pythons.

    Attributes:
        length: characters of a sequence.
    """

    reads_files: ClassVar = False

    length: int = attrs.field(default=64, validator=attrs.validators.ge(1))

    def load(self, folder: Path | None) -> Tokens:  # noqa: ARG002
        """Read the help topics of the running Python.

        Args:
            folder: ignored, because the text needs no files.

        Returns:
            Sequences that do not overlap; the last tenth of the text is for testing.
        """
        return tokens_of(help_topics_text(), self.length)


def help_topics_text() -> str:
    """Return the text of Python's help topics, in the order of their names."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))
