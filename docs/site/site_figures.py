"""Figures for a dark page, made from the committed ones for a light page."""

import colorsys
import re

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")
_WHITE = "#ffffff"
_INK = "#e2e4e9"
_LEAST_CONTRAST = 3.0
"""What WCAG asks of graphical objects."""
_DARK_LUMINANCE = 0.015
"""Relative luminance of Material's dark page."""


def darkened(svg: str) -> str:
    """Return a figure of matplotlib with the colours of a dark page.

    White areas become transparent and greys change places with their opposites. Another colour gets a lightness that
    stands out from the page, unless it does already.

    Args:
        svg: the text of an SVG file.
    """
    recoloured = _COLOUR.sub(lambda colour: _dark(colour[0].lower()), svg)
    recoloured = re.sub(r"(fill\s*[:=]\s*\"?)transparent", r"\1none", recoloured)
    # what has no colour of its own, such as the outlines of letters, is black by default
    return re.sub(r"<svg ", f'<svg fill="{_INK}" ', recoloured, count=1)


def _dark(colour: str) -> str:
    if colour == _WHITE:
        return "transparent"
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    if max(red, green, blue) - min(red, green, blue) < 0.02:
        lightness = 0.16 + 0.74 * (1 - lightness)
    else:
        while lightness < 0.95 and _contrast(hue, lightness, saturation) < _LEAST_CONTRAST:
            lightness += 0.05
    return "#" + "".join(
        f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, min(lightness, 1.0), saturation)
    )


def _contrast(hue: float, lightness: float, saturation: float) -> float:
    channels = colorsys.hls_to_rgb(hue, lightness, saturation)
    linear = [one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    luminance = sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return (luminance + 0.05) / (_DARK_LUMINANCE + 0.05)
