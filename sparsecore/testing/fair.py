"""Fair shares spelled out in fractions; no code in common with the engine's own."""

from collections.abc import Sequence
from fractions import Fraction


def fair_shares(total: int, weights: Sequence[int], room: Sequence[int]) -> list[Fraction]:
    """Exact shares λ·w_i, at most ``room[i]``, with one λ for all that have room; what weighs nothing comes last.

    Where all that have room left weigh nothing, they share in proportion to their room.
    """
    shares = [Fraction(0)] * len(room)
    rest, open_ = Fraction(total), [i for i, places in enumerate(room) if places]
    heavy = list(weights)
    while rest and open_:
        if not any(heavy[i] for i in open_):
            heavy = [places - int(share) for places, share in zip(room, shares, strict=True)]
        scale = rest / sum(heavy[i] for i in open_)
        full = [i for i in open_ if scale * heavy[i] >= room[i]]
        for i in full or open_:
            shares[i] = Fraction(room[i]) if full else scale * heavy[i]
        rest = Fraction(0) if not full else rest - sum(room[i] for i in full)
        open_ = [i for i in open_ if i not in full]
    return shares
