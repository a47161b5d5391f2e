"""The page about the strategies: it has all of them, and its commands are experiments."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from sparsecore.experiment.assembly import assemble
from sparsecore.experiment.experiment import Experiment
from sparsecore.plugins.discovery import installed

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/strategies.md").read_text("utf-8")
COMMANDS = [shlex.split(line) for line in re.findall(r"^    sparsecore train (.*)", PAGE, re.MULTILINE)]


def given(command: list[str], option: str) -> list[str]:
    return [value for name, value in pairwise(command) if name == option]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_documented_command_is_a_valid_experiment(command: list[str]) -> None:
    assert set(command[::2]) <= {"--strategy", "--sparsity", "--seed", "--backend", "--set"}
    options = {name: value for name in ("sparsity", "seed") for value in given(command, f"--{name}")}
    tables = assemble(None, options, given(command, "--strategy"), given(command, "--set"))
    assert [strategy.name for strategy in Experiment.of(tables).strategies] == given(command, "--strategy")


def test_every_strategy_has_a_paragraph_and_a_command() -> None:
    names = {entry.name for entry in installed("strategy") if entry.value.startswith("sparsecore_strategies.")}
    assert {"dpr", "rigl", "erk-start"} < names
    assert names <= set(re.findall(r"\*\*`([a-z-]+)`\*\*", PAGE))
    assert names <= {name for command in COMMANDS for name in given(command, "--strategy")}


def test_every_strategy_has_its_paper_on_the_page_of_citations_or_is_said_to_have_none() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", (ROOT / "docs/citations.md").read_text("utf-8"), re.MULTILINE)
    papers = {name: paper for names, paper in rows for name in re.findall(r"`([a-z-]+)`", names)}
    for entry in installed("strategy"):
        if entry.value.startswith("sparsecore_strategies."):
            assert "arxiv.org/abs/" in papers[entry.name] or papers[entry.name].startswith("none"), entry.name
