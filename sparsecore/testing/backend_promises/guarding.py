"""Whatever a backend raises where the definition has an answer is a broken promise."""

from collections.abc import Callable
from typing import Any

from sparsecore.testing.promises import BrokenError, NotJudgedError


def guarded(check: Callable[..., None]) -> Callable[..., None]:
    """The check, with every error told as a broken promise."""

    def checked(*given: Any) -> None:
        try:
            check(*given)
        except (BrokenError, NotJudgedError):
            raise
        except Exception as error:
            raise BrokenError(f"{type(error).__name__}: {error}") from error

    return checked
