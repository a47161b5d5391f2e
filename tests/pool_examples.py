"""What the tests of the pools of Ray and Slurm share: a study, what it must come to, and the processes it starts."""

import json
import subprocess
from pathlib import Path

import attrs
from test_study_running import written


@attrs.frozen
class Process:
    """A process that has not ended: its number, its parent's, and its command."""

    number: int
    parent: int
    command: str


def study_with_relative_paths(folder: Path) -> None:
    """Write ``own.toml``, whose paths are relative to the folder, where the study is called."""
    file = written(folder)
    file.write_text(file.read_text().replace(f"{folder}/", ""))


def assert_an_arm_ran_on_the_final_topology_of_its_source(folder: Path) -> None:
    ends = [
        json.loads((folder / f"out/runs/{arm}-at-0.8-trial-0/result.json").read_text())["topology_sha256"]
        for arm in ("dpr", "final")
    ]
    assert ends[0] == ends[1]


def processes(text: str) -> list[Process]:
    """The processes with this text in their command."""
    listed = subprocess.run(["ps", "-wweo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    fields = [line.split(maxsplit=2) for line in listed.splitlines() if text in line and "defunct" not in line]
    return [Process(int(number), int(parent), command) for number, parent, command in fields]
