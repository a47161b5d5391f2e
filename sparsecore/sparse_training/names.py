"""What the names of parameters and modules tell about weights: positions, types, output layers, adapters."""

import re
from typing import Final

POSITIONS: Final = (
    r"pos|position\w*|posemb\w*|wpe|pe|rpe|rpb|rel|relative\w*|relpos\w*|time|timesteps?|times|temporal|row|col|column"
)
"""Words, as for :func:`has_word`, in the names of tables of positions."""

POSITION_NETWORKS: Final = r"cpb_mlp|rel_pos\w*|relative_pos\w*|pos\w*_bias"
"""Words in the names of small networks that compute a bias from the distance of two positions."""

TYPES: Final = r"type|types|segment|segments|seg"
"""Words in the names of tables of the types of tokens."""

NO_TOKENS: Final = (
    r"query|queries|class|classes|cls|labels?|prompts?|latents?|registers?|codebooks?|quanti[sz]e\w*|prototypes?"
)
"""Words in the names of tables of something else than tokens."""

TOKENS: Final = r"word|words|token|tokens|tok|wte|vocab|char|chars|text|shared"
"""Words in the names of tables of tokens."""

HEAD: Final = re.compile(
    r"((lm|aux|cls|mlm|mlp|class|classification|prediction|output|policy|value)_)?heads?(_dist|_?\d+)?|(\w+_)?classifier"
)
"""The name of an output layer, as a whole."""


def words(text: str) -> str:
    """Return a name in lower case, its words separated by underscores.

    >>> words("RelativePositionBias"), words("lora_A")
    ('relative_position_bias', 'lora_a')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]+", "_", text).lower()


def has_word(pattern: str, *texts: str) -> bool:
    """Return whether a word of the names matches a pattern.

    Args:
        pattern: a regular expression of whole words.
        texts: the names.
    """
    return any(re.search(rf"(?<![a-z])({pattern})(?![a-z])", words(text)) for text in texts)


def is_adapter(name: str) -> bool:
    """Return whether a parameter belongs to a low-rank adapter.

    Args:
        name: of the parameter or its module, with dots or slashes between its parts.
    """
    parts = map(words, re.split(r"[./]", name))
    return any(re.search(r"(^|_)(lora|loha|lokr|hada|vera|dora|ia3|oft|boft)(_|$)", part) for part in parts)
