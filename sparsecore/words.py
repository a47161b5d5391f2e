"""What was given, in words."""


def dtype_name(array: object) -> str:
    """The dtype as NumPy names it, on any backend."""
    return str(getattr(array, "dtype", None)).removeprefix("torch.")


def kind(given: object) -> str:
    """What was given, in words: an array by its dtype and shape, anything else as it prints."""
    shape = getattr(given, "shape", None)
    return f"{type(given).__name__} of {dtype_name(given)}, shape {tuple(shape)}" if shape is not None else repr(given)
