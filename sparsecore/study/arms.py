"""What a study compares: its arms, and how many trials of each."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import attrs

from sparsecore.engine.distributions import check_sparsity
from sparsecore.errors import InputError, unknown
from sparsecore.experiment.conversion import structure, unstructure
from sparsecore.experiment.toml_files import read_toml

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
_MOST_TRIALS = 10_000
"""More are a slip of the keyboard: each is a run."""

_counted: Any = attrs.validators.and_(attrs.validators.ge(1), attrs.validators.le(_MOST_TRIALS))


def _check_name(_: object, attribute: "attrs.Attribute[Any]", name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(
            f"the {attribute.name} of an arm is of small letters, digits, dots and hyphens; given {name!r}"
        )


def _check_printable(_: object, attribute: "attrs.Attribute[Any]", text: str) -> None:
    if not text.isprintable():
        raise InputError(f"the {attribute.name} of a study or an arm is of printable letters; given {text!r}")


@attrs.frozen
class Arm:
    """One way to train that is compared with others.

    Attributes:
        name: distinct within the study; folders are named after it.
        label: what figures and tables call it; the name, where it is empty.
        strategy: the stack, bottom first.
        settings: what differs from the study's experiment, by dotted names, as for ``--set``. In a text '{sparsity}',
            '{model}' and '{place}' stand for the trial's; a text that is one of them alone becomes the number.
        after: the arm whose finished run of the same trial this one starts from (``start.run``).
        once: whether it is the same at every sparsity, and so runs at none of them (a dense network).
        place: where on the axis of a figure it stands, as a share of the run in [0, 1]: arms of a row.
        length: of its runs, as a multiple of the study's epochs.
        rates: learning rates by the share of its run from which on they hold; without any, the experiment's own.
    """

    name: str = attrs.field(validator=_check_name)
    label: str = attrs.field(default="", validator=_check_printable)
    strategy: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    after: str | None = None
    once: bool = False
    place: float | None = None
    length: float = attrs.field(default=1.0, validator=attrs.validators.gt(0))
    rates: Mapping[str, float] = attrs.field(factory=dict)

    @property
    def title(self) -> str:
        """What figures and tables call it."""
        return self.label or self.name


Figure = Literal["bars", "places", "sparsities"]


@attrs.frozen
class Study:
    """All that decides which runs there are.

    Attributes:
        name: of the preset, or of the file.
        title: what is asked.
        figure: how the answer is drawn: 'bars' with an arm each, over the arms' 'places', or over 'sparsities'.
        arms: what is compared; an arm stands after the one that it starts from.
        sparsities: each arm runs at each.
        sparsities_of: sparsities in place of these for models whose names match the pattern ('lenet-*').
        trials: runs of each arm at each sparsity, with the seeds 0, 1, ...
        options: settings of all runs, by dotted names, as ``--set`` takes them.
    """

    name: str = attrs.field(validator=_check_printable)
    title: str = attrs.field(validator=_check_printable)
    figure: Figure
    arms: tuple[Arm, ...]
    sparsities: tuple[float, ...]
    sparsities_of: Mapping[str, tuple[float, ...]] = attrs.field(factory=dict)
    trials: int = attrs.field(default=5, validator=_counted)
    options: Mapping[str, Any] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        for sparsity in self.sparsities:
            check_sparsity(sparsity)
        _check_distinct("sparsity", [_as_named(sparsity) for sparsity in self.sparsities])
        _check_distinct("arm", [arm.name for arm in self.arms])
        _check_distinct("label", _labels(self.arms))
        if not self.arms or not self.sparsities:
            raise InputError("a study has at least one arm and at least one sparsity")
        for number, arm in enumerate(self.arms):
            before = self.arms[:number]
            if arm.after is not None and arm.after not in {other.name for other in before}:
                raise InputError(
                    f"the arm {arm.name!r} starts from another one that stands before it: "
                    + unknown("arm", arm.after, [other.name for other in before], "before it")
                )
            if arm.once and not self.arm(arm.after or arm.name).once:
                raise InputError(
                    f"the arm {arm.name!r} runs once, and cannot start from {arm.after!r} at each sparsity"
                )

    def arm(self, name: str) -> Arm:
        """The arm of this name."""
        return next(arm for arm in self.arms if arm.name == name)

    def for_model(self, name: str) -> "Study":
        """The study at the sparsities that it has for this model."""
        own = [sparsities for pattern, sparsities in self.sparsities_of.items() if fnmatch(name, pattern)]
        return attrs.evolve(self, sparsities=own[-1] if own else self.sparsities, sparsities_of={})

    def only(self, names: Sequence[str]) -> "Study":
        """The study with these arms, and those that they start from.

        Raises:
            InputError: there is no arm of such a name.
        """
        known = [arm.name for arm in self.arms]
        for name in names:
            if name not in known:
                raise InputError(unknown("arm", name, known))
        wanted = set(names)
        for arm in reversed(self.arms):
            if arm.name in wanted and arm.after:
                wanted.add(arm.after)
        return attrs.evolve(self, arms=tuple(arm for arm in self.arms if arm.name in wanted))

    @classmethod
    def of(cls, tables: Mapping[str, Any]) -> "Study":
        """The study from plain tables, as read from TOML, with its arms in ``[[arm]]``.

        An arm with a table ``row`` of places stands for one arm a place: '{place}' in its name is the place.

        Raises:
            InputError: an unknown key, a wrong type, a value out of range.
        """
        given = dict(tables)
        arms = [one for table in _as_tables(given.pop("arm", ())) for one in _row(table)]
        return structure({**given, "arms": arms}, cls, "study")

    def tables(self) -> dict[str, Any]:
        """Plain tables that :meth:`of` reads back."""
        plain = unstructure(self)
        arms = plain.pop("arms")
        if not self.sparsities_of:
            del plain["sparsities_of"]
        return {**plain, "arm": arms}


def _as_tables(given: Any) -> list[dict[str, Any]]:
    if not isinstance(given, list | tuple) or not all(isinstance(table, Mapping) for table in given):
        raise InputError(f"the arms of a study are tables [[arm]]; given {given!r}")
    return [dict(table) for table in given]


def _row(table: dict[str, Any]) -> list[dict[str, Any]]:
    places = table.pop("row", None)
    if places is None:
        return [table]
    if not isinstance(places, list) or "{place}" not in str(table.get("name")):
        raise InputError("a row of arms has a list of places, and '{place}' in the name")
    for place in places:
        if not (isinstance(place, int | float) and 0 <= place <= 1):
            raise InputError(f"the places of a row of arms are shares of the run in [0, 1]; given {place!r}")
    return [{**table, "name": table["name"].replace("{place}", f"{place:g}"), "place": place} for place in places]


def _as_named(sparsity: float) -> float:
    """To the six digits that the names of trials have."""
    return float(f"{sparsity:g}")


def _labels(arms: Sequence[Arm]) -> list[str]:
    """What figures call them; arms of a row have one together."""
    rows = {arm.title for arm in arms if arm.place is not None}
    return [*(arm.title for arm in arms if arm.place is None), *sorted(rows)]


def _check_distinct(what: str, given: Sequence[Any]) -> None:
    for one in given:
        if list(given).count(one) > 1:
            raise InputError(f"a study has every {what} once; {one!r} is given twice")


def names() -> list[str]:
    """The presets' names."""
    return sorted(file.name.removesuffix(".toml") for file in _folder().iterdir() if file.name.endswith(".toml"))


def study_of(name: str) -> Study:
    """The preset of this name, or the study in this file.

    Raises:
        InputError: there is neither, or the file is no study.
    """
    if name in names():
        return Study.of(tomllib.loads((_folder() / f"{name}.toml").read_text("utf-8")))
    if name.endswith(".toml"):
        return Study.of({"name": Path(name).stem, **read_toml(Path(name))})
    raise InputError(f"{unknown('study', name, names())}; a file of one's own ends in .toml")


def _folder() -> Traversable:
    return files("sparsecore.study") / "presets"
