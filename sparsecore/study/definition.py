"""The definition of a study: its arms, sparsities and number of trials, read from a preset or a TOML file."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, TypeVar

import attrs

from sparsecore.engine.distributions import check_sparsity
from sparsecore.errors import InputError, unknown
from sparsecore.experiment.conversion import structure, unstructure
from sparsecore.experiment.toml_files import read_toml, toml_tables
from sparsecore.formats import STUDY

T = TypeVar("T")

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
_MAX_TRIALS = 10_000
"""More trials, each of which is a run, are taken for a mistake."""

_trial_count: Any = attrs.validators.and_(attrs.validators.ge(1), attrs.validators.le(_MAX_TRIALS))


def _check_name(_: object, attribute: "attrs.Attribute[Any]", name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(
            f"the {attribute.name} of an arm consists of lower-case letters, digits, dots and hyphens; given {name!r}"
        )


def _check_printable(_: object, attribute: "attrs.Attribute[Any]", text: str) -> None:
    if not text.isprintable():
        raise InputError(f"the {attribute.name} of a study or an arm consists of printable characters; given {text!r}")


def _as_tuple(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)


def _check_lengths(_: object, attribute: "attrs.Attribute[Mapping[str, float]]", lengths: Mapping[str, float]) -> None:
    for pattern, length in lengths.items():
        if not length > 0:
            raise InputError(f"a length in {attribute.name} is above 0; given {length} for {pattern!r}")


@attrs.frozen
class Arm:
    """One training method that a study compares with others.

    Attributes:
        name: unique name within the study; folders are named after it.
        label: name in figures and tables; ``name`` if empty.
        strategy: names of the strategies, bottom first.
        settings: settings that differ from those of the study, by dotted names, as for ``--set``. '{sparsity}',
            '{model}' and '{fraction}' in a text are replaced by those of the trial; a text that is one of them alone
            becomes the number.
        after: the arm whose finished run with the same sparsity and number this arm starts from (``start.run``).
        once: whether the arm runs once instead of at every sparsity, as a dense network does.
        fraction: fraction of the run in [0, 1] that an arm of a sweep stands for, its x-coordinate in the figure; None
            for any other arm.
        length: length of its runs, as a multiple of the study's epochs.
        length_of: other lengths for models whose names match a pattern ('lenet-*').
        learning_rates: learning rates by the fraction of the run at which each begins; the experiment's own, if empty.
    """

    name: str = attrs.field(validator=_check_name)
    label: str = attrs.field(default="", validator=_check_printable)
    strategy: tuple[str, ...] = attrs.field(default=(), converter=_as_tuple)
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    after: str | None = None
    once: bool = False
    fraction: float | None = None
    length: float = attrs.field(default=1.0, validator=attrs.validators.gt(0))
    length_of: Mapping[str, float] = attrs.field(factory=dict, validator=_check_lengths)
    learning_rates: Mapping[str, float] = attrs.field(factory=dict)

    @property
    def title(self) -> str:
        """The name in figures and tables."""
        return self.label or self.name


@attrs.frozen
class Hypothesis:
    """A hypothesis of a study, written down before its runs: one arm is more accurate than another.

    It is tested at each sparsity of the study; once, if both arms run once.

    Attributes:
        better: name of the arm that is expected to have the higher mean accuracy.
        worse: name of the other arm.
    """

    better: str
    worse: str


FigureKind = Literal["bars", "sweep", "sparsities"]


@attrs.frozen
class Study:
    """A comparison of training methods: each arm is trained several times at each sparsity.

    Attributes:
        name: name of the preset or the file.
        title: the question that the study answers.
        figure: the figure of accuracies: 'bars' with one for each arm, over the fractions of a 'sweep', or over
            'sparsities'.
        arms: the methods to compare; an arm comes after the one that it starts from.
        sparsities: sparsities at which each arm is trained.
        sparsities_of: other sparsities for models whose names match a pattern ('lenet-*').
        trials: number of runs of each arm at each sparsity, with the seeds 0, 1, ...
        options: settings of all runs, by dotted names, as for ``--set``.
        hypotheses: the hypotheses that the study tests.
    """

    name: str = attrs.field(validator=_check_printable)
    title: str = attrs.field(validator=_check_printable)
    figure: FigureKind
    arms: tuple[Arm, ...]
    sparsities: tuple[float, ...]
    sparsities_of: Mapping[str, tuple[float, ...]] = attrs.field(factory=dict)
    trials: int = attrs.field(default=5, validator=_trial_count)
    options: Mapping[str, Any] = attrs.field(factory=dict)
    hypotheses: tuple[Hypothesis, ...] = ()

    def __attrs_post_init__(self) -> None:
        for sparsity in self.sparsities:
            check_sparsity(sparsity)
        _check_distinct("sparsity", [_as_named(sparsity) for sparsity in self.sparsities])
        _check_distinct("arm", [arm.name for arm in self.arms])
        _check_distinct("label", _labels(self.arms))
        if not self.arms or not self.sparsities:
            raise InputError("a study needs at least one arm and at least one sparsity")
        for number, arm in enumerate(self.arms):
            before = self.arms[:number]
            if arm.after is not None and arm.after not in {other.name for other in before}:
                raise InputError(
                    f"the arm {arm.name!r} starts from an arm that must come before it: "
                    + unknown("arm", arm.after, [other.name for other in before], "before it")
                )
            if arm.once and not self.arm(arm.after or arm.name).once:
                raise InputError(
                    f"the arm {arm.name!r} runs once and cannot start from {arm.after!r}, which runs at each sparsity"
                )
        _check_hypotheses(self.hypotheses, [arm.name for arm in self.arms])

    def arm(self, name: str) -> Arm:
        """Return the arm of this name."""
        return next(arm for arm in self.arms if arm.name == name)

    def for_model(self, name: str) -> "Study":
        """Return the study with the sparsities and the lengths of arms that it defines for a model.

        Args:
            name: the model's name; of several patterns of ``sparsities_of`` or of an arm's ``length_of`` that match it,
                the last one wins.
        """
        arms = tuple(
            attrs.evolve(arm, length=_of_model(arm.length_of, name, arm.length), length_of={}) for arm in self.arms
        )
        sparsities = _of_model(self.sparsities_of, name, self.sparsities)
        return attrs.evolve(self, arms=arms, sparsities=sparsities, sparsities_of={})

    def only(self, names: Sequence[str]) -> "Study":
        """Return the study with some of its arms only.

        Args:
            names: names of the arms; the arms that these start from are kept, too, and the hypotheses about them.

        Raises:
            InputError: the study has no arm of such a name.
        """
        known = [arm.name for arm in self.arms]
        for name in names:
            if name not in known:
                raise InputError(unknown("arm", name, known))
        wanted = set(names)
        for arm in reversed(self.arms):
            if arm.name in wanted and arm.after:
                wanted.add(arm.after)
        about = (hypothesis for hypothesis in self.hypotheses if {hypothesis.better, hypothesis.worse} <= wanted)
        return attrs.evolve(self, arms=tuple(arm for arm in self.arms if arm.name in wanted), hypotheses=tuple(about))

    @classmethod
    def of(cls, tables: Mapping[str, Any]) -> "Study":
        """Create a study from plain tables, as they are read from TOML.

        The arms are in ``[[arm]]``. An arm with a list ``sweep`` of fractions stands for one arm for each fraction,
        which replaces '{fraction}' in its name. The hypotheses are in ``[[hypothesis]]``.

        Raises:
            InputError: an unknown key, a wrong type, or a value out of range.
        """
        given = dict(tables)
        arms = [one for table in _as_tables(given.pop("arm", ()), "arm") for one in _expanded(table)]
        hypotheses = _as_tables(given.pop("hypothesis", ()), "hypothesis")
        return structure({**given, "arms": arms, "hypotheses": hypotheses}, cls, "study")

    def tables(self) -> dict[str, Any]:
        """Return plain tables, from which :meth:`of` creates the same study."""
        plain = unstructure(self)
        # an earlier version has begun studies without this key
        arms = [{key: value for key, value in arm.items() if key != "length_of" or value} for arm in plain.pop("arms")]
        hypotheses = plain.pop("hypotheses")
        if not self.sparsities_of:
            del plain["sparsities_of"]
        return {**plain, "arm": arms, **({"hypothesis": hypotheses} if hypotheses else {})}


def _of_model(by_pattern: Mapping[str, T], name: str, default: T) -> T:
    """Return the last entry whose pattern matches the name of a model, or the default."""
    return [default, *(own for pattern, own in by_pattern.items() if fnmatch(name, pattern))][-1]


def _as_tables(given: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(given, list | tuple) or not all(isinstance(table, Mapping) for table in given):
        raise InputError(f"{name} in a study stands for tables [[{name}]], one after another; given {given!r}")
    return [dict(table) for table in given]


def _expanded(table: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the table itself, or one for each fraction if it has a sweep."""
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
    """Round to the six digits that the names of trials have."""
    return float(f"{sparsity:g}")


