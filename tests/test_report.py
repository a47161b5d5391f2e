"""The report: complete, self-contained, the same bytes for the same files, for every kind of run."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import pytest

from sparsecore.errors import InputError
from sparsecore.report import write_report

SHAPES = {"first.weight": (8, 4, 3, 3), "second.weight": (16, 8, 3, 3)}
START = {"first.weight": 100, "second.weight": 300}
RESULT = {
    "test_accuracy": 0.9421,
    "test_loss": 0.25,
    "train_accuracy": 0.98,
    "train_loss": 0.1,
    "sparse_parameters": 400,
    "dense_parameters": 77,
    "sparsity": 0.722,
    "reallocations": 2,
    "topology_sha256": "0123456789abcdef" * 4,
    "steps": 45,
    "memory": {},
    "seconds": 98.765,
    "run": "/somewhere/else",
}


def epoch_line(epoch):
    losses = {"train_loss": 2.0 / epoch, "test_loss": 2.2 / epoch}
    hits = {"train_accuracy": 1 - 0.5 / epoch, "test_accuracy": 1 - 0.6 / epoch}
    return {"epoch": epoch, "step": 15 * epoch, "learning_rate": 0.1, **losses, **hits}


def update_line(update, moved=5, threshold=0.001):
    names = ("second.weight", "first.weight") if update % 2 else ("first.weight", "second.weight")
    counts = {"moved": moved, "pruned": {names[0]: moved}, "grown": {names[1]: moved}}
    positions = {"pruned_positions": "", "grown_positions": ""}  # no report reads them
    metrics = {} if threshold is None else {"dpr.threshold": threshold}
    return {"update": update, "step": 10 * update, "metrics": metrics, **counts, **positions, "seconds": 0.1}


def write_run(folder, *, epochs=(1, 2, 3), updates=(), result=RESULT, tensors=START, shapes=SHAPES):
    folder.mkdir(exist_ok=True)
    settings = 'seed = 3\nsparsity = 0.9\n[model]\nname = "wrn"\nwidth = 2\n[data]\nname = "cifar10"\n'
    (folder / "experiment.toml").write_text(settings + '[[strategy]]\nname = "dpr"\n[[strategy]]\nname = "grad"\n')
    rows = [{"name": name, "shape": shapes[name], "active": active} for name, active in tensors.items()]
    (folder / "tensors.json").write_text(json.dumps({"tensors": rows}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(epoch_line(epoch)) + "\n" for epoch in epochs))
    (folder / "reallocations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in updates))
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    return folder


class Outline(HTMLParser):
    """All that a page names or refers to, its text, and its tables' cells."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.ids, self.references, self.rows, self.text = Counter(), [], [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        for name, value in attrs:
            self.ids += [value] if name == "id" else []
            self.references += [value] if name in {"src", "href", "xlink:href", "srcset", "data"} else []

    def handle_data(self, data):
        self.text += data
        if self.rows:
            self.rows[-1][-1:] = [data.strip() or cell for cell in self.rows[-1][-1:]]


def report_of(folder):
    return write_report(folder).read_text(encoding="utf-8")


KINDS = {
    "finished": {"updates": [update_line(1), update_line(2, threshold=0.002)]},
    "static": {"updates": []},
    "one epoch": {"epochs": [1], "updates": [update_line(1)]},
    "unfinished": {"updates": [update_line(1)], "result": None},
    "no epoch yet": {"epochs": [], "result": None},
    "no threshold": {"updates": [update_line(1, threshold=None)]},
    "threshold of zero": {"updates": [update_line(1, threshold=0.0)]},
    "nothing moved": {"updates": [update_line(1, moved=0)]},
    "no sparse tensor": {"tensors": {}},
    "hundreds of updates": {"updates": [update_line(update) for update in range(1, 367)]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_of_every_kind_of_run_is_self_contained(tmp_path, kind):
    page = report_of(write_run(tmp_path / "run", **KINDS[kind]))
    outline = Outline(page)
    assert not {"script", "link", "img", "iframe", "object", "embed", "image", "base"} & set(outline.tags)
    assert all(reference.startswith("#") for reference in outline.references)
    assert "@import" not in page
    inner = re.findall(r"url\(([^)]*)\)", page) + outline.references
    assert {reference.removeprefix("#") for reference in inner} <= set(outline.ids)


@pytest.mark.parametrize("kind", KINDS)
def test_drawings_are_well_formed_and_have_unique_ids(tmp_path, kind):
    page = report_of(write_run(tmp_path / "run", **KINDS[kind]))
    drawings = [ET.fromstring(drawing) for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    ids = [element.get("id") for drawing in drawings for element in drawing.iter() if element.get("id")]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("kind", "count"), {"finished": 7, "static": 4, "no epoch yet": 1, "no threshold": 6, "no sparse tensor": 3}.items()
)
def test_a_figure_is_drawn_exactly_when_it_has_data(tmp_path, kind, count):
    outline = Outline(report_of(write_run(tmp_path / "run", **KINDS[kind])))
    assert (outline.tags["figure"], outline.tags["svg"]) == (count, count)


def test_the_same_files_give_the_same_bytes_in_any_folder(tmp_path):
    first, second = (write_run(tmp_path / name, **KINDS["finished"]) for name in ("here", "there"))
    expected = write_report(first).read_bytes()
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "none", "xtick.top": True}):
        assert write_report(second).read_bytes() == expected
    assert write_report(first).read_bytes() == expected
    assert str(tmp_path).encode() not in expected


