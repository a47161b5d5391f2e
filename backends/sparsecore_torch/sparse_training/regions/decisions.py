"""Decides by measurement whether the kernels or torch compute a region or a layer, and remembers it."""

import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import attrs
import torch

from sparsecore.errors import InputError, unknown

CHOICES = ("sparse", "dense")
"""The kernels, and torch with dense weights."""

_CHANGED = 1.25
"""The factor by which the number of active weights may change before it is measured again."""

_CLEAR = 1.3
"""How many times as fast as torch the kernels are where the fewest rounds are enough."""

_GAIN = 0.98
"""The ratio of two times up to which the kernels compute: less than the noise is no gain."""

_ROUNDS = (3, 7)
"""The fewest and the most rounds: another program may disturb some of them, but hardly each round of one way.

The kernels, whose loops are many and short, wait for a core more often than torch, so that only all rounds may find
them slower.
"""


@attrs.frozen
class Decision:
    """What computes in one case.

    Attributes:
        choice: one of :data:`CHOICES`.
        weights: the number of active weights when it was measured.
        ratio: the time of the kernels over that of torch; None where it was not measured here.
    """

    choice: str
    weights: int
    ratio: float | None = None

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else f", {self.ratio:.2f} of torch's time"
        return f"{self.choice}{ratio}"


@attrs.define(eq=False)
class Decisions:
    """The decisions of one model.

    Attributes:
        made: by case: which tensors, in training or not, and the sizes of the input.
        rules: globs on names of tensors and the choice for regions and layers with such a tensor, set by hand; a later
            one counts more.
    """

    made: dict[str, Decision] = attrs.field(factory=dict)
    rules: list[tuple[str, str]] = attrs.field(factory=list)

    def use(self, choice: str, tensors: str) -> None:
        """Set a choice by hand.

        Args:
            choice: one of :data:`CHOICES`.
            tensors: a glob on names of tensors.

        Raises:
            InputError: there is no such choice.
        """
        if choice not in CHOICES:
            raise InputError(unknown("choice of kernels", choice, CHOICES))
        self.rules.append((tensors, choice))

    def takes_sparse(self, case: str, tensors: Sequence[str], weights: int, ways: Callable[[], "Ways"]) -> bool:
        """Return whether the kernels compute, after measuring it where that is not known.

        Args:
            case: which tensors, in training or not, and the sizes of the input.
            tensors: the names of the sparse tensors.
            weights: the number of active weights.
            ways: makes the two ways to compute it.
        """
        for glob, choice in reversed(self.rules):
            if any(fnmatchcase(name, glob) for name in tensors):
                return choice == "sparse"
        known = self.made.get(case)
        if known is None or not 1 / _CHANGED <= weights / max(known.weights, 1) <= _CHANGED:
            ratio = _measure(ways())
            known = self.made[case] = Decision("sparse" if ratio <= _GAIN else "dense", weights, ratio)
        return known.choice == "sparse"

    def dump(self) -> dict[str, Any]:
        """Return what was measured and what was set by hand, as plain values; empty where there is neither."""
        made = {case: [one.choice, one.weights] for case, one in self.made.items()}
        rules = [list(rule) for rule in self.rules]
        return {"measured": made, "by hand": rules} if made or rules else {}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take decisions over, so that a run goes on with the same arithmetic.

        Args:
            saved: of :meth:`dump`; what is set by hand here stays, unless it says otherwise.

        Raises:
            InputError: it is damaged.
        """
        try:
            measured = {str(case): tuple(one) for case, one in saved.get("measured", {}).items()}
            made = {case: Decision(str(choice), int(weights)) for case, (choice, weights) in measured.items()}
            rules = [(str(glob), str(choice)) for glob, choice in saved.get("by hand", [])]
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f"the saved choices of kernels are damaged: {error!r}") from error
        wrong = ({one.choice for one in made.values()} | {choice for _, choice in rules}) - set(CHOICES)
        if wrong:
            raise InputError(unknown("choice of kernels", sorted(wrong)[0], CHOICES))
        self.made = made
        self.rules += [rule for rule in rules if rule not in self.rules]


@attrs.frozen(eq=False)
class Ways:
    """The two ways to compute something, each of which runs once and has no effect on the model."""

    sparse: Callable[[], None]
    dense: Callable[[], None]


def size_class(shape: Sequence[int]) -> str:
    """Return the sizes of which one measurement serves all: each size rounded up to a power of two.

    Sequences and last batches of ever other lengths would be measured again and again otherwise.

    Args:
        shape: of an input.
    """
    return "up to " + "×".join(str(1 << max(size - 1, 0).bit_length()) for size in shape)


def _measure(ways: Ways) -> float:
    """Return the time of the kernels over that of torch: that of the fastest of several runs, taken in turns."""
    sparse, dense = float("inf"), float("inf")
    fewest, most = _ROUNDS
    # hooks of the model's graph, such as those of checkpoints, are not to see what is saved here
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved):
        for way in (ways.sparse, ways.dense):  # lists are made, and memory is allocated
            way()
        for done in range(1, most + 1):
            sparse, dense = min(sparse, _seconds(ways.sparse)), min(dense, _seconds(ways.dense))
            if done >= fewest and sparse * _CLEAR <= dense:
                break
    return sparse / dense


def _seconds(way: Callable[[], None]) -> float:
    # on one thread, the time that others have the processor is not counted
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    before = clock()
    way()
    return clock() - before
