"""Sparse training with dynamic parameter reallocation.

Weights are sparse from the first step to the last and move while they learn. The engine's values and functions are
here; strategies, backends, models and data sets are plugins (``sparsecore plugins`` lists them). What an author of
strategies needs is in :mod:`sparsecore.strategy`.
"""

from typing import Any

from sparsecore.engine.engine import Engine
from sparsecore.engine.growth import random_free_positions, random_topology, shares
from sparsecore.engine.hooks import hookimpl
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.reallocation import Reallocation, reallocate
from sparsecore.engine.schedules import Clock, Cosine, Every, Piecewise
from sparsecore.engine.state import State, per_position, per_weight
from sparsecore.engine.step import Advance, StepPlan
from sparsecore.engine.topology import Layout, Topology, from_masks
from sparsecore.errors import DivergedError, InputError, InvariantError, NoRoomError, PluginError, SparsecoreError

__all__ = [
    "Advance",
    "Clock",
    "Cosine",
    "DivergedError",
    "Engine",
    "Every",
    "InputError",
    "InvariantError",
    "Layout",
    "NoRoomError",
    "Piecewise",
    "PluginError",
    "Randomness",
    "Reallocation",
    "SparsecoreError",
    "State",
    "StepPlan",
    "Topology",
    "__version__",
    "from_masks",
    "hookimpl",
    "per_position",
    "per_weight",
    "random_free_positions",
    "random_topology",
    "reallocate",
    "shares",
]


def __getattr__(name: str) -> Any:
    """Return ``__version__``, which is looked up when it is asked for, so that importing this module stays quick."""
    if name != "__version__":
        raise AttributeError(f"module 'sparsecore' has no attribute {name!r}")
    import tomllib
    from importlib import metadata
    from pathlib import Path

    distribution = "sparsecore-engine"
    checkout = Path(__file__).parent.parent / "pyproject.toml"
    if checkout.is_file():  # its code runs, whatever version is installed
        project = tomllib.loads(checkout.read_text("utf-8")).get("project", {})
        if project.get("name") == distribution:
            return project["version"]
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        raise AttributeError(f"sparsecore has no version: neither {distribution!r} nor a checkout is here") from None
