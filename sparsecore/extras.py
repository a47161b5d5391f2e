"""Optional dependencies: which extra of the distribution installs a package that an optional part needs."""

import importlib
import sys
from importlib.util import find_spec
from typing import Any

from sparsecore.errors import PluginError

_DISTRIBUTIONS = {"sklearn": "scikit-learn", "tomli_w": "tomli-w"}
"""Names on the package index of packages that are imported by another name."""


class MissingPackageError(PluginError, ModuleNotFoundError):
    """An optional package is not installed; the message names it and the command that installs it.

    Attributes:
        name: the package, as it is imported.
    """

    def __init__(self, sentence: str, package: str) -> None:
        ModuleNotFoundError.__init__(self, sentence, name=package)


def require(*packages: str, extra: str, purpose: str) -> None:
    """Check that packages which an optional part needs are installed, before any work is done. Nothing is imported.

    Args:
        packages: top-level names, as they are imported.
        extra: the extra of ``sparsecore-engine`` that installs them.
        purpose: what needs them, as the subject of a sentence, such as 'a report'.

    Raises:
        MissingPackageError: one of them is not installed.
    """
    for package in packages:
        if not _is_installed(package):
            raise MissingPackageError(
                f"{purpose} needs {_DISTRIBUTIONS.get(package, package)}, which is not installed; to install it: "
                f"pip install 'sparsecore-engine[{extra}]' (in a checkout: pip install -e '.[{extra}]')",
                package,
            )


def import_optional(module: str, *, extra: str, purpose: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: its name, such as 'torchvision.models'.
        extra: the extra of ``sparsecore-engine`` that installs the package.
        purpose: what needs it, as the subject of a sentence.

    Returns:
        The module.

    Raises:
        MissingPackageError: the package is not installed.
        PluginError: it is, but raises an error when it is imported.
    """
    require(module.partition(".")[0], extra=extra, purpose=purpose)
    try:
        return importlib.import_module(module)
    except Exception as error:  # a package whose compiled part fits no other package raises what it likes
        raise PluginError(f"{purpose} needs {module}, which cannot be imported: {error!r}") from error


def _is_installed(package: str) -> bool:
    if sys.modules.get(package) is not None:
        return True
    try:
        found = find_spec(package)
    except (ImportError, ValueError):
        return False
    # a folder of this name without an __init__.py, such as one in the working directory, has no origin
    return found is not None and found.origin is not None
