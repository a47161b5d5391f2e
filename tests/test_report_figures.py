"""What the figures draw is what the files say."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from test_report import epoch_line, update_line, write_run

from sparsecore.report import figures
from sparsecore.report.drawing import evenly_spaced
from sparsecore.report.reading import read_run

UPDATES = [update_line(1, moved=5), update_line(2, moved=9, threshold=0.002), update_line(3, moved=7, threshold=None)]


@pytest.fixture
def axes(tmp_path, monkeypatch):
    """Axes as a figure of the run leaves them."""
    drawn = []

    def keep(name, size, paint):
        drawn.append(Figure(figsize=size).add_subplot())
        paint(drawn[-1])
        return name

    for module in (figures,):
        monkeypatch.setattr(module, "draw_axes", keep)

    def of(figure, **files):
        figure(read_run(write_run(tmp_path / "run", **{"updates": UPDATES} | files)))
        return drawn[-1]

    return of


def points(line):
    return [tuple(point) for point in line.get_xydata().tolist()]


@pytest.mark.parametrize(("figure", "key", "unit"), [(figures.accuracy, "accuracy", 100), (figures.loss, "loss", 1)])
def test_accuracies_are_drawn_at_their_measured_epochs(axes, figure, key, unit):
    lines = {line.get_label(): points(line) for line in axes(figure).get_lines()}
    for split in ("train", "test"):
        assert lines[split] == [(epoch, epoch_line(epoch)[f"{split}_{key}"] * unit) for epoch in (1, 2, 3)]


def threshold(run):
    (figure,) = figures.strategy_metrics(run)
    return figure


def test_a_metric_that_doubles_is_logarithmic_and_leaves_out_updates_without_it(axes):
    drawn = axes(threshold)
    assert drawn.get_yscale() == "log"
    assert drawn.get_ylabel() == "threshold"
    assert points(drawn.get_lines()[0]) == [(10, 0.001), (20, 0.002)]


@pytest.mark.parametrize("numbers", [(0.3, 0.0), (-1.0, 1.0), (5.0, 6.0)])
def test_a_metric_that_may_be_zero_or_hardly_changes_is_linear(axes, numbers):
    updates = [line | {"metrics": {"rigl.fraction": number}} for line, number in zip(UPDATES, numbers, strict=False)]
    drawn = axes(threshold, updates=updates)
    assert drawn.get_yscale() == "linear"
    assert points(drawn.get_lines()[0]) == [(10, numbers[0]), (20, numbers[1])]


def test_moved_weights_are_summed_over_tensors(axes):
    updates = [line | {"pruned": {"first.weight": 2, "second.weight": line["update"]}} for line in UPDATES]
    lines = {line.get_label(): points(line) for line in axes(figures.pruned_and_grown, updates=updates).get_lines()}
    assert lines["pruned"] == [(10, 3), (20, 4), (30, 5)]
    assert lines["grown"] == [(10, 5), (20, 9), (30, 7)]


def height_at(area, step):
    """The upper and the lower edge of an area just after a step."""
    x, y = area.get_paths()[0].vertices.T
    crossings = [
        y0 for (x0, y0), (x1, y1) in pairwise(zip(x, y, strict=True)) if y0 == y1 and min(x0, x1) <= step < max(x0, x1)
    ]
    return max(crossings), min(crossings)


def test_areas_stack_the_active_counts_of_all_updates(axes):
    first, second = axes(figures.active_parameters).collections
    # the last epoch ends at step 45, after the last update at 30
    for step, count in {0: 100, 9: 100, 10: 105, 20: 96, 30: 103, 44: 103}.items():
        assert height_at(first, step) == (count, 0)
        assert height_at(second, step) == (400, count)


def test_the_legend_lists_tensors_in_the_order_of_the_areas(axes):
    drawn = axes(figures.active_parameters)
    assert [text.get_text() for text in drawn.get_legend().get_texts()] == ["second.weight", "first.weight"]


@pytest.mark.parametrize(
    "figure", [figures.accuracy, figures.loss, threshold, figures.pruned_and_grown, figures.active_parameters]
)
def test_every_axis_has_a_label_and_starts_at_the_start(axes, figure):
    drawn = axes(figure)
    assert drawn.get_xlabel()
    assert drawn.get_ylabel()
    assert drawn.get_xlim()[0] == 0


@given(st.integers(0, 5000), st.integers(2, 1200))
def test_thinning_keeps_the_first_and_the_last_evenly_spread(count, most):
    kept = evenly_spaced(count, most)
    assert len(kept) == min(count, most)
    assert kept == sorted(set(kept))
    if count:
        assert (kept[0], kept[-1]) == (0, count - 1)
        gaps = {later - earlier for earlier, later in pairwise(kept)}
        assert not gaps or max(gaps) - min(gaps) <= 1
