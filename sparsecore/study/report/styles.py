"""How each arm looks, in every figure and table: Okabe and Ito's colours, and a marker for readers in greyscale."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import attrs

from sparsecore.study.arms import Arm, Study


@attrs.frozen
class Style:
    """Of an arm."""

    colour: str
    marker: str


BLUE, VERMILION = Style("#0072B2", "o"), Style("#D55E00", "s")
GREEN, PURPLE = Style("#009E73", "^"), Style("#CC79A7", "D")
ORANGE, SKY, BLACK = Style("#E69F00", "v"), Style("#56B4E9", "P"), Style("#000000", "X")
GREY = Style("#8A8A8A", "p")  # in place of yellow, which cannot be seen as a line on white
STYLES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)

_KNOWN: Mapping[str, Style] = MappingProxyType(
    {
        "dpr": BLUE,
        "pruned-dense": VERMILION,
        "set": GREEN,
        "final-original": GREEN,
        "deepr": PURPLE,
        "final-fresh": PURPLE,
        "static": ORANGE,
        "random": ORANGE,
        "rigl": SKY,
        "dense": BLACK,
        "thin-dense": GREY,
    }
)
"""The same arm has the same look in all studies."""


def family(arm: Arm) -> str:
    """What arms of a row have in common, and every other arm has for itself; it is also what figures call them."""
    return arm.title


def full_name(arm: Arm) -> str:
    """The family, and of arms of a row the place."""
    return family(arm) if arm.fraction is None else f"{family(arm)} ({arm.fraction:g})"


def families(study: Study) -> dict[str, list[Arm]]:
    """The arms by family, in the order of the study."""
    found: dict[str, list[Arm]] = {}
    for arm in study.arms:
        found.setdefault(family(arm), []).append(arm)
    return found


def styles_of(study: Study) -> dict[str, Style]:
    """The look of each family: its own where it is known by name, then by its strategy, then what is left over."""
    arms = {name: members[0] for name, members in families(study).items()}
    known = {name: _KNOWN[arm.name] for name, arm in arms.items() if arm.name in _KNOWN}
    for name, arm in arms.items():
        of_strategy = _KNOWN.get(arm.strategy[-1]) if arm.strategy else None
        if name not in known and of_strategy is not None and of_strategy not in known.values():
            known[name] = of_strategy
    left = _left_over(set(known.values()))
    return {name: known[name] if name in known else next(left) for name in arms}


def _left_over(taken: set[Style]) -> Iterator[Style]:
    """The looks that nobody has; then all colours again, with the markers of others."""
    yield from (style for style in STYLES if style not in taken)
    for turn in range(1, len(STYLES)):
        for place, style in enumerate(STYLES):
            yield Style(style.colour, STYLES[(place + turn) % len(STYLES)].marker)
    while True:
        yield BLACK
