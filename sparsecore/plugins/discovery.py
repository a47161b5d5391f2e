"""Finding plugins: by the name of an entry point, by ``package.module:Object``, or by ``file.py:Object``.

Entry points are read as metadata; a plugin is imported when it is selected, and one broken plugin breaks only itself.
"""

import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, chdir, contextmanager, nullcontext
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, distributions
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from sparsecore.errors import PluginError, unknown

GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "strategy": "sparsecore.strategies",
        "backend": "sparsecore.backends",
        "model": "sparsecore.models",
        "dataset": "sparsecore.datasets",
        "observer": "sparsecore.observers",
    }
)
"""The kinds of plugins, and the entry point group of each."""

_NEEDED = {
    "strategy": (),  # which hooks a strategy has is checked where it is stacked
    "backend": ("arrays", "learner"),
    "model": ("parameters", "forward"),
    "dataset": ("load",),
    "observer": ("started", "reallocated", "measured", "state", "ended"),
}


def installed(kind: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of a kind of plugin; nothing is imported.

    Args:
        kind: 'strategy', 'backend', 'model', 'dataset' or 'observer'.

    Returns:
        Sorted by name and then by object; two of one name are both there. Distributions whose metadata cannot be read
        are left out.
    """
    return _entry_points(tuple((folder, _identity(folder)) for folder in sys.path))[kind]


@lru_cache(maxsize=1)
def _entry_points(_: tuple[tuple[str, object], ...]) -> Mapping[str, tuple[EntryPoint, ...]]:
    """Read the entry points of all kinds; an experiment asks for its plugins often, and an installation changes rarely.

    Args:
        _: the folders that Python imports from, each with what an installation into it changes.
    """
    found: dict[str, EntryPoints] = {}
    for distribution in distributions():
        try:
            entries = distribution.entry_points
            if any(entry.group in GROUPS.values() for entry in entries):
                # the first distribution of a name on the path hides the others
                found.setdefault(distribution.name, entries)
        except (ValueError, TypeError, OSError):
            continue  # unreadable metadata of one distribution must not hide the plugins of others
    return {
        kind: tuple(
            sorted(
                {entry for entries in found.values() for entry in entries.select(group=group)},
                key=lambda entry: (entry.name, entry.value),
            )
        )
        for kind, group in GROUPS.items()
    }


def _identity(folder: str) -> tuple[int, int, int] | None:
    """Which folder this is now, and when it was last changed; None where there is none."""
    try:
        status = Path(folder).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


@contextmanager
def guard_plugin_code(kind: str, name: str) -> Iterator[None]:
    """Run a plugin's code: SystemExit, and what else is no Exception, becomes an error that names the plugin.

    The working directory is restored afterwards, so that relative paths mean the same as before.

    Args:
        kind: 'strategy', 'backend', 'model', 'dataset' or 'observer'.
        name: what selected it.

    Raises:
        PluginError: the plugin called ``sys.exit``, or raised what is no Exception.
    """
    with _same_directory():
        try:
            yield
        except (Exception, KeyboardInterrupt):
            raise
        except SystemExit as error:
            raise PluginError(f"the {kind} {name!r} asked to exit: {_describe_error(error)}") from error
        except BaseException as error:
            raise PluginError(f"the {kind} {name!r} cannot be used: {_describe_error(error)}") from error


def _same_directory() -> AbstractContextManager[None]:
    try:
        return chdir(Path.cwd())
    except OSError:  # the working directory has been deleted, so that no path can be relative to it
        return nullcontext()


def load(kind: str, selection: str) -> Any:
    """Return the object, usually a class, that ``selection`` names.

    Args:
        kind: 'strategy', 'backend', 'model', 'dataset' or 'observer'.
        selection: an installed name, 'package.module:Object' or 'file.py:Object'.

    Raises:
        PluginError: there is none, it cannot be imported, or it is of another kind.
    """
    with guard_plugin_code(kind, selection):
        chosen = _import_path(selection) if ":" in selection else _load_installed(kind, selection)
    if not has_methods(kind, chosen):
        lacking = [attribute for attribute in _NEEDED[kind] if not hasattr(chosen, attribute)]
        raise PluginError(f"{selection!r} is no {kind}: it has no {', '.join(lacking)}")
    return chosen


def has_methods(kind: str, chosen: Any) -> bool:
    """Return whether an object has the methods that a kind of plugin needs.

    Args:
        kind: 'strategy', 'backend', 'model' or 'dataset'.
        chosen: a class or an instance.
    """
    return all(hasattr(chosen, attribute) for attribute in _NEEDED[kind])


def load_object(kind: str, selection: str) -> Any:
    """Return the object that 'package.module:Object' or 'file.py:Object' names, whether it is a plugin or not.

    Args:
        kind: 'strategy', 'backend', 'model' or 'dataset', for errors.
        selection: what selects it.

    Raises:
        PluginError: there is none, or it cannot be imported.
    """
    with guard_plugin_code(kind, selection):
        return _import_path(selection)


def file_of(selection: str) -> Path | None:
    """Return the file of a selection 'file.py:Object'; None for any other selection.

    Args:
        selection: what selects a plugin; the file need not exist.
    """
    file, colon, _ = selection.rpartition(":")
    return Path(file) if colon and file.endswith(".py") else None


def _load_installed(kind: str, name: str) -> Any:
    entries = installed(kind)
    matching = [entry for entry in entries if entry.name == name]
    if not matching:
        return _sized(kind, name, entries)
    if len(matching) > 1:
        values = " and ".join(entry.value for entry in matching)
        raise PluginError(f"two {kind} plugins are named {name!r}: {values}; select one by its module:Object")
    return _load_entry(kind, matching[0])


def _sized(kind: str, name: str, entries: Iterable[EntryPoint]) -> Any:
    """Return a model of other sizes: 'wrn-40-4' by the class of 'wrn-28-2', if that has ``from_sizes``."""
    for entry in entries:
        sizes = [int(size) for size in re.findall(r"[0-9]{1,9}", name)]
        if sizes and _shape(entry.name) == _shape(name):
            plugin = _load_entry(kind, entry)
            if hasattr(plugin, "from_sizes"):
                return plugin.from_sizes(*sizes)
    hint = "; an object in a file is written file.py:Object" if name.endswith(".py") else ""
    if kind == "model" and any(_shape(entry.name) != entry.name for entry in entries):
        hint = f"; where numbers in a name are sizes, as many others may take their place{hint}"
    raise PluginError(unknown(kind, name, [entry.name for entry in entries], "installed") + hint)


def _shape(name: str) -> str:
    return re.sub(r"[0-9]{1,9}", "#", name)


def _load_entry(kind: str, entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except PluginError:
        raise  # the plugin says itself what it lacks
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may raise any, as pytest's skip does
        raise PluginError(
            f"the {kind} {entry.name!r} ({entry.value}) cannot be loaded: {_describe_error(error)}"
        ) from error


def _import_path(selection: str) -> Any:
    source, _, name = selection.rpartition(":")
    file = file_of(selection)
    module = _module(selection, source) if file is None else _module_of_file(selection, file)
    try:
        chosen: Any = module
        for part in name.split("."):
            chosen = getattr(chosen, part)
    except AttributeError:
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise PluginError(unknown("object", name, own, f"{source} has")) from None
    return chosen


def _module(selection: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may raise any, as pytest's skip does
        raise PluginError(f"{selection!r} cannot be loaded: {_describe_error(error)}") from error


def _module_of_file(selection: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise PluginError(f"{selection!r} names a file that does not exist: {path}")
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    name = f"sparsecore_file_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{selection!r} names a file that is no Python source; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # attrs and typing look a class's module up by name
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may raise any, as pytest's skip does
        del sys.modules[name]
        raise PluginError(f"{selection!r} cannot be loaded: {_describe_error(error)}") from error
    return module


def _describe_error(error: BaseException) -> str:
    """Return the error's type and message, and the line that raised it, unless that is of the import itself."""
    importing = (__file__, importlib.__file__)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in importing and not frame.filename.startswith("<frozen importlib")
    ]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}" + ("" if isinstance(error, SyntaxError) else where)
