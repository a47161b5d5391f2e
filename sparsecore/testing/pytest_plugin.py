"""The pytest plugin: ``pytest --sparsecore-strategy NAME`` adds a test for each promise of the strategy.

pytest loads it wherever sparsecore is installed, so it imports nothing until the option is used.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sparsecore.testing.promises import Promise


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option ``--sparsecore-strategy``."""
    parser.getgroup("sparsecore").addoption(
        "--sparsecore-strategy",
        action="append",
        default=[],
        metavar="NAME",
        help="also test every promise of this strategy: an installed name, package.module:Object or file.py:Object",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the tests of the strategies that the option names."""
    for name in config.getoption("--sparsecore-strategy"):
        items.extend(StrategyPromises.from_parent(session, name=name, nodeid=f"sparsecore::{name}").collect())


class StrategyPromises(pytest.Collector):
    """Collects a test for each promise of one strategy."""

    def collect(self) -> Iterator["PromiseItem"]:
        """Yield a test for each promise.

        Raises:
            pytest.UsageError: a library of the test kit is missing, or there is no such strategy.
        """
        try:
            from sparsecore.errors import InputError
            from sparsecore.testing.checking import plugin_check
        except ModuleNotFoundError as error:
            raise pytest.UsageError(str(error)) from error
        try:
            check = plugin_check(self.name)
        except InputError as error:
            raise pytest.UsageError(f"--sparsecore-strategy: {error}") from error
        for promise in check.promises:
            yield PromiseItem.from_parent(self, name=promise.name, promise=promise, subject=check.subject)


class PromiseItem(pytest.Item):
    """The test of one promise."""

    def __init__(self, *, promise: "Promise", subject: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._promise, self._subject = promise, subject

    def runtest(self) -> None:
        """Check the promise."""
        from sparsecore.testing.search import check_promise
        from sparsecore.testing.suites import report_to_pytest

        report_to_pytest(check_promise(self._promise, self._subject))

    def reportinfo(self) -> tuple[Any, None, str]:
        """Return a heading with the strategy and the promise, since the test is in no file of the user's."""
        return self.path, None, f"{self.parent.name if self.parent else ''}: {self.name}"
