"""The results that the paper's authors published, and the settings that they are of, to compare with a study."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import attrs

from sparsecore.experiment.conversion import structure

Trials = Mapping[str, Mapping[str, tuple[float, ...]]]

_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "dpr": "dpr",
        "set": "set",
        "deepr": "deepr",
        "static": "static-random",
        "random": "static-random",
        "dense": "dense",
        "pruned-dense": "pruned-dense",
    }
)
"""By the name of an arm, its name in the authors' results."""

_NETWORKS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"wrn-28-2": {"depth": 28, "width": 2}, "lenet-300-100": {"hidden": [300, 100]}}
)
"""The hyperparameters that a model's name stands for, which a study may have changed."""


@attrs.frozen
class PublishedArm:
    """How the authors trained one of their arms, in the settings of an experiment.

    Attributes:
        strategy: the options of each strategy by its name, bottom first, all of them.
        training: settings of training that differ from those of the other arms.
        epochs: its number of epochs; None for that of the other arms.
        after: the name of the arm whose trained network it starts from.
        reservation: a reservation about a comparison.
    """

    strategy: Mapping[str, Mapping[str, Any]]
    training: Mapping[str, Any] = attrs.field(factory=dict)
    epochs: int | None = None
    after: str | None = None
    reservation: str = ""


@attrs.frozen
class PublishedResults:
    """The authors' trials of one network on one data set.

    Attributes:
        model: name of the model in sparsecore.
        data: name of the data set in sparsecore.
        protocol: description of their training.
        training: its settings, all but the number of epochs.
        augmentation: settings of the data set, as far as they change images.
        arms: how each arm was trained, by name.
        trials: test accuracies in percent by arm and sparsity, one for each trial.
        epochs: number of epochs.
        remarks: remarks on arms, by name.
    """

    model: str
    data: str
    protocol: str
    training: Mapping[str, Any]
    augmentation: Mapping[str, Any]
    arms: Mapping[str, PublishedArm]
    trials: Trials
    epochs: int
    remarks: Mapping[str, str]

    def accuracies(self, arm: str, sparsity: float | None) -> tuple[float, ...]:
        """Return the test accuracies of an arm in percent, one for each trial; empty if there are none.

        Args:
            arm: name of an arm of a study.
            sparsity: sparsity of the study; None for an arm that runs once, which is a dense network.
        """
        trials = self.trials.get(_NAMES.get(arm, ""), {})
        return {float(written): found for written, found in trials.items()}.get(sparsity or 0.0, ())

    def arm(self, name: str) -> PublishedArm:
        """Return how the authors trained an arm, by its name in a study or in their results."""
        return self.arms[_NAMES.get(name, name)]


@attrs.frozen
class _ResultsFile:
    about: str
    source: str
    experiments: tuple[PublishedResults, ...]


def source() -> str:
    """Return the source of the authors' numbers."""
    return _results_file().source


def published_results_of(model: Mapping[str, Any], data: str) -> PublishedResults | None:
    """Return the authors' trials of a network on a data set; None if there are none.

    Args:
        model: table of the model in the experiment.
        data: name of the data set; the caller checks that its images are the published ones.
    """
    known = _NETWORKS.get(str(model["name"]), {})
    if any(model.get(key, value) != value for key, value in known.items()):
        return None
    return next((one for one in _results_file().experiments if (one.model, one.data) == (model["name"], data)), None)


@cache
def _results_file() -> _ResultsFile:
    text = (files("sparsecore.study") / "authors.json").read_text("utf-8")
    return structure(json.loads(text), _ResultsFile, "the authors' results")
