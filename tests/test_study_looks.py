"""An arm has one look everywhere, and no two arms have the same."""

import attrs
import pytest

from sparsecore.study.arms import names, study_of
from sparsecore.study.report.styles import LOOKS, looks


@pytest.mark.parametrize("name", names())
def test_arms_of_a_preset_have_looks_of_their_own_which_are_the_same_in_all_presets(name):
    found = looks(study_of(name))
    assert len({look.colour for look in found.values()}) == len(found)
    for other in map(study_of, names()):
        both = {arm.name: arm.title for arm in other.arms} | {arm.name: arm.title for arm in study_of(name).arms}
        for title in set(both.values()) & set(found) & set(looks(other)):
            assert looks(other)[title] == found[title]


def test_more_arms_than_colours_still_differ_in_colour_or_marker():
    arms = [{"name": f"arm-{i}", "label": "", "strategy": ["dpr"]} for i in range(40)]
    study = attrs.evolve(study_of("fig1a"), arms=[attrs.evolve(study_of("fig1a").arms[0], **arm) for arm in arms])
    found = list(looks(study).values())
    assert len(found) == len(set(found)) == 40
    assert {look.colour for look in found} == {look.colour for look in LOOKS}
