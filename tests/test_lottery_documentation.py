"""What docs/lottery.md shows works as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

from start_oracles import result

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "lottery.md").read_text("utf-8")


def test_the_page_works_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    command = tmp_path / "bin/sparsecore"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sparsecore "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}
    shown = re.findall(r"^```(python|sh)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(shown) == 4
    for language, code in shown:
        run = ["sh", "-e", "-c", code] if language == "sh" else [sys.executable, "-c", code]
        done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{code}\n{done.stderr}"
    assert result(tmp_path / "tickets/round-3")["sparse_parameters"] < result(tmp_path / "first")["sparse_parameters"]


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)", PAGE):
        assert (DOCS / link).exists(), link
