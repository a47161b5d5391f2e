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
            '{model}' and '{fraction}' stand for the trial's; a text that is one of them alone becomes the number.
        after: the arm whose finished run of the same trial this one starts from (``start.run``).
        once: whether it is the same at every sparsity, and so runs at none of them (a dense network).
        fraction: fraction of the run in [0, 1] that an arm of a sweep stands for, its x-coordinate in the figure; None
            for any other arm.
        length: length of its runs, as a multiple of the study's epochs.
        learning_rates: learning rates by the fraction of the run at which each begins; the experiment's own, if empty.
    """

    name: str = attrs.field(validator=_check_name)
    label: str = attrs.field(default="", validator=_check_printable)
    strategy: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    after: str | None = None
    once: bool = False
    fraction: float | None = None
    length: float = attrs.field(default=1.0, validator=attrs.validators.gt(0))
    learning_rates: Mapping[str, float] = attrs.field(factory=dict)

    @property
    def title(self) -> str:
        """What figures and tables call it."""
        return self.label or self.name


FigureKind = Literal["bars", "sweep", "sparsities"]


@attrs.frozen
class Study:
    """All that decides which runs there are.

    Attributes:
        name: of the preset, or of the file.
        title: what is asked.
        figure: how the answer is drawn: 'bars' with an arm each, over the arms' 'sweep', or over 'sparsities'.
        arms: what is compared; an arm stands after the one that it starts from.
        sparsities: each arm runs at each.
        sparsities_of: sparsities in place of these for models whose names match the pattern ('lenet-*').
        trials: runs of each arm at each sparsity, with the seeds 0, 1, ...
        options: settings of all runs, by dotted names, as ``--set`` takes them.
    """

    name: str = attrs.field(validator=_check_printable)
    title: str = attrs.field(validator=_check_printable)
    figure: FigureKind
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

    def only(self, preset_names: Sequence[str]) -> "Study":
        """The study with these arms, and those that they start from.

        Raises:
            InputError: there is no arm of such a name.
        """
        known = [arm.name for arm in self.arms]
        for name in preset_names:
            if name not in known:
                raise InputError(unknown("arm", name, known))
        wanted = set(preset_names)
        for arm in reversed(self.arms):
            if arm.name in wanted and arm.after:
                wanted.add(arm.after)
        return attrs.evolve(self, arms=tuple(arm for arm in self.arms if arm.name in wanted))

    @classmethod
    def of(cls, tables: Mapping[str, Any]) -> "Study":
        """The study from plain tables, as read from TOML, with its arms in ``[[arm]]``.

        An arm with a list ``sweep`` of fractions stands for one arm for each fraction, which replaces '{fraction}' in
        its name.

        Raises:
            InputError: an unknown key, a wrong type, a value out of range.
        """
        given = dict(tables)
        arms = [one for table in _as_tables(given.pop("arm", ())) for one in _expanded(table)]
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


def _expanded(table: dict[str, Any]) -> list[dict[str, Any]]:
    """The table itself; one for each fraction, if it has a sweep."""
    fractions = table.pop("sweep", None)
    if fractions is None:
        return [table]
    if not isinstance(fractions, list) or "{fraction}" not in str(table.get("name")):
        raise InputError("an arm with a sweep has a list of fractions, and '{fraction}' in its name")
    for fraction in fractions:
        if not (isinstance(fraction, int | float) and 0 <= fraction <= 1):
            raise InputError(f"a sweep is a list of fractions of the run, each in [0, 1]; given {fraction!r}")
    return [
        {**table, "name": table["name"].replace("{fraction}", f"{fraction:g}"), "fraction": fraction}
        for fraction in fractions
    ]


def _as_named(sparsity: float) -> float:
    """To the six digits that the names of trials have."""
    return float(f"{sparsity:g}")


def _labels(arms: Sequence[Arm]) -> list[str]:
    """What figures call them; arms of a row have one together."""
    rows = {arm.title for arm in arms if arm.fraction is not None}
    return [*(arm.title for arm in arms if arm.fraction is None), *sorted(rows)]


def _check_distinct(what: str, given: Sequence[Any]) -> None:
    for one in given:
        if list(given).count(one) > 1:
            raise InputError(f"a study has every {what} once; {one!r} is given twice")


def preset_names() -> list[str]:
    """The presets' names."""
    return sorted(file.name.removesuffix(".toml") for file in _folder().iterdir() if file.name.endswith(".toml"))


def load_study(name: str) -> Study:
    """The preset of this name, or the study in this file.

    Raises:
        InputError: there is neither, or the file is no study.
    """
    if name in preset_names():
        return Study.of(tomllib.loads((_folder() / f"{name}.toml").read_text("utf-8")))
    if name.endswith(".toml"):
        return Study.of({"name": Path(name).stem, **read_toml(Path(name))})
    raise InputError(f"{unknown('study', name, preset_names())}; a file of one's own ends in .toml")


def _folder() -> Traversable:
    return files("sparsecore.study") / "presets"
