"""``--log`` and ``--set log.NAME.option=value``: the observers that a run is given on the command line."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparsecore.errors import InputError, unknown
from sparsecore.experiment.plugin_choice import PluginChoice
from sparsecore.experiment.toml_files import toml_value
from sparsecore.plugins.discovery import file_of

_SECTION = "log."


def split_settings(settings: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the settings of the experiment and those of logs, which are no part of the experiment.

    Args:
        settings: texts 'section.key=value'.
    """
    of_logs = tuple(setting for setting in settings if setting.lstrip().startswith(_SECTION))
    return tuple(setting for setting in settings if setting not in of_logs), of_logs


def chosen_observers(
    logs: Sequence[str], settings: Sequence[str], known: Mapping[str, Mapping[str, Any]]
) -> dict[str, PluginChoice]:
    """Return the observers of a run, without starting them.

    Args:
        logs: the names of the observers; empty for the known ones.
        settings: texts 'log.NAME.option=value'.
        known: the options of the observers that the run has had so far, by name; those that are not given again stay.

    Returns:
        The observers by name, in the order of the names.

    Raises:
        InputError: there is no such observer, one is named twice, or an option is unknown or of none of the observers.
        PluginError: an observer cannot be used.
    """
    names = tuple(map(_with_absolute_path, logs)) or tuple(known)
    if len(set(names)) < len(names):
        raise InputError(f"a log is given twice: --log {' --log '.join(logs)}")
    options: dict[str, dict[str, Any]] = {name: dict(known.get(name, {})) for name in names}
    for setting in settings:
        name, option, value = _parts(setting, names)
        options[name][option] = value
    return {name: PluginChoice.of("observer", {"name": name, **table}) for name, table in options.items()}


def _with_absolute_path(selection: str) -> str:
    """Return the selection of an observer so that it means the same where the run is resumed in another folder."""
    file = file_of(selection)
    return selection if file is None else f"{file.absolute()}:{selection.rpartition(':')[2]}"


def _parts(setting: str, names: Sequence[str]) -> tuple[str, str, Any]:
    """Return observer, option and value of 'log.NAME.option=value'; 'file.py:Object' may be named 'Object'."""
    path, equals, value = setting.partition("=")
    written, dot, option = path.strip().removeprefix(_SECTION).rpartition(".")
    if not (equals and dot and written and option):
        raise InputError(f"an option of a log is written log.NAME.option=value; given {setting!r}")
    selection = _with_absolute_path(written)
    meant = [name for name in names if name == selection] or [
        name for name in names if name.rpartition(":")[2] == written
    ]
    if len(meant) > 1:
        raise InputError(f"log.{written} may be {' or '.join(meant)}; write log.{meant[0]}.{option}=...")
    if not meant:
        known = [name.rpartition(":")[2] for name in names]
        raise InputError(f"{unknown('log', written, known, 'of this run')}; another one is added by --log {written}")
    return meant[0], option, toml_value(value.strip())
