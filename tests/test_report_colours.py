"""Colours can be read: on light and on dark pages, and by readers without one kind of cone."""

from itertools import combinations, product

import numpy as np
import pytest

from sparsecore.report.colours import PAGE, PALETTE, RAMP, SURFACES, TEXT, distinct_styles

# linear RGB to that of readers without one kind of cone: Machado, Oliveira & Fernandes (2009), severity 1
SIGHT = {
    "all cones": np.eye(3),
    "no long cones": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.052]],
    "no medium cones": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "no short cones": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


def linear(colour):
    parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """The contrast of WCAG 2: the ratio of the luminances plus 0.05."""
    darker, lighter = sorted(float(linear(each) @ [0.2126, 0.7152, 0.0722]) for each in (one, other))
    return (lighter + 0.05) / (darker + 0.05)


def lab(rgb):
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(rgb, 0, 1)
    root = np.cbrt(np.maximum(xyz / [0.9505, 1, 1.089], 1e-9))
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


@pytest.mark.parametrize("shade", ["light", "dark"])
def test_texts_and_lines_have_a_contrast_of_at_least_4_5_to_the_page(shade):
    for colour in (*PALETTE, *RAMP, *TEXT.values()):
        assert contrast(getattr(colour, shade), getattr(PAGE, shade)) >= 4.5, colour
    for colour, surface in product(TEXT.values(), SURFACES[1:]):  # the first is that of rules
        assert contrast(getattr(colour, shade), getattr(surface, shade)) >= 4.5, (colour, surface)


@pytest.mark.parametrize("shade", ["light", "dark"])
@pytest.mark.parametrize("sight", SIGHT)
def test_no_two_colours_of_arms_look_alike(shade, sight):
    seen = {colour.name: lab(SIGHT[sight] @ linear(getattr(colour, shade))) for colour in PALETTE}
    for one, other in combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 12, (one, other)


def test_dozens_of_styles_are_distinct():
    styles = [style for style, _ in zip(distinct_styles(), range(64), strict=False)]
    assert len(set(styles)) == 64
