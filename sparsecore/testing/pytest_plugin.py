"""The pytest plugin: ``pytest --sparsecore-strategy NAME`` adds a test a promise of the strategy.

It is loaded in every pytest run beside which sparsecore is installed, so it imports nothing until it is asked to.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sparsecore.testing.promises import Promise


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("sparsecore").addoption(
        "--sparsecore-strategy",
        action="append",
        default=[],
        metavar="NAME",
        help="also test every promise of this strategy: an installed name, package.module:Object or file.py:Object",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the tests of the strategies that were asked for."""
    for name in config.getoption("--sparsecore-strategy"):
        items.extend(StrategyPromises.from_parent(session, name=name, nodeid=f"sparsecore::{name}").collect())


class StrategyPromises(pytest.Collector):
    """The promises of one strategy."""

    def collect(self) -> Iterator["PromiseItem"]:
        """A test a promise."""
        try:
            from sparsecore.errors import InputError
            from sparsecore.testing.checking import checked
        except ModuleNotFoundError as error:
            raise pytest.UsageError(str(error)) from error
        try:
            checks = checked(self.name)
        except InputError as error:
            raise pytest.UsageError(f"--sparsecore-strategy: {error}") from error
        for promise in checks.promises:
            yield PromiseItem.from_parent(self, name=promise.name, promise=promise, subject=checks.subject)


class PromiseItem(pytest.Item):
    """The test of one promise."""

    def __init__(self, *, promise: "Promise", subject: Any, **of: Any) -> None:
        super().__init__(**of)
        self._promise, self._subject = promise, subject

    def runtest(self) -> None:
        """Judge it."""
        from sparsecore.testing.judging import judge
        from sparsecore.testing.pytest_outcomes import settle

        settle(judge(self._promise, self._subject))

    def reportinfo(self) -> tuple[Any, None, str]:
        """Where it is told to be: it is in no file of the user's."""
        return self.path, None, f"{self.parent.name if self.parent else ''}: {self.name}"
