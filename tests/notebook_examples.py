"""Fragments of HTML that notebooks show, taken apart."""

import re
from html.parser import HTMLParser

import numpy as np


class Page(HTMLParser):
    """The cells, bars and texts of an HTML fragment, whose elements must be balanced."""

    def __init__(self, html):
        super().__init__()
        self.open, self.rows, self.bars, self.text, self.styles = [], [], 0, [], []
        self.elements = set()
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.add(tag)
        self.open.append(tag)
        self.styles += [value for name, value in attributes if name in {"style", "fill"}]
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.styles += [value for name, value in attributes if name in {"style", "fill"}]
        self.bars += tag == "rect"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in {"td", "th"}:
            self.rows[-1][-1] += data


def luminance(colour):
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def assert_takes_the_colours_of_its_page(page):
    """Nothing has a colour of its own but bars, which stand out from white and from black (WCAG: 3 to 1)."""
    for style in page.styles:
        for colour in re.findall(r"(?:color|background)\s*:\s*([^;]+)|^(#\w+)$", style):
            own = next(filter(None, colour)).strip()
            if own not in {"inherit", "none"}:
                assert 1.05 / (luminance(own) + 0.05) >= 3
                assert (luminance(own) + 0.05) / 0.05 >= 3
