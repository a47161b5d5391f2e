"""Tables of cases contain every pair of settings in each run of the tests, and every combination with slow ones."""

import itertools

import pytest
from pairwise import every_other, every_pair

SETTINGS = {"storage": ["masked", "compact"], "way": [1, 2, 3], "is_wrapped": [True, False], "dtype": ["f4", "f8"]}


def test_every_pair_of_settings_is_tried_in_every_run_and_every_combination_by_the_slow_tests() -> None:
    names, cases = every_pair(**SETTINGS).args
    assert names == tuple(SETTINGS)
    assert [case.values for case in cases] == list(itertools.product(*SETTINGS.values()))
    always = [dict(zip(names, case.values, strict=True)) for case in cases if pytest.mark.slow not in case.marks]
    assert len(always) <= 8
    for one, other in itertools.combinations(names, 2):
        pairs = {(case[one], case[other]) for case in always}
        assert pairs == set(itertools.product(SETTINGS[one], SETTINGS[other]))


def test_every_setting_is_tried_in_every_run_where_two_have_nothing_to_do_with_each_other() -> None:
    names, cases = every_other(way=SETTINGS["way"], storage=SETTINGS["storage"]).args
    assert names == ("way", "storage")
    assert [case.values for case in cases] == list(itertools.product(SETTINGS["way"], SETTINGS["storage"]))
    always = [case.values for case in cases if pytest.mark.slow not in case.marks]
    assert always == [(1, "masked"), (2, "compact"), (3, "masked")]
