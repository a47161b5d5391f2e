"""An end to shrinking: hypothesis alone would take minutes for the last bit."""

from time import monotonic

_SHRINKS = 300
"""Examples tried from the first broken one on."""

_SECONDS = 60.0
"""So long at most, where a strategy takes its time."""


class Shrinking:
    """Which examples are known to be broken, and how many have been tried since there was one.

    Beyond the limit whatever is new counts as kept, so that the shrinking ends with what is known. An example is told
    by its parts, which may come one after another.
    """

    def __init__(self) -> None:
        self._known: list[tuple[str, ...]] = []
        self._is_on, self._tried, self._since = False, 0, 0.0

    def begin(self) -> None:
        """One more example."""
        self._tried += self._is_on

    def is_worth_trying(self, *parts: str) -> bool:
        """Whether an example that begins so is still of interest."""
        is_over = self._tried > _SHRINKS or (self._is_on and monotonic() - self._since > _SECONDS)
        return not is_over or any(known[: len(parts)] == parts for known in self._known)

    def found(self, *parts: str) -> None:
        """This example is broken."""
        if not self._is_on:
            self._is_on, self._since = True, monotonic()
        self.ended(*parts)

    def ended(self, *parts: str) -> None:
        """This example ends here, each time that it is tried."""
        self._known.append(parts)
