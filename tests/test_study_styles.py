"""An arm has one style in all studies, and no two arms have the same."""

import attrs
import pytest

from sparsecore.report.colours import PALETTE
from sparsecore.study.definition import load_study, preset_names
from sparsecore.study.report.panels import styles_of


@pytest.mark.parametrize("name", preset_names())
def test_arms_of_a_preset_have_distinct_styles_which_are_the_same_in_all_presets(name):
    found = styles_of(load_study(name))
    assert len({style.colour for style in found.values()}) == len(found)
    for other in map(load_study, preset_names()):
        both = {arm.name: arm.title for arm in other.arms} | {arm.name: arm.title for arm in load_study(name).arms}
        for title in set(both.values()) & set(found) & set(styles_of(other)):
            assert styles_of(other)[title] == found[title]


def test_more_arms_than_colours_still_differ_in_colour_or_marker():
    arms = [{"name": f"arm-{i}", "label": "", "strategy": ["dpr"]} for i in range(40)]
    preset = load_study("fig1a")
    study = attrs.evolve(preset, arms=[attrs.evolve(preset.arms[0], **arm) for arm in arms], hypotheses=())
    found = list(styles_of(study).values())
    assert len(found) == len(set(found)) == 40
    assert {style.colour for style in found} == set(PALETTE)
