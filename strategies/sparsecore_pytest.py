"""The pytest plugin: ``pytest --sparsecore-strategy NAME`` adds a test for each promise of the strategy.

pytest imports this module in every run where sparsecore is installed, used or not. It is not part of the package
sparsecore because importing that imports NumPy, and the test kit needs hypothesis, which may not be installed.
"""

import pytest


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
    """Add the tests of the strategies that the option names.

    Raises:
        pytest.UsageError: a library of the test kit is missing, or there is no such strategy.
    """
    names: list[str] = config.getoption("--sparsecore-strategy")
    if not names:
        return
    try:
        from sparsecore.testing.pytest_plugin import StrategyPromises
    except ModuleNotFoundError as error:
        raise pytest.UsageError(str(error)) from error
    for name in names:
        items.extend(StrategyPromises.from_parent(session, name=name, nodeid=f"sparsecore::{name}").collect())
