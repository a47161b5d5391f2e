"""The settings by which a trial differs from what the authors did; only a trial without any is compared with theirs."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import attrs

from sparsecore.experiment.toml_files import inline_toml
from sparsecore.study.published_results import PublishedArm, PublishedResults
from sparsecore.study.trials import rescaled

_START = {"values": "trained", "prune": 0.0}
"""The start of an arm that continues to train the network of another one."""

_REALLOCATION = {"regrow_pruned": False, "units": "weights"}


@attrs.frozen
class Deviation:
    """A setting that differs from the authors'.

    Attributes:
        setting: its dotted name; of the arm that the arm starts from, preceded by that arm's name and a colon.
        ours: its value; None if it is not set.
        authors: the authors' value; None if it is not set.
    """

    setting: str
    ours: Any
    authors: Any

    @property
    def sentence(self) -> str:
        """The difference in words."""
        if self.ours is None:
            return f"{self.setting} is not set, and the authors have {_shown(self.authors)}"
        if self.authors is None:
            return f"{self.setting} is {_shown(self.ours)}, and the authors do not set it"
        return f"{self.setting} is {_shown(self.ours)}, not {_shown(self.authors)}"


def deviations(
    tables: Sequence[tuple[str, Mapping[str, Any]]], results: PublishedResults, arm: str, epochs: int
) -> list[Deviation]:
    """Compare the experiment of a trial with that of the authors' arm.

    Seeds, backends and paths do not count. Schedules in epochs count as the study's length stretches them.

    Args:
        tables: the name of the trial's arm and the tables of its experiment, then those of the arm that it starts from,
            and so on.
        results: the authors'.
        arm: name of the arm in the study or in the authors' results.
        epochs: the number of epochs of the study.

    Returns:
        The settings that differ, in the order of the tables.
    """
    own, earlier = tables[0][1], tables[1:]
    published = results.arm(arm)
    found = list(_differing(own, _published_tables(results, published, Fraction(epochs, results.epochs))))
    if published.after is None or not earlier:
        return found
    before = deviations(earlier, results, published.after, epochs)
    return [*found, *(attrs.evolve(one, setting=f"{earlier[0][0]}: {one.setting}") for one in before)]


def _published_tables(results: PublishedResults, arm: PublishedArm, factor: Fraction) -> dict[str, Any]:
    """Return the authors' experiment as tables, in a study that is longer or shorter by a factor."""
    epochs = arm.epochs or results.epochs
    tables = {
        "training": {**results.training, **arm.training, "epochs": epochs},
        "strategy": [{"name": name, **options} for name, options in arm.strategy.items()],
    }
    return {
        **rescaled(tables, max(1, round(epochs * factor))),
        "data": results.augmentation,
        "reallocation": _REALLOCATION,
        "start": _START if arm.after else {},
    }


def _differing(ours: Mapping[str, Any], authors: Mapping[str, Any]) -> Iterator[Deviation]:
    stacks = [[table["name"] for table in tables["strategy"]] for tables in (ours, authors)]
    if stacks[0] != stacks[1]:
        yield Deviation("strategy", *(" + ".join(stack) for stack in stacks))
    else:
        for own, published in zip(ours["strategy"], authors["strategy"], strict=True):
            yield from _differing_in(f"strategy.{own['name']}", own, published)
    yield from _differing_in("training", ours["training"], authors["training"])
    yield from _differing_in("data", {key: ours["data"].get(key) for key in authors["data"]}, authors["data"])
    yield from _differing_in("reallocation", ours["reallocation"], authors["reallocation"])
    start = {key: value for key, value in ours.get("start", {}).items() if key != "run"}
    yield from _differing_in("start", start, authors["start"])


def _differing_in(section: str, ours: Mapping[str, Any], authors: Mapping[str, Any]) -> Iterator[Deviation]:
    own, published = dict(_leaves(section, ours)), dict(_leaves(section, authors))
    for setting in {**own, **published}:
        if own.get(setting) != published.get(setting):
            yield Deviation(setting, own.get(setting), published.get(setting))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield settings by dotted names; a schedule by epochs is one of them."""
    if isinstance(value, Mapping) and not (value and all(key.isdecimal() for key in value)):
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}", inner)
    else:
        yield name, value


def _shown(value: Any) -> str:
    return inline_toml(value).strip('"')
