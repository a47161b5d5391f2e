"""What was given, in words."""


def dtype_name(array: object) -> str:
    """The dtype as NumPy names it, on any backend."""
    return str(getattr(array, "dtype", None)).removeprefix("torch.")


def printable(text: str) -> str:
    """The text with what a terminal would obey (line ends, escapes) written out, on one line."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def printable_lines(text: str) -> str:
    """The text with what a terminal would obey written out, but for its line ends and tabs."""
    return "".join(letter if letter in "\n\t" else printable(letter) for letter in text)


def without_controls(text: str) -> str:
    """The text of a page, with what no page may have (escapes and the like) replaced; line ends stay."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)


def kind(given: object) -> str:
    """What was given, in words: an array by its dtype and shape, anything else as it prints."""
    shape = getattr(given, "shape", None)
    return f"{type(given).__name__} of {dtype_name(given)}, shape {tuple(shape)}" if shape is not None else repr(given)
