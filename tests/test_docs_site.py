"""The documentation site: every page is in it, its links lead somewhere, and what is generated is complete."""

import importlib
import json
import re

import pytest
from notebook_examples import luminance
from pages import ROOT, read

yaml = pytest.importorskip("yaml")
PAGES = sorted(path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md"))


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs/site")
    return importlib.import_module


def configuration():
    class Loader(yaml.SafeLoader):
        """Reads the settings of plugins that name a Python object without making it."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    return yaml.load(read("mkdocs.yml"), Loader)


def entries(nav):
    if isinstance(nav, str):
        return [nav]
    return [entry for one in (nav if isinstance(nav, list) else nav.values()) for entry in entries(one)]


def test_every_page_of_the_documentation_has_one_place_in_the_navigation(module):
    listed = entries(configuration()["nav"])
    generated = {"commands.md", *module("site_links").PAGES.values()}
    assert len(set(listed)) == len(listed)
    for page in {*PAGES, *generated}:
        places = [entry for entry in listed if entry == page or (entry.endswith("/") and page.startswith(entry))]
        assert len(places) == 1, page
    assert {entry for entry in listed if not entry.endswith("/")} <= {*PAGES, *generated}


def test_what_does_not_hold_fails_the_build_and_nothing_comes_from_a_network():
    settings = configuration()
    assert set(settings["validation"].values()) == {"warn"}
    assert settings["theme"]["font"] is False
    assert "offline" in settings["plugins"]
    assert not re.search(r"https?://", read("mkdocs.yml"))
    assert "build --strict" in read("Makefile")


@pytest.mark.parametrize(
    ("target", "origin", "expected"),
    [
        ("sparsify.md#refusals", "docs/trainers.md", "sparsify.md#refusals"),
        ("docs/sparsify.md", "README.md", "sparsify.md"),
        ("../README.md#try-it", "docs/sparsify.md", "index.md#try-it"),
        ("../benchmarks/results/cpu_step.md", "docs/sparsify.md", "benchmarks/cpu_step.md"),
        ("../backends/sparsecore_cpu/README.md", "docs/export.md", "cpu-backend.md"),
        ("../examples/notebooks/sparsify.ipynb", "docs/notebooks.md", "notebooks/sparsify.md"),
        ("../sparsecore/strategy.py", "docs/hooks.md", "source/sparsecore/strategy.py.md"),
        ("../../docs/cpu-kernels.md", "backends/sparsecore_cpu/README.md", "cpu-kernels.md"),
        ("../studies.md", "docs/results/lenet-mnist.md", "../studies.md"),
        ("fig1a-lenet-mnist/accuracy.svg", "docs/results/fig1a-lenet-mnist.md", "fig1a-lenet-mnist/accuracy.svg"),
        ("https://example.org/a.md", "docs/sparsify.md", "https://example.org/a.md"),
        ("#here", "docs/sparsify.md", "#here"),
        ("../nothing/here.md", "docs/sparsify.md", "../nothing/here.md"),
    ],
)
def test_a_link_on_github_becomes_a_link_on_the_site(module, target, origin, expected):
    links = module("site_links")
    assert links.on_site(target, origin, links.place_of(origin)) == expected


def test_links_in_code_stay_as_they_are(module):
    text = "[a](x)\n\n```python\nb = [c](x)\n```\n\n`[d](x)` and ![e](x) and [f\ng](x)"
    changed = module("site_links").replace_links(text, str.upper)
    assert changed == text.replace("[a](x)", "[a](X)").replace("[e](x)", "[e](X)").replace("g](x)", "g](X)")


@pytest.mark.parametrize("page", [page for page in PAGES if "<!-- " in read(f"docs/{page}")])
def test_tables_of_results_have_the_numbers_of_their_files(module, page):
    pytest.importorskip("torch")
    text = read(f"docs/{page}")
    assert module("site_results").with_tables(text, f"docs/{page}") == text
    wrong = re.sub(r"(<!-- [^\n]*-->\n(?:\|[^\n]*\n)+\|[^\n]*)\d\.\d\d", r"\g<1>7.89", text)
    assert module("site_results").with_tables(wrong, f"docs/{page}") == text != wrong


def test_figures_on_a_dark_page_stand_out_from_it(module):
    for path in sorted(ROOT.glob("docs/figures/*.svg")):
        dark = module("site_figures").darkened(path.read_text("utf-8"))
        colours = set(re.findall(r"(?:fill|stroke)\s*[:=]\s*\"?(#[0-9a-f]{6})", dark))
        assert "#ffffff" not in colours
        faint = {one for one in colours if (luminance(one) + 0.05) / (luminance("#1e2129") + 0.05) < 2.9}
        assert all(one[1:3] == one[3:5] == one[5:7] for one in faint), path.name  # only the grey lines of the grid
        assert "#000000" not in colours


def test_the_reference_has_the_public_names_and_their_links_lead_into_it(module):
    pytest.importorskip("griffe")
    import sparsecore.strategy
    import sparsecore.testing

    reference = module("site_reference")
    pages = dict(reference.pages())
    known = reference.documented()
    directives = set(re.findall(r"^::: (\S+)", "\n".join(pages.values()), re.MULTILINE))
    for public in (sparsecore.strategy, sparsecore.testing):
        for name in public.__all__:
            entry = next(one for one in reference.module(public.__name__).entries if one.name == name)
            assert known[entry.canonical] in directives, name
    assert "sparsecore_torch.sparsify" in directives
    assert "sparsecore_cpu.inference.Predictor" in directives
    assert all(page.startswith("# ") for page in pages.values())


def test_the_built_site_is_searched_for_broken_links_and_for_what_comes_from_a_network(module, tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="b.html#there">b</a><a href="b.html#nowhere">b</a><a href="c.html">c</a>'
        '<a href="https://example.org">out</a><script src="https://example.org/x.js"></script><img src="d.png">'
        '<link rel="stylesheet" href="//example.org/x.css"><link rel="canonical" href="https://example.org/">'
    )
    (tmp_path / "b.html").write_text('<h2 id="there">B</h2><a href="a.html#top">a</a>')
    (tmp_path / "x.css").write_text(
        "@import 'https://example.org/y.css'; a { background: url(data:image/png;base64,) }"
    )
    found = list(module("site_check").problems(tmp_path))
    assert len(found) == 6
    for culprit in ("b.html#nowhere", "c.html", "x.js", "d.png", "//example.org/x.css", "y.css"):
        assert any(culprit in sentence for sentence in found), culprit


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path, monkeypatch):
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings_handlers.python")
    pytest.importorskip("nbconvert")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    monkeypatch.chdir(ROOT)
    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path / "site")))
    found = json.loads((tmp_path / "site/search/search_index.json").read_text("utf-8"))["docs"]
    assert {"start.html", "reference/sparsecore_torch.html", "plugins/strategies.html"} <= {
        one["location"] for one in found
    }
    for plugin in ("dpr", "topkast", "smet"):
        assert any(one["location"] == f"plugins/strategies.html#{plugin}" for one in found), plugin
    page = (tmp_path / "site/notebooks/sparsify.html").read_text("utf-8")
    assert "<table" in page
    assert "output_6_0.png" in page
