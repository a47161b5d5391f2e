"""The examples of docs/studies.md run as printed."""

import json
import re
import shlex
from contextlib import suppress
from pathlib import Path

import pytest
from in_process import no_waiting_for_the_disk
from study_examples import InProcessPool

from sparsecore.cli.command_line import commands
from sparsecore.study.definition import preset_names

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "studies.md").read_text("utf-8")


@pytest.mark.slow
def test_the_examples_of_the_page_run_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sparsecore.cli.study_options.create_pool", lambda *_: InProcessPool())
    (toml,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "zeta.toml").write_text(toml)
    lines = "".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)).splitlines()
    assert len(lines) == 6
    with no_waiting_for_the_disk():
        for line in lines:
            program, *arguments = shlex.split(line)
            assert program == "sparsecore"
            with suppress(SystemExit):  # what has not succeeded is missing below
                commands(arguments, standalone_mode=False)
    small, zeta = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("small", "zeta"))
    assert "on handwritten digits" in small["protocol"]
    assert [small["missing"], zeta["missing"]] == [[], []]
    assert len(zeta["cells"]) == 6


def test_every_documented_preset_and_link_exists():
    for name in preset_names():
        assert f"| `{name}` |" in PAGE
    for link in re.findall(r"\]\((?!http)([^)#]+)", PAGE):
        assert (DOCS / link).exists(), link
