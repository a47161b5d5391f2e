"""What strategies do, spelled out on dense masks, one tensor after the other; no code is shared with the engine."""

import math
from decimal import Decimal

import numpy as np


def drawn(layout, seed=0, dtype=np.float32):
    """A dense array a tensor, without ties."""
    generator = np.random.default_rng(seed)
    return {
        name: generator.standard_normal(size).astype(dtype)
        for name, size in zip(layout.names, layout.sizes, strict=True)
    }


def gathered(topology, dense):
    """The entries of dense arrays at the active positions."""
    return np.concatenate([dense[name][topology.local(name)] for name in topology.layout.names])


def masks_of(topology):
    """One flat mask a tensor, a copy."""
    return {name: topology.mask(name).ravel().copy() for name in topology.layout.names}


def floored(fraction, count):
    """⌊fraction · count⌋, the fraction as it is written."""
    return int(Decimal(repr(float(fraction))) * int(count))


def ceiled(fraction, count):
    """⌈fraction · count⌉, the fraction as it is written."""
    return math.ceil(Decimal(repr(float(fraction))) * int(count))


def without_smallest(mask, weights, count):
    """The mask without the ``count`` smallest |w|, among equals the first."""
    order = sorted(np.flatnonzero(mask).tolist(), key=lambda place: abs(weights[place]))
    left = mask.copy()
    left[order[:count]] = False
    return left


def largest(free, scores, count):
    """The mask of the ``count`` largest |score| among the free, among equals the first."""
    order = sorted(np.flatnonzero(free).tolist(), key=lambda place: -abs(scores[place]))
    grown = np.zeros_like(free)
    grown[order[:count]] = True
    return grown


def same(topology, masks):
    """Whether these are the topology's masks."""
    return all(topology.mask(name).ravel().tolist() == mask.tolist() for name, mask in masks.items())
