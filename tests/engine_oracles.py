"""Brute-force oracles in Python's integers and fractions; they share no code with the engine."""

from fractions import Fraction
from math import floor


def fair_shares(total, weights, room):
    """Exact shares λ·w_i, capped by the room, with one λ for all; those of no weight share what the others leave."""
    if total == 0:
        return [Fraction(0)] * len(room)
    if total > sum(places for weight, places in zip(weights, room, strict=True) if weight):
        heavy = [Fraction(places) if weight else Fraction(0) for weight, places in zip(weights, room, strict=True)]
        by_room = [0 if weight else places for weight, places in zip(weights, room, strict=True)]
        light = fair_shares(total - sum(heavy), by_room, by_room)
        return [a + b for a, b in zip(heavy, light, strict=True)]
    # Σ min(room, λ·w) grows with λ in straight pieces between the λ at which a tensor is full
    full_at = sorted({Fraction(places, weight) for weight, places in zip(weights, room, strict=True) if weight})
    scale = next(
        candidate
        for candidate in full_at
        if sum(min(Fraction(places), candidate * weight) for weight, places in zip(weights, room, strict=True)) >= total
    )
    capped = [weight == 0 or Fraction(places, weight) < scale for weight, places in zip(weights, room, strict=True)]
    given = sum(places for places, is_capped, weight in zip(room, capped, weights, strict=True) if is_capped and weight)
    growing = sum(weight for weight, is_capped in zip(weights, capped, strict=True) if not is_capped)
    scale = Fraction(total - given, growing)
    return [min(Fraction(places), scale * weight) for weight, places in zip(weights, room, strict=True)]


def whole_shares(total, weights, room):
    """The fair shares rounded down, what is left to the largest remainders, the first among equals."""
    fair = fair_shares(total, weights, room)
    given = [floor(share) for share in fair]
    order = sorted(range(len(fair)), key=lambda i: (given[i] - fair[i], i))
    for i in order[: total - sum(given)]:
        given[i] += 1
    return given


def pruned_by_threshold(masks, weights, threshold):
    """Line 2: the masks without the weights under H; the largest of each tensor stays (the first among equals)."""
    kept = []
    for mask, dense in zip(masks, weights, strict=True):
        survives = [is_active and abs(weight) >= threshold for is_active, weight in zip(mask, dense, strict=True)]
        if not any(survives):
            largest = None
            for place, is_active in enumerate(mask):
                if is_active and (largest is None or abs(dense[place]) > abs(dense[largest])):
                    largest = place
            survives[largest] = True
        kept.append(survives)
    return kept


def adjusted_threshold(threshold, pruned, target, tolerance):
    """Line 6, with δ as a decimal."""
    delta = Fraction(str(tolerance))
    if pruned < (1 - delta) * target:
        return threshold * 2
    if pruned > (1 + delta) * target:
        return threshold / 2 or threshold  # never zero
    return threshold
