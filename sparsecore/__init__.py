"""Sparse training with dynamic parameter reallocation.

Weights are sparse from the first step to the last and move while they learn. The engine's values and functions are
here; strategies, backends, models and data sets are plugins (``sparsecore plugins`` lists them).
"""

from sparsecore.clock import Clock
from sparsecore.engine import Advance, Engine
from sparsecore.errors import (
    DivergedError,
    InputError,
    InvariantError,
    NoRoomError,
    PluginError,
    SparsecoreError,
)
from sparsecore.growth import random_free_positions, random_topology
from sparsecore.hooks import hookimpl
from sparsecore.layout import Layout
from sparsecore.memory import per_position, per_weight
from sparsecore.randomness import Randomness
from sparsecore.reallocation import Reallocation, reallocate
from sparsecore.schedules import Cosine, Every, Piecewise
from sparsecore.shares import shares
from sparsecore.state import State
from sparsecore.topology import Topology, from_masks

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
    "Topology",
    "from_masks",
    "hookimpl",
    "per_position",
    "per_weight",
    "random_free_positions",
    "random_topology",
    "reallocate",
    "shares",
]
