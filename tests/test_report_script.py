"""What the script of a report says of the point under the pointer."""

import json
from importlib.resources import files

import pytest

quickjs = pytest.importorskip("quickjs")

PANEL = {
    "along": "x",
    "at": [10, 20, 40],
    "heads": ["epoch 1", "epoch 2", "epoch 4"],
    "unit": "%",
    "rows": [
        {"name": "one", "key": "k0", "places": [5, 50, None], "texts": ["1", "2", None]},
        {"name": "two", "key": "k1", "places": [80, 60, 40], "texts": ["3", "4", "5 ± 1"]},
    ],
}


@pytest.fixture(scope="module")
def script():
    """The script of the pages, in which a function can be called without a page."""
    engine = quickjs.Context()
    engine.eval((files("sparsecore.report") / "page.js").read_text("utf-8"))

    def call(expression: str, panel: object = PANEL) -> object:
        return json.loads(engine.eval(f"(panel => JSON.stringify({expression}))({json.dumps(panel)})"))

    return call


@pytest.mark.parametrize(("x", "stop"), [(-100, 0), (14, 0), (16, 1), (31, 2), (1000, 2)])
def test_the_pointer_stops_at_the_nearest_point(script, x, stop):
    assert script(f"nearestStop(panel, {x}, 0)") == stop


def test_the_pointer_stops_along_the_other_axis_and_at_the_nearest_point_of_all(script):
    assert script("nearestStop(panel, 0, 38)", PANEL | {"along": "y"}) == 2
    single = [
        {"name": "one", "key": "k0", "places": [90, None, None], "texts": ["1", None, None]},
        {"name": "two", "key": "k1", "places": [None, 10, None], "texts": [None, "2", None]},
        {"name": "three", "key": "k2", "places": [None, None, 90], "texts": [None, None, "3"]},
    ]
    panel = PANEL | {"along": "xy", "rows": single}
    assert [script(f"nearestStop(panel, {x}, {y})", panel) for x, y in ((25, 90), (25, 10), (30, 90))] == [0, 1, 2]


def test_all_series_with_a_value_are_shown_with_unit_and_interval_unless_hidden(script):
    shown = "rowsAt(panel, {}, {}, new Set({})).shown.map(row => [row.name, valueOf(panel, row, {})])"
    assert script(shown.format(1, 55, "[]", 1)) == [["one", "2 %"], ["two", "4 %"]]
    assert script(shown.format(2, 55, "[]", 2)) == [["two", "5 ± 1 %"]]
    assert script(shown.format(1, 55, '["k0"]', 1)) == [["two", "4 %"]]
    assert script("rowsAt(panel, 1, 52, new Set([])).nearest.name") == "one"


def test_of_dozens_of_series_those_next_to_the_pointer_are_shown_in_their_order(script):
    rows = [{"name": str(row), "key": f"k{row}", "places": [row * 10], "texts": ["1"]} for row in range(60)]
    found = script(
        "rowsAt(panel, 0, 303, new Set())", {"along": "x", "at": [0], "heads": [""], "unit": "", "rows": rows}
    )
    assert found["more"] == 46
    assert found["nearest"]["name"] == "30"
    names = [int(row["name"]) for row in found["shown"]]
    assert names == sorted(names)
    assert set(names) == set(sorted(range(60), key=lambda row: abs(row * 10 - 303))[:14])
