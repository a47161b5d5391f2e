"""What is released together has one version, and a section in the list of changes."""

import re
import tomllib
from pathlib import Path
from typing import Any

import sparsecore

ROOT = Path(__file__).parent.parent


def project(folder: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text("utf-8"))["project"]


def test_the_engine_and_the_cpu_backend_have_one_version_and_need_each_others() -> None:
    engine, cpu = project("."), project("backends/sparsecore_cpu")
    assert engine["version"] == cpu["version"] == sparsecore.__version__
    assert f"sparsecore-engine[cli]=={cpu['version']}" in cpu["dependencies"]


def test_the_citation_and_the_newest_section_of_the_changelog_are_of_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    cited = re.search(r"^version: (\S+)\ndate-released: \"(\S+)\"$", citation, re.MULTILINE)
    sections = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert sections[0] == ("Unreleased", "")
    assert cited is not None
    assert cited.groups() == sections[1]
    assert sections[1][0] == sparsecore.__version__
