"""Charts of all sizes: no point and one, numbers that are not finite, dozens of series and hundreds of points."""

import csv
import io
import json
import math
import re
import struct
import xml.etree.ElementTree as ET
import zlib
from html import unescape
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.report.charts import Chart, Panel, Series, Table, readings, series_of
from sparsecore.report.colours import distinct_styles
from sparsecore.report.heat import Heat
from sparsecore.report.html import chart_element
from sparsecore.report.marks import Bar, Dots, Interval, Level, Line, held, held_before
from sparsecore.report.png import indexed_png
from sparsecore.report.scales import Axis, short_number, tick_texts
from sparsecore.report.svg import plane_of

STYLES = [style for style, _ in zip(distinct_styles(), range(60), strict=False)]
NAN, INF = math.nan, math.inf
LINES = {
    "no point": [[]],
    "one point": [[(3.0, 2.5)]],
    "equal values": [[(0.0, 7.0), (1.0, 7.0)]],
    "a gap": [[(0.0, 1.0), (1.0, NAN), (2.0, INF), (3.0, -INF), (4.0, 2.0)]],
    "nothing finite": [[(0.0, NAN), (1.0, INF)]],
    "huge and tiny": [[(0.0, 1e-299), (1.0, 1e299), (2.0, 1e308), (3.0, -1e308)]],
    "almost nothing": [[(0.0, 0.0), (1.0, 5e-324)]],
    "dozens of hundreds": [[(float(x), math.sin(x + line)) for x in range(520)] for line in range(60)],
}


def chart_of(lines, axis=None):
    series = [series_of(f"line {number}", STYLES[number], points) for number, points in enumerate(lines)]
    marks = [Line(f"line {number}", STYLES[number], points, points[:40]) for number, points in enumerate(lines)]
    panel = Panel("", Axis("epoch"), axis or Axis("loss"), marks, readings(series, "epoch"))
    legend = tuple((f"line {number}", STYLES[number]) for number in range(len(lines)))
    return Chart("it", "It", "", (panel,), legend)


AXES = {
    "any": Axis("y"),
    "from zero": Axis("y", low=0.0),
    "logarithmic": Axis("y", is_logarithmic=True),
    "whole numbers": Axis("y", is_whole=True),
}
CASES = [(kind, axis) for kind in LINES for axis in AXES if axis == "any" or kind != "dozens of hundreds"]


@pytest.mark.parametrize(("kind", "axis"), CASES)
def test_every_chart_is_drawn_inside_its_box(kind, axis):
    html = chart_element(chart_of(LINES[kind], AXES[axis]))
    [drawing] = [ET.fromstring(one) for one in re.findall(r'<svg class="plot".*?</svg>', html, re.DOTALL)]
    width, height = map(float, drawing.get("viewBox").split()[2:])
    for element in drawing.iter():
        for name in ("d", "cx", "cy", "x", "y"):
            numbers = [float(one) for one in re.findall(r"[-+]?[\d.]+", element.get(name, ""))]
            assert all(-30 <= number <= max(width, height) + 30 for number in numbers)
            assert not re.search("nan|inf", element.get(name, ""))
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)[1])
    for row in data[0]["rows"]:
        assert len(row["places"]) == len(row["texts"]) == len(data[0]["at"]) == len(data[0]["heads"]) <= 500


def test_series_share_their_stops_and_steps_hold_their_value():
    steps = Series("steps", STYLES[0], [(0.0, 1.0, "1"), (10.0, 2.0, "2")], holds=True)
    points = series_of("points", STYLES[1], [(5.0, 3.0), (10.0, 4.0)])
    found = readings([steps, points], "step")
    assert (list(found.stops), list(found.heads)) == ([0, 5, 10], ["step 0", "step 5", "step 10"])
    assert [row.texts for row in found.rows] == [["1", "1", "2"], [None, "3", "4"]]
    assert held([(0, 1), (10, 2)]) == [(0, 1), (10, 1), (10, 2)]
    assert held_before([(0, 1), (10, 2)]) == [(0, 1), (0, 2), (10, 2)]


