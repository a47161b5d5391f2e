"""Colours of reports, each for light and for dark pages, and the styles that tell series apart."""

from collections.abc import Iterator

import attrs


@attrs.frozen
class Colour:
    """A colour that has a shade for light pages and one for dark pages.

    Attributes:
        name: name of the class and of the CSS variable.
        light: '#RRGGBB' on light pages, on paper and in files.
        dark: '#RRGGBB' on dark pages.
    """

    name: str
    light: str
    dark: str


@attrs.frozen
class Style:
    """The look of a series in figures and tables.

    Attributes:
        colour: its colour.
        marker: as matplotlib names it; readers in greyscale recognize the series by it. Empty for none.
        dashed: whether its lines are dashed.
    """

    colour: Colour
    marker: str = ""
    dashed: bool = False


# Every colour has a contrast of 4.5 or more to its page, and every two differ also for readers without one kind of
# cone (CIE76 of at least 12 after the simulation of Machado, Oliveira & Fernandes 2009).
BLUE = Colour("blue", "#1458CC", "#2E86FF")
VERMILION = Colour("vermilion", "#8F1D00", "#F4552F")
GREEN = Colour("green", "#006048", "#1FB87E")
PURPLE = Colour("purple", "#9C2C88", "#D07FDC")
ORANGE = Colour("orange", "#946C00", "#E6C62A")
SKY = Colour("sky", "#047BA6", "#7FD4FF")
INK = Colour("ink", "#000000", "#F4F4F4")
GREY = Colour("grey", "#737373", "#8C9198")
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, INK, GREY)
"""Colours of series without an order, such as the arms of a study."""

RAMP = (
    Colour("ramp-0", "#440154", "#C3A6FF"),
    Colour("ramp-1", "#482475", "#9DAEFF"),
    Colour("ramp-2", "#414487", "#74B4FF"),
    Colour("ramp-3", "#355F8D", "#4FC3E8"),
    Colour("ramp-4", "#2A748A", "#4CCFB8"),
    Colour("ramp-5", "#1F7A5C", "#7BD88F"),
    Colour("ramp-6", "#4F7A12", "#B9DE5A"),
    Colour("ramp-7", "#866C00", "#F3E15A"),
)
"""Colours of series in an order, such as the tensors of a network: from violet to yellow."""

PAGE = Colour("page", "#ffffff", "#16181c")
TEXT = {
    "text": Colour("text", "#1a1a1a", "#e6e6e6"),
    "soft": Colour("soft", "#555555", "#a8a8a8"),
    "link": Colour("link", "#0B57C2", "#7AB0FF"),
    "bad": Colour("bad", "#A3200A", "#FF8A70"),
}
"""Colours of texts by their use; as those of series, all have a contrast of 4.5 or more to the page."""
SURFACES = (
    Colour("rule", "#d9d9d9", "#40444b"),
    Colour("band", "#f5f6f8", "#1f2227"),
    Colour("note", "#fff6e0", "#2c2718"),
)
"""Colours of rules and backgrounds."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")


def ramp_style(index: int, count: int) -> Style:
    """Return the style of a series in an order.

    Args:
        index: its place, from 0.
        count: the number of series.
    """
    return Style(RAMP[round(index * (len(RAMP) - 1) / max(1, count - 1))])


def distinct_styles() -> Iterator[Style]:
    """Yield styles without an end: all colours, then all colours again with other markers, dashed every other time."""
    shift = 0
    while True:
        for index, colour in enumerate(PALETTE):
            yield Style(colour, MARKERS[(index + shift) % len(MARKERS)], dashed=shift % 2 == 1)
        shift += 1


def variables(*, dark: bool) -> str:
    """Return the CSS declarations of all colours.

    Args:
        dark: whether the page is dark.
    """
    colours = (PAGE, *TEXT.values(), *SURFACES, *PALETTE, *RAMP)
    return " ".join(f"--{one.name}: {one.dark if dark else one.light};" for one in colours)


def classes() -> str:
    """Return a CSS rule for each colour of series, whose class sets the variable ``--series``."""
    return "\n".join(f".{one.name} {{ --series: var(--{one.name}); }}" for one in (*PALETTE, *RAMP))
