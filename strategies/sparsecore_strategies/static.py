"""Static sparsity: the random topology of the start stays; the baseline of every comparison."""

import attrs

from sparsecore.strategy import hookimpl


@attrs.frozen(eq=False)
class Static:
    """Never reallocate: the start topology stays."""

    @hookimpl
    def update_due(self) -> bool:
        """Return False: no update is ever due."""
        return False
