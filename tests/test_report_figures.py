"""What the figures draw is what the files say."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import epoch_line, update_line, write_run

from sparsecore.report import figures
from sparsecore.report.charts import evenly_spaced
from sparsecore.report.reading import read_run

UPDATES = [update_line(1, moved=5), update_line(2, moved=9, threshold=0.002), update_line(3, moved=7, threshold=None)]


@pytest.fixture
def drawn(tmp_path):
    """The chart of a run by a figure's function."""

    def of(figure, **files):
        return figure(read_run(write_run(tmp_path / "run", **{"updates": UPDATES} | files)))

    return of


def lines_of(chart):
    return {mark.series: list(mark.points) for panel in chart.panels for mark in panel.marks}


@pytest.mark.parametrize(("figure", "key", "unit"), [(figures.accuracy, "accuracy", 100), (figures.loss, "loss", 1)])
def test_accuracies_are_drawn_at_their_measured_epochs(drawn, figure, key, unit):
    lines = lines_of(drawn(figure))
    for split in ("train", "test"):
        assert lines[split] == [(epoch, epoch_line(epoch)[f"{split}_{key}"] * unit) for epoch in (1, 2, 3)]


def threshold(run):
    (figure,) = figures.strategy_metrics(run)
    return figure


def test_a_metric_that_doubles_is_logarithmic_and_leaves_out_updates_without_it(drawn):
    [panel] = drawn(threshold).panels
    assert panel.y.is_logarithmic
    assert panel.y.label == "threshold"
    assert panel.marks[0].marked == [(10, 0.001), (20, 0.002)]
    assert panel.marks[0].points == [(10, 0.001), (20, 0.001), (20, 0.002)]  # a number holds until the next update


@pytest.mark.parametrize("numbers", [(0.3, 0.0), (-1.0, 1.0), (5.0, 6.0)])
def test_a_metric_that_may_be_zero_or_hardly_changes_is_linear(drawn, numbers):
    updates = [line | {"metrics": {"rigl.fraction": number}} for line, number in zip(UPDATES, numbers, strict=False)]
    [panel] = drawn(threshold, updates=updates).panels
    assert not panel.y.is_logarithmic
    assert panel.marks[0].marked == [(10, numbers[0]), (20, numbers[1])]


def test_moved_weights_are_summed_over_tensors(drawn):
    updates = [line | {"pruned": {"first.weight": 2, "second.weight": line["update"]}} for line in UPDATES]
    lines = lines_of(drawn(figures.pruned_and_grown, updates=updates))
    assert lines["pruned"] == [(10, 3), (20, 4), (30, 5)]
    assert lines["grown"] == [(10, 5), (20, 9), (30, 7)]


def edges_at(area, step):
    """The upper and the lower edge of an area just after a step."""
    index = max(place for place, x in enumerate(area.x) if x <= step)
    return area.high[index], area.low[index]


def test_areas_stack_the_active_counts_of_all_updates(drawn):
    first, second = drawn(figures.active_parameters).panels[0].marks
    # the last epoch ends at step 45, after the last update at 30
    for step, count in {0: 100, 9: 100, 10: 105, 20: 96, 30: 103, 44: 103}.items():
        assert edges_at(first, step) == (count, 0)
        assert edges_at(second, step) == (400, count)


def test_pointing_at_an_area_says_its_count_also_between_updates(drawn):
    known = drawn(figures.active_parameters).panels[0].readings
    assert list(known.stops) == [0, 10, 20, 30, 45]
    texts = {row.name: row.texts for row in known.rows}
    assert texts["first.weight"] == ["100", "105", "96", "103", "103"]
    assert texts["second.weight"] == ["300", "295", "304", "297", "297"]


def test_the_legend_lists_tensors_in_the_order_of_the_areas(drawn):
    assert [name for name, _ in drawn(figures.active_parameters).legend] == ["second.weight", "first.weight"]


@pytest.mark.parametrize(
    "figure", [figures.accuracy, figures.loss, threshold, figures.pruned_and_grown, figures.active_parameters]
)
def test_every_axis_has_a_label_and_starts_at_the_start(drawn, figure):
    [panel] = drawn(figure).panels
    assert panel.x.label
    assert panel.y.label
    assert panel.x.low == 0


@given(st.integers(0, 5000), st.integers(2, 1200))
def test_thinning_keeps_the_first_and_the_last_evenly_spread(count, most):
    kept = evenly_spaced(count, most)
    assert len(kept) == min(count, most)
    assert kept == sorted(set(kept))
    if count:
        assert (kept[0], kept[-1]) == (0, count - 1)
        gaps = {later - earlier for earlier, later in pairwise(kept)}
        assert not gaps or max(gaps) - min(gaps) <= 1
