"""Sequences of tokens as a data set: each token is to be predicted from those before it."""

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.data.images import Images, Split
from sparsecore.errors import InputError

_MOST_TOKENS = 256
"""The number of different tokens that fit the pixels of an image."""


@attrs.frozen(eq=False)
class Tokens(Images):
    """Sequences of tokens in the form of images of one row, whose pixels are the tokens' codes.

    ``images`` of a split are (examples, 1, length, 1), and its ``labels`` (examples, length): for each token the one
    that follows. A module gets the codes as numbers, (batch, 1, 1, length), and returns logits of (batch, length,
    tokens); loss and accuracy are those of a token.
    """

    @property
    def mean(self) -> NDArray[np.float64]:
        """Zero, (1,): codes are not normalized."""
        return np.zeros(1)

    @property
    def std(self) -> NDArray[np.float64]:
        """One, (1,): codes are not normalized."""
        return np.ones(1)

    def check_augmentation(self, padding: int, flip: bool) -> None:
        """Check that the sequences stay as they are.

        Args:
            padding: pixels that are reflected at each side before a random crop.
            flip: whether images are mirrored at random.

        Raises:
            InputError: there is a crop or a flip.
        """
        if padding or flip:
            raise InputError("a text is neither cropped nor flipped; data.crop is 0 and data.flip is false")


def tokens_of(text: str, length: int, test_share: float = 0.1) -> Tokens:
    """Return the characters of a text as a data set; its end is for testing.

    Args:
        text: the text, of at most 256 different characters.
        length: the number of characters of a sequence.
        test_share: the part of the text that is tested on, in (0, 1).

    Returns:
        Sequences that follow one another and do not overlap. The code of a character is its rank among the different
        characters of the text.

    Raises:
        InputError: there are too many different characters, or a part is shorter than a sequence.
    """
    vocabulary = sorted(set(text))
    if len(vocabulary) > _MOST_TOKENS:
        raise InputError(f"a text has at most {_MOST_TOKENS} different characters; given {len(vocabulary)}")
    numbers = {character: code for code, character in enumerate(vocabulary)}
    codes = np.array([numbers[character] for character in text], np.int64)
    cut = int(len(codes) * (1 - test_share))
    return Tokens(_sequences(codes[:cut], length), _sequences(codes[cut:], length), classes=len(vocabulary))


def _sequences(codes: NDArray[np.int64], length: int) -> Split:
    count = (len(codes) - 1) // length
    if count < 1:
        raise InputError(f"a part of the text has {len(codes)} characters; a sequence of {length} needs {length + 1}")
    inputs = codes[: count * length].astype(np.uint8).reshape(count, 1, length, 1)
    return Split(inputs, codes[1 : count * length + 1].reshape(count, length))
