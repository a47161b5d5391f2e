"""Heat maps: pictures with a colour for each number, which are transparent where the number is zero."""

import base64
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import attrs

from sparsecore.report.plane import Plane, pixels
from sparsecore.report.png import indexed_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEAT_LEVELS = 16
"""Shades on each side of the middle of a heat map."""
_ORANGE, _VIOLET = (224, 123, 0), (139, 86, 196)


@attrs.frozen
class Heat:
    """A picture with a cell for each name of the vertical axis and each interval of the horizontal one.

    Numbers above zero are orange, those below violet, the more so the farther from zero; zero has the colour of the
    page, which may be dark. Cells that are not a number are grey.

    Attributes:
        cells: numbers, a row for each name.
        end: where the last interval ends on the horizontal axis; the first begins at 0.
        limit: number with the strongest colour.
    """

    cells: Sequence[Sequence[float]]
    end: float
    limit: float
    series: str = ""

    def extent(self) -> Iterable[tuple[float, float]]:
        """Return points that are to be inside the panel."""
        return (0.0, 0.0), (self.end, 0.0)

    def level(self, number: float) -> int:
        """Return the shade of a number: 0 for none, up to 16 for orange, up to 32 for violet, 33 for no number."""
        if math.isnan(number):
            return 2 * HEAT_LEVELS + 1
        shade = min(HEAT_LEVELS, round(HEAT_LEVELS * abs(number) / self.limit))
        return shade if number >= 0 or not shade else HEAT_LEVELS + shade

    def palette(self) -> list[tuple[int, int, int, int]]:
        """Return red, green, blue and opacity of each shade, in 0..255."""
        strengths = [round(255 * (shade + 1) / HEAT_LEVELS) for shade in range(HEAT_LEVELS)]
        return [
            (*_ORANGE, 0),
            *((*_ORANGE, strength) for strength in strengths),
            *((*_VIOLET, strength) for strength in strengths),
            (128, 128, 128, 120),
        ]

    def svg(self, plane: Plane) -> str:
        """Return the SVG elements."""
        picture = indexed_png([[self.level(number) for number in row] for row in self.cells], self.palette())
        left, top, right, bottom = plane.box
        return (
            f'<image class="heat" x="{pixels(left)}" y="{pixels(top)}" width="{pixels(right - left)}" '
            f'height="{pixels(bottom - top)}" preserveAspectRatio="none" '
            f'href="data:image/png;base64,{base64.b64encode(picture).decode()}"/>'
        )

    def paint(self, axes: "Axes") -> None:
        """Draw by matplotlib."""
        colours = self.palette()
        picture = [[[part / 255 for part in colours[self.level(number)]] for number in row] for row in self.cells]
        extent = (0.0, self.end, len(self.cells) - 0.5, -0.5)
        axes.imshow(picture, extent=extent, aspect="auto", interpolation="nearest")
        axes.grid(visible=False)