@given(
    st.floats(-1e12, 1e12),
    st.floats(1e-6, 1e12),
    st.sampled_from([Axis(""), Axis("", is_whole=True)]),
)
def test_ticks_are_few_distinct_and_inside_the_axis(low, width, axis):
    high = low + max(width, 1e-6 * abs(low))
    ticks = axis.ticks(low, high)
    assert len(ticks) <= 8
    assert all(low - 1e-6 * (high - low) <= tick <= high + 1e-6 * (high - low) for tick in ticks)
    texts = tick_texts(ticks)
    assert len(set(texts)) == len(ticks)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0"),
        (1234.5, "1,234.5"),
        (1e6, "1,000,000"),
        (0.001, "0.001"),
        (2e-7, "2e-07"),
        (NAN, "nan"),
        (-INF, "-inf"),
    ],
)
def test_numbers_are_short(number, text):
    assert short_number(number) == text


def test_given_labels_are_left_out_only_where_they_have_no_room():
    sparsities = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
    assert Axis("sparsity", labelled=sparsities).ticks(0.79, 1.0) == [0.8, 0.9, 0.95, 0.98]
    assert tick_texts(sparsities) == ["0.8", "0.9", "0.95", "0.98", "0.99", "0.995"]


def test_a_row_of_an_arm_has_its_bar_interval_and_trials_at_their_values():
    marks = [
        Bar("", STYLES[0], 0, 90.0),
        Dots("", STYLES[0], [(88.0, 0)]),
        Interval("", STYLES[0], (90.0, 0), (89.0, 0), (91.0, 0)),
        Level("", STYLES[1], 0.0),
    ]
    panel = Panel("", Axis("accuracy", 80.0, 100.0), Axis("", categories=("an arm", "another")), marks)
    plane = plane_of(panel, {})
    left, _, right, _ = plane.box
    bar, dots, interval, _ = (mark.svg(plane) for mark in marks)
    assert float(re.search(r'width="([\d.]+)"', bar)[1]) == pytest.approx((right - left) / 2, abs=0.06)
    assert float(re.search(r'cx="([\d.]+)"', dots)[1]) == pytest.approx(left + 0.4 * (right - left), abs=0.06)
    ends = [float(one) for one in re.search(r'd="M([\d.]+) [\d.]+L([\d.]+)', interval).groups()]
    assert ends == pytest.approx([left + share * (right - left) for share in (0.45, 0.55)], abs=0.06)


def test_a_csv_file_has_all_digits_and_any_text():
    rows = [("a,b", 0.1 + 0.2, 3, None), ('"quoted"\nline', 1e-300, -1, True), ("=1+1 <é> %41", NAN, 0, "x")]
    table = Table(("name", "number", "count", "more"), rows)
    head, *found = csv.reader(io.StringIO(table.csv(), newline=""))
    assert head == ["name", "number", "count", "more"]
    assert [row[0] for row in found] == [row[0] for row in rows]
    assert [float(row[1]) for row in found][:2] == [row[1] for row in rows][:2]
    assert found[0][3] == ""
    assert unquote(table.link().partition(",")[2]) == table.csv()
    assert not re.search(r'[<>"\s]', table.link())
    assert Table(("\ud800",)).link().endswith(",%3F%0D%0A")  # from a damaged file


def test_a_heat_map_is_a_picture_whose_middle_is_transparent():
    heat = Heat([[-2.0, 0.0], [1.0, NAN]], 10.0, 2.0)
    levels = [[heat.level(number) for number in row] for row in heat.cells]
    assert levels == [[32, 0], [8, 33]]
    assert [heat.palette()[level][3] for row in levels for level in row] == [255, 0, 128, 120]
    picture = indexed_png(levels, heat.palette())
    chunks, at = {}, 8
    while at < len(picture):
        (length,) = struct.unpack(">I", picture[at : at + 4])
        kind, data = picture[at + 4 : at + 8], picture[at + 8 : at + 8 + length]
        assert struct.unpack(">I", picture[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + data)
        chunks[kind] = data
        at += 12 + length
    assert zlib.decompress(chunks[b"IDAT"]) == bytes([0, 32, 0, 0, 8, 33])
    assert chunks[b"tRNS"] == bytes(colour[3] for colour in heat.palette())


def test_names_of_series_are_escaped_everywhere():
    name = '</script><script>alert(1)</script>"><b>'
    marks = [Line(name, STYLES[0], [(0.0, 1.0), (1.0, 2.0)])]
    known = readings([series_of(name, STYLES[0], [(0.0, 1.0)])], {0.0: name})
    panel = Panel(name, Axis(name), Axis("", categories=(name,)), marks, known)
    html = chart_element(Chart("it", name, name, (panel,), ((name, STYLES[0]),), Table((name,), [(name,)])))
    assert html.count("<script") == 1
    assert "<b>" not in html
    assert name in unescape(html)
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)[1])
    assert data[0]["heads"] == [name]
