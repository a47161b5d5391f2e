"""Fixed signs of connections, and the noise that moves their weights (DeepR)."""

import math
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from sparsecore.engine.arrays import Array
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.schedules import Schedule
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError


def fixed_signs(topology: Topology, random: Randomness) -> Array:
    """Return a fair sign, -1 or +1, for each weight.

    Args:
        topology: the active positions.
        random: any node of the run's random numbers; the signs depend on seed, tensor and position alone.

    Returns:
        int8, one a weight, on the backend.
    """
    layout, positions = topology.layout, topology.host_positions.astype(np.int64)
    signs = [
        random.root.signs_at(positions[topology.slots(name)] - offset, "deepr signs", name)
        for name, offset in zip(layout.names, layout.offsets, strict=False)
    ]
    return topology.arrays.from_numpy(np.concatenate(signs))


def signs_error(signs: Array, topology: Topology, known: Sequence[int] = (-1, 1)) -> str | None:
    """Return what is wrong with signs in a strategy state that was read from a file; None where nothing is.

    Args:
        signs: one a weight, on the backend.
        topology: the active positions in the file.
        known: what a sign can be.

    Returns:
        The end of a sentence.
    """
    strange = np.setdiff1d(topology.arrays.to_numpy(signs), known)
    if not len(strange):
        return None
    return f"signs of {strange[0]}; expected {', '.join(map(str, known[:-1]))} or {known[-1]}"


def gaussian_noise(topology: Topology, random: Randomness) -> Array:
    """Draw standard normal noise.

    Args:
        topology: the active positions.
        random: the random numbers of this step.

    Returns:
        float32, one number a weight, on the backend.
    """
    names = zip(topology.layout.names, topology.counts, strict=True)
    drawn = [random.generator("noise", name).standard_normal(count, np.float32) for name, count in names]
    return topology.arrays.from_numpy(np.concatenate(drawn))


def check_temperature(_: object, attribute: "attrs.Attribute[Any]", temperature: Schedule) -> None:
    """Validate that a temperature is never negative; an attrs validator.

    Args:
        attribute: whose name the message has.
        temperature: the attribute's value, judged by its lowest number in any run.

    Raises:
        InputError: it is.
    """
    if temperature.lowest < 0:
        raise InputError(f"a {attribute.name} is at least 0; given {temperature}")


def noisy_pull(
    topology: Topology,
    values: Array,
    signs: Array,
    random: Randomness,
    *,
    step_size: float,
    l1: float,
    temperature: float,
) -> Array:
    """Apply DeepR's noise and L1 pull, θ ← θ - η·α + sqrt(2·η·T)·ν, to weights w = s·θ.

    Args:
        topology: the active positions.
        values: w, one value a weight.
        signs: s, one sign a weight.
        random: the random numbers of this step.
        step_size: η.
        l1: α.
        temperature: T.

    Returns:
        The weights afterwards, in the dtype of ``values``.
    """
    cast, spread = topology.arrays.cast, math.sqrt(2 * step_size * temperature)
    # ν is symmetric, so that s·ν has the same distribution
    noise = cast(gaussian_noise(topology, random), values.dtype)
    return values + (spread * noise - step_size * l1 * cast(signs, values.dtype))
