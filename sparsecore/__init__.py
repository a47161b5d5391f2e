"""Sparse training with dynamic parameter reallocation.

Weights are sparse from the first step to the last and move while they learn. The engine's values and functions are
here; strategies, backends, models and data sets are plugins (``sparsecore plugins`` lists them).
"""

from sparsecore.engine.engine import Advance, Engine
from sparsecore.engine.growth import random_free_positions, random_topology
from sparsecore.engine.hooks import hookimpl
from sparsecore.engine.layout import Layout
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.reallocation import Reallocation, reallocate
from sparsecore.engine.schedules import Clock, Cosine, Every, Piecewise
from sparsecore.engine.shares import shares
from sparsecore.engine.state import State, per_position, per_weight
from sparsecore.engine.topology import Topology, from_masks
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
