"""The tests that the pytest plugin ``sparsecore_pytest`` adds: one for each promise of a strategy."""

from collections.abc import Iterator
from typing import Any

import pytest

from sparsecore.errors import InputError
from sparsecore.testing.checking import plugin_check
from sparsecore.testing.promises import Promise
from sparsecore.testing.search import check_promise
from sparsecore.testing.suites import report_to_pytest


class StrategyPromises(pytest.Collector):
    """Collects a test for each promise of one strategy."""

    def collect(self) -> Iterator["PromiseItem"]:
        """Yield a test for each promise.

        Raises:
            pytest.UsageError: there is no such strategy.
        """
        try:
            check = plugin_check(self.name)
        except InputError as error:
            raise pytest.UsageError(f"--sparsecore-strategy: {error}") from error
        for promise in check.promises:
            yield PromiseItem.from_parent(self, name=promise.name, promise=promise, subject=check.subject)


class PromiseItem(pytest.Item):
    """The test of one promise."""

    def __init__(self, *, promise: Promise, subject: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._promise, self._subject = promise, subject

    def runtest(self) -> None:
        """Check the promise."""
        report_to_pytest(check_promise(self._promise, self._subject))

    def reportinfo(self) -> tuple[Any, None, str]:
        """Return a heading with the strategy and the promise, since the test is in no file of the user's."""
        return self.path, None, f"{self.parent.name if self.parent else ''}: {self.name}"
