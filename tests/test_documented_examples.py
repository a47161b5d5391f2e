"""What README and docs/ show runs as printed: each page is run from top to bottom."""

import json
import re
from pathlib import Path

import pytest
from pages import ROOT, blocks, read, walk

pytestmark = pytest.mark.usefixtures("quick_runs")

WALKED = (
    "README.md",
    "docs/experiments.md",
    "docs/explanations/reproducibility.md",
    "docs/lottery.md",
    "docs/start.md",
    "docs/strategies.md",
    "docs/studies-elsewhere.md",
    "docs/write-a-backend.md",
    "docs/write-a-data-set.md",
    "docs/write-a-model.md",
    "docs/write-a-strategy.md",
    "docs/your-own-network.md",
)
SLOW = ("docs/studies-elsewhere.md", "docs/write-a-backend.md", "docs/write-a-strategy.md")
"""Pages that take long, since the test kit runs on them or many processes start."""

ELSEWHERE = {
    "backends/sparsecore_cpu/README.md": "test_cpu_inference_files.py",
    "docs/contrib.md": "test_contrib.py",
    "docs/export.md": "test_export_documentation.py",
    "docs/flops.md": "test_flops.py",
    "docs/coming-from.md": "test_sparsify_documentation.py",
    "docs/explanations/kernels.md": "test_sparsify_documentation.py",
    "docs/explanations/positions.md": "test_sparsify_documentation.py",
    "docs/faq.md": "test_sparsify_documentation.py",
    "docs/formats.md": "test_formats.py",
    "docs/jax.md": "test_jax_documentation.py",
    "docs/hooks.md": "test_plugin_documentation.py",
    "docs/notebooks.md": "test_observers_documentation.py",
    "docs/observers.md": "test_observers_documentation.py",
    "docs/several-devices.md": "test_torch_ddp.py",
    "docs/sparsify.md": "test_sparsify_documentation.py",
    "docs/compact-storage.md": "test_sparsify_documentation.py",
    "docs/sparsify-groups.md": "test_sparsify_documentation.py",
    "docs/studies.md": "test_study_documentation.py",
    "docs/testing.md": "test_testing_documentation.py",
    "docs/train-faster-on-cpu.md": "test_sparsify_documentation.py",
    "docs/trainers-timm.md": "test_trainer_pages.py",
    "docs/trainers.md": "test_trainer_pages.py",
    "docs/young-weights.md": "test_sparsify_documentation.py",
}
"""Pages whose blocks other tests run: in one process, on several ranks, or with a part of the examples."""


@pytest.mark.integration
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow) if page in SLOW else page for page in WALKED]
)
def test_the_examples_of_the_page_run(page: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    walk(page, tmp_path)
    if page == "README.md":
        ends = [json.loads((tmp_path / f"runs/{name}/result.json").read_text()) for name in ("numpy", "torch")]
        assert ends[0]["reallocations"] > 0
        assert ends[0]["topology_sha256"] == ends[1]["topology_sha256"]


def test_every_page_with_executable_examples_is_tested() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("b*/*/README.md"), *ROOT.glob("b*/README.md")]
    for path in pages:
        page = str(path.relative_to(ROOT))
        if any(block.language in {"python", "sh"} for block in blocks(page)):
            assert page in WALKED or page in ELSEWHERE, page
    for page, test in ELSEWHERE.items():
        assert Path(page).stem in (ROOT / "tests" / test).read_text("utf-8"), test


@pytest.mark.parametrize(
    "page",
    sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("docs/*.md"), *ROOT.glob("docs/explanations/*.md"))),
)
def test_every_page_opens_with_an_example(page: str) -> None:
    opening = "\n".join(read(page).splitlines()[:40])
    assert re.search(r"^(```(python|sh|toml)|    (sparsecore|python|torchrun) )", opening, re.MULTILINE)


def test_the_readme_is_short() -> None:
    assert len(read("README.md").splitlines()) < 200
