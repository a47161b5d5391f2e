"""Measurements in stages: finished results are kept in a file, so that a script can be stopped and continued."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from sparsecore.run.files import write_whole

Result = dict[str, Any]
"""The result of a stage, as JSON represents it."""

_PATIENCE = 60
"""Seconds that a process has to end after an interrupt."""


class Unfinished(Exception):  # noqa: N818 it is no error
    """The time was up before a stage has finished."""


@attrs.frozen
class Stage:
    """A part of the measurements.

    Attributes:
        name: the key of its result in the file.
        measure: from the seconds that are left to the result; it may raise :class:`Unfinished`.
        needs: seconds; with fewer left it is not begun.
    """

    name: str
    measure: Callable[[float], Result]
    needs: float = 0.0


@attrs.frozen
class Record:
    """The results that there are, in a JSON file.

    Attributes:
        path: of the file.
        settings: that all results were taken with.
        finished: the result of each stage that has one.
        failed: why the last attempt at a stage came to no result.
    """

    path: Path
    settings: Mapping[str, Any]
    finished: dict[str, Result] = attrs.field(factory=dict)
    failed: dict[str, str] = attrs.field(factory=dict)

    @classmethod
    def of(cls, path: Path, settings: Mapping[str, Any]) -> "Record":
        """What has been kept in this file, or nothing yet.

        Raises:
            SystemExit: the results in the file were taken with other settings.
        """
        if not path.exists():
            return cls(path, settings)
        kept = json.loads(path.read_text("utf-8"))
        if kept["settings"] != settings:
            others = [
                f"{key} = {kept['settings'].get(key)!r}"
                for key in settings
                if kept["settings"].get(key) != settings[key]
            ]
            raise SystemExit(
                f"the results in {path} were taken with other settings ({', '.join(others)}); "
                "give the same, another --out, or delete the file"
            )
        return cls(path, settings, kept["stages"], kept["failed"])

    def report(self, machine: Mapping[str, Any]) -> dict[str, Any]:
        """Return the contents of the file."""
        return {"machine": machine, "settings": self.settings, "stages": self.finished, "failed": self.failed}

    def keep(self, machine: Mapping[str, Any]) -> None:
        """Write all to the file."""
        report = self.report(machine)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())


def measure_all(stages: Sequence[Stage], record: Record, seconds: float, machine: Mapping[str, Any]) -> list[str]:
    """Measure what is not finished, as far as the time goes; every result is kept at once.

    A stage that fails or runs out of time does not stop the others: in the next call it comes after those that have
    not been tried yet.

    Returns:
        The names of the stages that are still to be measured.
    """
    end = time.monotonic() + seconds
    for stage in sorted(stages, key=lambda stage: stage.name in record.failed):
        left = end - time.monotonic()
        if stage.name in record.finished or left < stage.needs:
            continue
        print(f"{stage.name} ...", file=sys.stderr)
        try:
            record.finished[stage.name] = stage.measure(left)
            record.failed.pop(stage.name, None)
        except Unfinished:
            record.failed[stage.name] = f"its {left:.0f} s were up before it was finished"
        except Exception as error:
            record.failed[stage.name] = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        if stage.name in record.failed:
            print(f"{stage.name}: {record.failed[stage.name]}", file=sys.stderr)
        record.keep(machine)
    return [stage.name for stage in stages if stage.name not in record.finished]


def output_of(
    command: Sequence[str], seconds: float, accepted: Sequence[int] = (0,), folder: Path | None = None
) -> str:
    """The standard output of a process that has so much time, and is interrupted as by Ctrl-C when it is over.

    Args:
        command: program and arguments.
        seconds: after which it is interrupted.
        accepted: exit statuses that are no failure.
        folder: in which it runs; None for the current one.

    Raises:
        Unfinished: the time was up.
        RuntimeError: its exit status is not one of those that are accepted.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder) as process:
        try:
            said, complaint = process.communicate(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
            raise Unfinished from None
    if process.returncode not in accepted:
        last = (complaint.strip() or said.strip() or "nothing said").splitlines()[-1]
        raise RuntimeError(f"exit status {process.returncode}: {last}")
    return said