def _labels(arms: Sequence[Arm]) -> list[str]:
    """Return the names in figures; arms of a sweep share one."""
    sweeps = {arm.title for arm in arms if arm.fraction is not None}
    return [*(arm.title for arm in arms if arm.fraction is None), *sorted(sweeps)]


def _check_hypotheses(hypotheses: Sequence[Hypothesis], arms: Sequence[str]) -> None:
    for number, one in enumerate(hypotheses):
        for name in (one.better, one.worse):
            if name not in arms:
                raise InputError(f"a hypothesis is about two arms of the study: {unknown('arm', name, arms)}")
        if one.better == one.worse:
            raise InputError(f"a hypothesis is about two arms of the study; given {one.better!r} twice")
        pairs = [{other.better, other.worse} for other in hypotheses[:number]]
        if {one.better, one.worse} in pairs:
            raise InputError(f"there are two hypotheses about {one.better!r} and {one.worse!r}; a study tests one")


def _check_distinct(what: str, given: Sequence[Any]) -> None:
    for one in given:
        if list(given).count(one) > 1:
            raise InputError(f"every {what} of a study must be unique; {one!r} is given twice")


def preset_names() -> list[str]:
    """Return the names of all presets."""
    return sorted(file.name.removesuffix(".toml") for file in _folder().iterdir() if file.name.endswith(".toml"))


def load_study(name: str) -> Study:
    """Load a preset by its name, or the study in a TOML file.

    Raises:
        InputError: there is no such preset or file, or the file does not define a study.
    """
    if name in preset_names():
        preset = _folder() / f"{name}.toml"
        return Study.of(toml_tables(preset.read_bytes(), preset))
    if name.endswith(".toml"):
        tables = STUDY.take(read_toml(Path(name)), f"the file {name}")
        return Study.of({"name": Path(name).stem, **tables})
    raise InputError(f"{unknown('study', name, preset_names())}; the name of your own file ends in .toml")


def _folder() -> Traversable:
    return files("sparsecore.study") / "presets"
