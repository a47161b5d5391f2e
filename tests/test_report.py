"""The report: complete, self-contained, the same bytes for the same files, for every kind of run."""

import csv
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from base64 import b64encode
from collections import Counter
from functools import cache
from hashlib import sha256
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote

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
        self.drawings, self.inside_cell, self.inside_script = 0, False, False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.drawings += tag == "svg" and ("class", "plot") in attrs
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
            self.inside_cell = True
        self.inside_script = self.inside_script or tag in {"script", "style"}
        for name, value in attrs:
            self.ids += [value] if name == "id" else []
            self.references += [value] if name in {"src", "href", "xlink:href", "srcset", "data"} else []

    def handle_endtag(self, tag):
        self.inside_cell = self.inside_cell and tag not in {"td", "th"}
        self.inside_script = self.inside_script and tag not in {"script", "style"}

    def handle_data(self, data):
        self.text += "" if self.inside_script else data
        if self.inside_cell:
            self.rows[-1][-1] = data.strip() or self.rows[-1][-1]


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


@cache
def page_of(kind):
    """The page of a kind of run, drawn once."""
    with TemporaryDirectory() as folder:
        return report_of(write_run(Path(folder) / "run", **KINDS[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_of_every_kind_of_run_is_one_file_that_needs_no_network(kind):
    page = page_of(kind)
    outline = Outline(page)
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & set(outline.tags)
    assert all(reference.startswith("data:") for reference in outline.references)
    assert "@import" not in page
    assert "url(" not in page
    assert not re.search(r"https?://(?!www.w3.org/2000/svg)", page)
    assert len(page) < 300_000


def test_the_policy_of_the_page_permits_its_own_scripts_alone():
    page = page_of("finished")
    [policy] = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [b64encode(sha256(script.encode()).digest()).decode() for script in scripts]
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]


@pytest.mark.parametrize("kind", KINDS)
def test_drawings_are_well_formed_and_have_unique_ids(kind):
    page = page_of(kind)
    drawings = [ET.fromstring(drawing) for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    numbers = [text for each in drawings for one in each.iter() for text in one.attrib.values() if "nan" in text]
    assert not numbers
    ids = Outline(page).ids
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("kind", "count"), {"finished": 7, "static": 4, "no epoch yet": 1, "no threshold": 6, "no sparse tensor": 3}.items()
)
def test_a_figure_is_drawn_exactly_when_it_has_data(kind, count):
    outline = Outline(page_of(kind))
    assert outline.tags["figure"] == count
    assert outline.drawings == count


def test_the_same_files_give_the_same_bytes_in_any_folder(tmp_path):
    first, second = (write_run(tmp_path / name, **KINDS["finished"]) for name in ("here", "there"))
    expected = write_report(first).read_bytes()
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


def test_the_page_of_an_unfinished_run_shows_its_progress():
    text = Outline(page_of("unfinished")).text
    assert "has not finished. So far: epochs 3, updates 1." in text
    assert "94.21%" not in text


def test_the_table_counts_the_weights_of_each_tensor_from_start_to_end(tmp_path):
    run = write_run(tmp_path / "run", updates=[update_line(1, moved=5)])
    _, first, second, both = Outline(report_of(run)).rows
    assert first == ["first.weight", "8 × 4 × 3 × 3", "100", "105", "65.28%", "63.54%"]
    assert second == ["second.weight", "16 × 8 × 3 × 3", "300", "295", "73.96%", "74.39%"]
    assert both == ["all", "1,440 positions", "400", "400", "72.22%", "72.22%"]


def test_names_from_the_files_cannot_become_markup(tmp_path):
    name = "</script><script>alert('$x')</script>&amp;\"><img src=x>"
    updates = [
        update_line(1, threshold=None) | {"metrics": {f"dpr.{name}": 1.0}, "pruned": {name: 1}, "grown": {name: 1}}
    ]
    run = write_run(tmp_path / "run", tensors={name: 3}, shapes={name: (2, 2)}, updates=updates)
    (run / "experiment.toml").write_text("[model]\nname = '<img src=x>'\n# </pre><script>\n")
    page = report_of(run)
    outline = Outline(page)
    assert not outline.tags["img"]
    # the two scripts of every page, and the data of each figure
    assert outline.tags["script"] == 2 + outline.tags["figure"]
    assert name in outline.text
    assert "<img src=x>" in outline.text
    densities = data_of(page, "densities")
    assert [row["name"] for row in densities[0]["rows"]] == [name]
    assert csv_of(page, "densities")[0] == ["update", "step", name]


def data_of(page, figure):
    """What the script of a page knows of a figure."""
    [data] = re.findall(
        rf'<figure [^>]*id="{figure}">.*?<script type="application/json">(.*?)</script>', page, re.DOTALL
    )
    return json.loads(data)


def csv_of(page, figure):
    """The rows of a figure's CSV file."""
    [link] = re.findall(rf'<a class="csv" download="{figure}.csv"[^>]*href="data:text/csv;charset=utf-8,([^"]*)"', page)
    return list(csv.reader(unquote(unescape(link)).splitlines()))


def test_the_csv_files_of_the_figures_have_the_numbers_of_the_logs(tmp_path):
    run = write_run(tmp_path / "run", **KINDS["hundreds of updates"])
    page = report_of(run)
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    columns = {
        "accuracy": ("epoch", "step", "train_accuracy", "test_accuracy"),
        "loss": ("epoch", "step", "train_loss", "test_loss"),
        "rate": ("epoch", "step", "learning_rate"),
    }
    for figure, names in columns.items():
        head, *rows = csv_of(page, figure)
        assert tuple(head) == names
        assert [[float(cell) for cell in row] for row in rows] == [[line[name] for name in names] for line in epochs]
    updates = [json.loads(line) for line in (run / "reallocations.jsonl").read_text().splitlines()]
    head, *rows = csv_of(page, "strategy-metric-0")
    assert head == ["update", "step", "dpr.threshold"]
    assert [float(row[2]) for row in rows] == [line["metrics"]["dpr.threshold"] for line in updates]
    head, *rows = csv_of(page, "moved")
    assert [row[1:] for row in rows] == [[str(line["step"]), "5", "5"] for line in updates]
    active = dict(START)
    head, *rows = csv_of(page, "active")
    assert head[2:] == list(START)
    for row, line in zip(rows, [{"step": 0, "pruned": {}, "grown": {}}, *updates], strict=True):
        active = {name: active[name] - line["pruned"].get(name, 0) + line["grown"].get(name, 0) for name in active}
        assert list(map(int, row[1:])) == [line["step"], *active.values()]
    sizes = [288, 1152]
    shares = [[float(cell) for cell in row[2:]] for row in csv_of(page, "densities")[1:]]
    assert shares == [[int(count) / size for count, size in zip(row[2:], sizes, strict=True)] for row in rows]


def test_a_page_of_thousands_of_updates_stays_small(tmp_path):
    names = [f"layer{layer}.weight" for layer in range(24)]
    active = dict.fromkeys(names, 900)
    moves = ({names[u % 24]: u % 5} for u in range(1, 5001))
    updates = [update_line(u, threshold=None) | {"step": u, "pruned": m, "grown": m} for u, m in enumerate(moves, 1)]
    run = write_run(tmp_path / "run", updates=updates, tensors=active, shapes=dict.fromkeys(names, (32, 32, 3, 3)))
    report = write_report(run)
    assert report.stat().st_size < 1_000_000
    page = report.read_text(encoding="utf-8")
    assert "500 of 5,000 updates are drawn" in page
    assert "The CSV file has 833 of 5,000 updates" in page
    assert len(csv_of(page, "moved")) == 5001


def test_a_diverged_run_is_drawn_up_to_its_last_finite_value(tmp_path):
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({**epoch_line(4), "train_loss": float("nan"), "test_loss": float("inf")}) + "\n")
    page = report_of(run)
    assert Outline(page).drawings == 4
    train, test = data_of(page, "loss")[0]["rows"]
    assert (train["texts"][3], test["texts"][3]) == ("nan", "inf")
    assert train["places"][3] is test["places"][3] is None
    assert all(train["places"][:3])
    assert csv_of(page, "loss")[-1] == ["4", "60", "nan", "inf"]


@pytest.mark.integration
def test_writing_a_report_imports_no_plotting(tmp_path):
    run = write_run(tmp_path / "run", **KINDS["finished"])
    look = "import pathlib, sys, sparsecore.report as r; r.write_report(pathlib.Path(sys.argv[1]))"
    look += "; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", look, str(run)], check=True, cwd=Path(__file__).parent.parent)


def test_a_damaged_file_leaves_no_report_behind(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text("{\n")
    with pytest.raises(InputError):
        write_report(run)
    assert not (run / "report.html").exists()
