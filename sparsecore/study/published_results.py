"""What the paper's authors have measured themselves, to set beside a study of the same network on the same images."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import attrs

from sparsecore.experiment.conversion import structure
from sparsecore.study.arms import Arm

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
"""Of arms by name: what the authors' results call it, and the stack that it has to have."""

_NETWORKS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"wrn-28-2": {"depth": 28, "width": 2}, "lenet-300-100": {"hidden": [300, 100]}}
)
"""The hyperparameters behind the models' names, which a study may have changed."""


@attrs.frozen
class PublishedResults:
    """The authors' trials of one network on one data set.

    Attributes:
        model: as it is called here.
        data: as it is called here.
        protocol: how they trained.
        trials: test accuracies in percent by arm and sparsity, one a trial.
        epochs: how long they trained; None where they do not say.
        remarks: on arms, by name.
    """

    model: str
    data: str
    protocol: str
    trials: Trials
    epochs: int | None
    remarks: Mapping[str, str]

    def accuracies(self, arm: Arm, sparsity: float | None) -> tuple[float, ...]:
        """Their test accuracies in percent of what the arm does; none where they have none.

        Args:
            arm: of a study; known by its name, if it has the strategy that the name says.
            sparsity: of the study; None for an arm that runs once, which is a dense network.
        """
        name, stack = _ARMS.get(arm.name, ("", ()))
        if arm.strategy != stack:
            return ()
        of_arm = {float(written): trials for written, trials in self.trials.get(name, {}).items()}
        return of_arm.get(sparsity or 0.0, ())


@attrs.frozen
class _Facts:
    about: str
    source: str
    experiments: tuple[PublishedResults, ...]


def source() -> str:
    """Where the authors' numbers come from."""
    return _facts().source


def published_results_of(model: Mapping[str, Any], data: str) -> PublishedResults | None:
    """The authors' trials of this network on this data set; None where they have none.

    Args:
        model: the experiment's table.
        data: the data set's name; whether its images are the published ones is for the caller to know.
    """
    known = _NETWORKS.get(str(model["name"]), {})
    if any(model.get(key, value) != value for key, value in known.items()):
        return None
    return next((one for one in _facts().experiments if (one.model, one.data) == (model["name"], data)), None)


@cache
def _facts() -> _Facts:
    text = (files("sparsecore.study") / "authors.json").read_text("utf-8")
    return structure(json.loads(text), _Facts, "the authors' results")
