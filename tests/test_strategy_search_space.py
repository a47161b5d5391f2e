"""What the tuning of a strategy tries: ranges, choices, learning rates."""

from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.engine.randomness import Randomness
from sparsecore.errors import InputError, PluginError
from sparsecore.experiment.assembly import assemble
from sparsecore.experiment.experiment import Experiment
from sparsecore.experiment.toml_files import inline_toml
from sparsecore.plugins.discovery import installed, load
from sparsecore.study.strategy_comparison.composition import arm_name, contender_of
from sparsecore.study.strategy_comparison.definition import Contender
from sparsecore.study.strategy_comparison.search_space import (
    Choice,
    Range,
    draw_settings,
    scaled_schedule,
    search_space_of,
)


class Named:
    tuning: ClassVar = {"drop_fraction": (0.1, 0.4), "group": (2, 8), "start": ["erk", "er"]}


def test_a_strategy_names_ranges_by_tuples_and_choices_by_lists():
    assert search_space_of(Named, "named") == {
        "drop_fraction": Range(0.1, 0.4),
        "group": Range(2, 8, is_whole=True),
        "start": Choice(("erk", "er")),
    }
    assert search_space_of(object(), "plain") == {}


@pytest.mark.parametrize("values", [(1.0,), (2.0, 1.0), (1, 2, 3), ("a", "b"), [], 0.3, (0.0, float("inf")), (True, 2)])
def test_values_of_another_form_are_refused_with_the_name_of_the_option(values):
    class Wrong:
        tuning: ClassVar = {"drop_fraction": values}

    with pytest.raises(PluginError, match=r"mine\.tuning\['drop_fraction'\] is a tuple \(lowest, highest\)"):
        search_space_of(Wrong, "mine")


def test_an_attribute_that_is_no_dict_is_refused():
    class Wrong:
        tuning: ClassVar = ["drop_fraction"]

    with pytest.raises(PluginError, match="the attribute 'tuning' of the strategy 'mine' is a dict"):
        search_space_of(Wrong, "mine")


@given(st.integers(1, 12))
def test_the_draws_are_spread_over_every_part_of_the_space(count):
    space = {"rate": Range(0.01, 1.0), "shift": Range(-2.0, 2.0), "kind": Choice(("a", "b", "c", "d"))}
    drawn = draw_settings(space, count, Randomness(0))
    # each of ``count`` parts of equal ratio, or of equal length where the range is not above zero, has one draw
    edges = [0.01 * 100 ** (part / count) for part in range(count + 1)]
    assert all(
        edges[part] * 0.999 <= rate <= edges[part + 1] * 1.001
        for part, rate in enumerate(sorted(settings["rate"] for settings in drawn))
    )
    assert all(
        -2 + 4 * part / count - 0.001 <= shift <= -2 + 4 * (part + 1) / count + 0.001
        for part, shift in enumerate(sorted(settings["shift"] for settings in drawn))
    )
    if count % 4 == 0:
        kinds = [settings["kind"] for settings in drawn]
        assert {kind: kinds.count(kind) for kind in "abcd"} == dict.fromkeys("abcd", count // 4)


def test_draws_repeat_and_those_of_one_option_do_not_depend_on_the_others():
    rate = {"rate": Range(0.01, 1.0)}
    alone = draw_settings(rate, 5, Randomness(0))
    assert draw_settings(rate, 5, Randomness(0)) == alone
    both = draw_settings({"kind": Choice(("a", "b")), **rate}, 5, Randomness(0))
    assert [{"rate": settings["rate"]} for settings in both] == alone
    assert draw_settings(rate, 5, Randomness(1)) != alone


def test_whole_numbers_reach_both_ends_of_their_range():
    numbers = Range(2, 5, is_whole=True)
    assert {numbers.at(share / 1000) for share in range(1000)} == {2, 3, 4, 5}


def test_a_schedule_is_multiplied_and_keeps_its_form():
    assert scaled_schedule(0.1, 2.0) == 0.2
    assert scaled_schedule({"0": 0.1, "60": 0.02}, 0.5) == {"0": 0.05, "60": 0.01}
    assert scaled_schedule({"start": 0.3, "end": 0.0, "until": 1.0}, 3.0) == {"start": 0.9, "end": 0.0, "until": 1.0}


@pytest.mark.parametrize("name", [entry.name for entry in installed("strategy")])
def test_every_value_that_an_installed_strategy_names_is_a_setting_of_it(name):
    space = search_space_of(load("strategy", name), name)
    for settings in draw_settings(space, 6, Randomness(3)):
        given = [f"strategy.{name}.{option}={inline_toml(value)}" for option, value in settings.items()]
        options = {"model.name": "lenet-12-8", "data.name": "mnist"}
        [choice] = Experiment.of(assemble(None, options, [name], given)).strategies
        assert choice.name == name


def test_an_arm_is_named_after_its_strategies():
    assert arm_name("mine.py:MyStrategy") == "my-strategy"
    assert contender_of("set+gradient-growth").name == "set-gradient-growth"
    assert contender_of("set+gradient-growth").strategy == ("set", "gradient-growth")
    others = [Contender("mine", ("set", "gradient-growth")), Contender("mine-2", ("set",))]
    assert contender_of("mine.py:Mine", others).name == "mine-3"
    with pytest.raises(InputError, match="'set' is the arm 'mine-2' already, and --arm mine-2 compares only"):
        contender_of("set", others)
