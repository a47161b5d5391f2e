"""Metrics: numbers that strategies report at updates, under the names of strategy and metric."""

import re

import numpy as np
import pytest
from engine_examples import TWO_TENSORS, engine, plugin

from sparsecore.engine.units import Kernels
from sparsecore.strategy import Clock, InvariantError, Layout
from sparsecore_strategies.dpr import DynamicReallocation


def test_metrics_have_the_names_of_strategy_and_metric_bottom_first():
    stack = {
        "dpr": DynamicReallocation(target=5, initial_threshold=0.25),
        "mine": plugin(metrics=lambda clock: {"steps": clock.step, "half": np.float32(0.5)}),
    }
    algorithm = engine(TWO_TENSORS, stack)
    state = algorithm.start(0.8, clock=Clock(step=7))
    assert algorithm.metrics(state) == {"dpr.threshold": 0.25, "mine.steps": 7.0, "mine.half": 0.5}
    assert [type(number) for number in algorithm.metrics(state).values()] == [float] * 3


def test_dpr_reports_the_threshold_that_the_next_update_is_made_with():
    algorithm = engine(TWO_TENSORS, [DynamicReallocation(target=30, initial_threshold=0.25)])
    state = algorithm.start(0.8)
    state, reallocation = algorithm.update(state, np.full(40, 0.3))
    assert reallocation.pruned_count == 0
    assert algorithm.metrics(state) == {"DynamicReallocation.threshold": 0.5}


def test_without_metrics_there_are_none():
    algorithm = engine(TWO_TENSORS, [plugin(prune=lambda topology: topology.all())])
    assert algorithm.metrics(algorithm.start(0.8)) == {}
    silent = engine(TWO_TENSORS, [plugin(metrics=lambda: None)])
    assert silent.metrics(silent.start(0.8)) == {}


def test_metrics_receive_topologies_of_units():
    layout = Layout.of({"conv": (4, 3, 3, 3)})
    algorithm = engine(layout, [plugin(metrics=lambda topology: {"units": topology.size})], units=Kernels())
    (units,) = algorithm.metrics(algorithm.start(0.5)).values()
    assert units == 6


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        (3.0, "returned 3.0; expected a dict of numbers"),
        ([("height", 1.0)], "expected a dict of numbers"),
        ({"height": float("nan")}, "height = nan; expected a finite number"),
        ({"height": float("inf")}, "height = inf; expected a finite number"),
        ({"height": True}, "height = True; expected a finite number"),
        ({"height": "1.0"}, "height = '1.0'; expected a finite number"),
        ({"height": np.ones(3)}, "height = ndarray of float64"),
        ({"height": None}, "height = None; expected a finite number"),
        ({1: 1.0}, "named a metric 1; expected letters"),
        ({"": 1.0}, "named a metric ''; expected letters"),
        ({"a.b": 1.0}, "named a metric 'a.b'; expected letters"),
        ({"\x1b[31m": 1.0}, "expected letters"),
    ],
)
def test_metrics_that_are_not_named_finite_numbers_are_refused_naming_the_strategy(metrics, sentence):
    algorithm = engine(TWO_TENSORS, {"broken": plugin(metrics=lambda: metrics)})
    with pytest.raises(InvariantError, match=rf"plugin 'broken' .*'metrics'.*{re.escape(sentence)}"):
        algorithm.metrics(algorithm.start(0.8))