def test_the_report_is_the_only_file_added(tmp_path):
    run = write_run(tmp_path / "run")
    before = set(run.iterdir())
    assert write_report(run) == run / "report.html"
    assert set(run.iterdir()) - before == {run / "report.html"}


def test_the_header_shows_settings_and_result(tmp_path):
    text = Outline(report_of(write_run(tmp_path / "run"))).text
    for shown in ("wrn by dpr + grad on cifar10", "wrn, width 2", "94.21%", "0.2500", "72.20%", "0123456789ab"):
        assert shown in text
    for hidden in ("98.765", "/somewhere/else"):
        assert hidden not in text


def test_nested_settings_are_readable(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "experiment.toml").write_text(
        "presets = false\n[training]\nrate = { 0 = 0.1, 60 = 0.02 }\nnesterov = true\n"
    )
    text = Outline(report_of(run)).text
    assert 'rate {"0": 0.1, "60": 0.02}, nesterov true' in text


def test_the_page_of_an_unfinished_run_shows_its_progress(tmp_path):
    text = Outline(report_of(write_run(tmp_path / "run", **KINDS["unfinished"]))).text
    assert "has not finished. So far: epochs 3, updates 1." in text
    assert "94.21%" not in text


def test_the_table_counts_the_weights_of_each_tensor_from_start_to_end(tmp_path):
    run = write_run(tmp_path / "run", updates=[update_line(1, moved=5)])
    _, first, second, both = Outline(report_of(run)).rows
    assert first == ["first.weight", "8 × 4 × 3 × 3", "100", "105", "65.28%", "63.54%"]
    assert second == ["second.weight", "16 × 8 × 3 × 3", "300", "295", "73.96%", "74.39%"]
    assert both == ["all", "1,440 positions", "400", "400", "72.22%", "72.22%"]


def test_names_from_the_files_cannot_become_markup(tmp_path):
    name = "<script>alert('$x')</script>&amp;"
    run = write_run(tmp_path / "run", tensors={name: 3}, shapes={name: (2, 2)})
    (run / "experiment.toml").write_text("[model]\nname = '<img src=x>'\n# </pre><script>\n")
    outline = Outline(report_of(run))
    assert not outline.tags["script"]
    assert not outline.tags["img"]
    assert name in outline.text
    assert "<img src=x>" in outline.text


def test_a_page_of_thousands_of_updates_stays_small(tmp_path):
    names = [f"layer{layer}.weight" for layer in range(24)]
    active = dict.fromkeys(names, 900)
    moves = ({names[u % 24]: u % 5} for u in range(1, 5001))
    updates = [update_line(u, threshold=None) | {"step": u, "pruned": m, "grown": m} for u, m in enumerate(moves, 1)]
    run = write_run(tmp_path / "run", updates=updates, tensors=active, shapes=dict.fromkeys(names, (32, 32, 3, 3)))
    report = write_report(run)
    assert report.stat().st_size < 2_000_000
    assert "1,000 of 5,000 updates are drawn" in report.read_text(encoding="utf-8")


def test_a_diverged_run_is_drawn_up_to_its_last_finite_value(tmp_path):
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({**epoch_line(4), "train_loss": float("nan"), "test_loss": float("inf")}) + "\n")
    assert Outline(report_of(run)).tags["svg"] == 4


@pytest.mark.integration
def test_importing_the_package_imports_no_plotting():
    look = "import sys, sparsecore.report; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", look], check=True, cwd=Path(__file__).parent.parent)


@pytest.mark.integration
def test_writing_a_report_does_not_use_pyplot(tmp_path):
    run = write_run(tmp_path / "run", **KINDS["finished"])
    look = "import pathlib, sys, sparsecore.report as r; r.write_report(pathlib.Path(sys.argv[1]))"
    look += "; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", look, str(run)], check=True, cwd=Path(__file__).parent.parent)


def test_a_damaged_file_leaves_no_report_behind(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text("{\n")
    with pytest.raises(InputError):
        write_report(run)
    assert not (run / "report.html").exists()
