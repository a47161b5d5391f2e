"""The results that the paper's authors published, to compare with a study of the same network on the same images."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import attrs

from sparsecore.experiment.conversion import structure
from sparsecore.study.definition import Arm

Trials = Mapping[str, Mapping[str, tuple[float, ...]]]

_ARMS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "dpr": ("dpr", ("dpr",)),
        "set": ("set", ("set",)),
        "deepr": ("deepr", ("deepr",)),
        "static": ("static-random", ("static",)),
        "random": ("static-random", ("static",)),
        "dense": ("dense", ("static",)),
        "pruned-dense": ("pruned-dense", ("gmp",)),
    }
)
"""By the name of an arm: its name in the authors' results, and the stack that it must have."""

_NETWORKS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"wrn-28-2": {"depth": 28, "width": 2}, "lenet-300-100": {"hidden": [300, 100]}}
)
"""The hyperparameters that a model's name stands for, which a study may have changed."""


@attrs.frozen
class PublishedResults:
    """The authors' trials of one network on one data set.

    Attributes:
        model: name of the model in sparsecore.
        data: name of the data set in sparsecore.
        protocol: description of their training.
        trials: test accuracies in percent by arm and sparsity, one for each trial.
        epochs: number of epochs; None if they do not report it.
        remarks: remarks on arms, by name.
    """

    model: str
    data: str
    protocol: str
    trials: Trials
    epochs: int | None
    remarks: Mapping[str, str]

    def accuracies(self, arm: Arm, sparsity: float | None) -> tuple[float, ...]:
        """Return the test accuracies of an arm in percent, one for each trial; empty if there are none.

        Args:
            arm: arm of a study; it is matched by its name, and must have the strategy that the name stands for.
            sparsity: sparsity of the study; None for an arm that runs once, which is a dense network.
        """
        name, stack = _ARMS.get(arm.name, ("", ()))
        if arm.strategy != stack:
            return ()
        by_sparsity = {float(written): trials for written, trials in self.trials.get(name, {}).items()}
        return by_sparsity.get(sparsity or 0.0, ())


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
