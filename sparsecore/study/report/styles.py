"""How each arm looks, in every figure and table: Okabe and Ito's colours, and a marker for readers in greyscale."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import attrs

from sparsecore.study.arms import Arm, Study


@attrs.frozen
class Look:
    """Of an arm."""

    colour: str
    marker: str


BLUE, VERMILION = Look("#0072B2", "o"), Look("#D55E00", "s")
GREEN, PURPLE = Look("#009E73", "^"), Look("#CC79A7", "D")
ORANGE, SKY, BLACK = Look("#E69F00", "v"), Look("#56B4E9", "P"), Look("#000000", "X")
GREY = Look("#8A8A8A", "p")  # in place of yellow, which cannot be seen as a line on white
LOOKS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)

_KNOWN: Mapping[str, Look] = MappingProxyType(
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
    return family(arm) if arm.place is None else f"{family(arm)} ({arm.place:g})"


def families(study: Study) -> dict[str, list[Arm]]:
    """The arms by family, in the order of the study."""
    found: dict[str, list[Arm]] = {}
    for arm in study.arms:
        found.setdefault(family(arm), []).append(arm)
    return found


def looks(study: Study) -> dict[str, Look]:
    """The look of each family: its own where it is known by name, then by its strategy, then what is left over."""
    arms = {name: members[0] for name, members in families(study).items()}
    known = {name: _KNOWN[arm.name] for name, arm in arms.items() if arm.name in _KNOWN}
    for name, arm in arms.items():
        of_strategy = _KNOWN.get(arm.strategy[-1]) if arm.strategy else None
        if name not in known and of_strategy is not None and of_strategy not in known.values():
            known[name] = of_strategy
    left = _left_over(set(known.values()))
    return {name: known[name] if name in known else next(left) for name in arms}


def _left_over(taken: set[Look]) -> Iterator[Look]:
    """The looks that nobody has; then all colours again, with the markers of others."""
    yield from (look for look in LOOKS if look not in taken)
    for turn in range(1, len(LOOKS)):
        for place, look in enumerate(LOOKS):
            yield Look(look.colour, LOOKS[(place + turn) % len(LOOKS)].marker)
    while True:
        yield BLACK
