"""What all figures of a study share: the styles of arms, and a panel for each sparsity."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from sparsecore.report.charts import Panel
from sparsecore.report.colours import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILION, Style, distinct_styles
from sparsecore.study.definition import Arm, Study

_DPR, _PRUNED, _SET, _DEEPR = Style(BLUE, "o"), Style(VERMILION, "s"), Style(GREEN, "^"), Style(PURPLE, "D")
_STATIC, _RIGL, _DENSE, _THIN = Style(ORANGE, "v"), Style(SKY, "P"), Style(INK, "X"), Style(GREY, "p")

_KNOWN_STYLES: Mapping[str, Style] = MappingProxyType(
    {
        "dpr": _DPR,
        "pruned-dense": _PRUNED,
        "set": _SET,
        "final-original": _SET,
        "deepr": _DEEPR,
        "final-fresh": _DEEPR,
        "static": _STATIC,
        "random": _STATIC,
        "rigl": _RIGL,
        "dense": _DENSE,
        "thin-dense": _THIN,
    }
)
"""Styles of arms that several studies have, by name."""


def full_name(arm: Arm) -> str:
    """Return the name of an arm in figures, with the fraction of an arm of a sweep."""
    return arm.title if arm.fraction is None else f"{arm.title} ({arm.fraction:g})"


def families(study: Study) -> dict[str, list[Arm]]:
    """Return the arms by their names in figures, in the order of the study.

    Args:
        study: the study.

    Returns:
        Lists of one arm each, except for the arms of a sweep, which share a name.
    """
    found: dict[str, list[Arm]] = {}
    for arm in study.arms:
        found.setdefault(arm.title, []).append(arm)
    return found


def styles_of(study: Study) -> dict[str, Style]:
    """Return the style of each family of arms.

    Args:
        study: the study.

    Returns:
        By the names of :func:`families`: the usual style of the first arm's name, else that of its topmost strategy,
        else one that no other family has.
    """
    arms = {name: members[0] for name, members in families(study).items()}
    known = {name: _KNOWN_STYLES[arm.name] for name, arm in arms.items() if arm.name in _KNOWN_STYLES}
    for name, arm in arms.items():
        of_strategy = _KNOWN_STYLES.get(arm.strategy[-1]) if arm.strategy else None
        if name not in known and of_strategy is not None and of_strategy not in known.values():
            known[name] = of_strategy
    used = set(known.values())
    free = (style for style in distinct_styles() if style not in used)
    return {name: known[name] if name in known else next(free) for name in arms}


def by_sparsity(study: Study, panel: Callable[[float, str], Panel]) -> tuple[Panel, ...]:
    """Return a panel for each sparsity of a study.

    Args:
        study: the study.
        panel: returns the panel of a sparsity with a title.
    """
    return tuple(panel(sparsity, f"sparsity {sparsity:g}") for sparsity in study.sparsities)


def spread_out(count: int, width: float) -> list[float]:
    """Return shifts around zero that place symbols side by side.

    Args:
        count: the number of symbols.
        width: the width that they share, in units of the axis.

    Returns:
        ``count`` ascending shifts, each the middle of its part of [-width/2, width/2].
    """
    return [width * ((index + 0.5) / count - 0.5) for index in range(count)]


def legend(names: Sequence[str], styles: Mapping[str, Style]) -> tuple[tuple[str, Style], ...]:
    """Return the legend of series.

    Args:
        names: their names, in order.
        styles: their styles.
    """
    return tuple((name, styles[name]) for name in names)
