"""Finds out what an optimizer keeps for each weight, by stepping copies of it on scratch parameters.

The shape of a tensor in an optimizer's state does not say what it is: a momentum, 8-bit codes, or a preconditioner of a
layer that happens to be square. The optimizer's steps do. Two copies take steps on parameters and gradients that agree
in some entries and differ in others: a tensor with one entry for each weight is then equal, to the last bit, where
these agree. Entries that have neither weight nor gradient show what an optimizer begins with.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from itertools import product
from types import MappingProxyType
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsecore_torch.sparse_training.optimizers.copies import HiddenStateError, ProbeError, undisturbed, values_of
from sparsecore_torch.sparse_training.optimizers.profile import OptimizerProfile, StateEntry, fill, is_nested
from sparsecore_torch.sparse_training.optimizers.trial import DRIVES, MAKES, Run, Runner, State, TrialData, has_shape

_MOST, _LEAST = 16_384, 256
"""The number of entries of a scratch parameter, which stands in for larger and smaller ones."""


def probe(optimizer: Optimizer, group: int, like: Tensor, *, flat: bool = False) -> OptimizerProfile:
    """Find out what an optimizer does to parameters of a shape and dtype. Nothing real changes.

    Args:
        optimizer: the one that takes the step; it may have taken steps before.
        group: the index of the param group whose options count.
        like: a parameter of that group.
        flat: whether to try a vector of as many entries instead of the parameter's shape.

    Raises:
        ProbeError: the optimizer cannot be tried.
    """
    shape = stand_in(tuple(like.shape))
    trial = _Trial(_data(shape, (math.prod(shape),) if flat else shape, like.dtype, like.device))
    with undisturbed(like.device):
        errors: list[ProbeError] = []
        for make, drive in product(MAKES, DRIVES):
            try:
                return trial.profile(Runner(partial(make, optimizer, group), drive))
            except HiddenStateError:
                raise
            except ProbeError as error:
                errors.append(error)
    raise errors[0]


def stand_in(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape of moderate size that an optimizer treats as it treats the given one.

    Equal sides stay equal, different ones stay different, and sides of 1 stay 1.

    Args:
        shape: of a parameter.

    Returns:
        A shape of as many dimensions, which a trial takes little time on and whose entries suffice for its conclusions.
    """
    sides = sorted({side for side in shape if side > 1})
    if not sides:
        return (16,) * len(shape)
    sizes = {1: 1} | {side: side for side in sides}

    def entries() -> int:
        return math.prod(sizes[side] for side in shape)

    while entries() < _LEAST:
        sizes |= {side: 2 * size for side, size in sizes.items() if side > 1}
    while entries() > _MOST:
        largest = max(sides, key=lambda side: sizes[side])
        half = sizes[largest] // 2
        sizes[largest] = half + 1 if half in sizes.values() else half
    return tuple(sizes[side] for side in shape)


_data = lru_cache(maxsize=16)(TrialData)

_VISIBLE = 0.01
"""A learning rate that moves weights of any dtype; that of a warm-up may be too small to move them."""


@attrs.frozen(eq=False)
class _Trial:
    """Draws conclusions from a base run, a disturbed run, and a run whose empty entries are kept at their values."""

    data: TrialData

    def profile(self, runner: Runner) -> OptimizerProfile:
        """Return what the optimizer does, with a larger learning rate if its own is too small to move a weight.

        The initial state of new weights may depend on the learning rate, so it is that at the optimizer's own rate.
        """
        found = self._profile(runner)
        if self._has_moved(found.steps):
            return found
        twin = runner.make(nn.Parameter(self.data.start[0].clone().reshape(self.data.actual)))
        rate = twin.param_groups[0].get("lr")
        if rate is None or float(rate) >= _VISIBLE:
            return found
        larger = self._profile(attrs.evolve(runner, rate=_VISIBLE))
        entries = {
            key: attrs.evolve(entry, fresh=found.entries[key].fresh) if key in found.entries else entry
            for key, entry in larger.entries.items()
        }
        return attrs.evolve(larger, entries=MappingProxyType(entries))

    def _profile(self, runner: Runner) -> OptimizerProfile:
        base, disturbed = runner.run(self.data), runner.run(self.data, disturbed=True)
        for name, tensor in base.outside.items():
            if not _equal(tensor, disturbed.outside.get(name)):  # else it does not depend on the gradients
                raise HiddenStateError(
                    f"it keeps numbers that belong to weights in {name!r}, and not in state[parameter], where they can "
                    "be kept at zero"
                )
        keys = list(dict.fromkeys(key for state in base.states for key in state))
        own = [key for key in keys if self._is_of_the_shape(key, base)]
        others = frozenset(keys) - frozenset(own)
        is_entrywise = self._has_moved(base.weights) and self._is_independent(base, disturbed, others)
        entries = {key: self._entry(key, base, disturbed, is_entrywise) for key in own}
        keeps_zero = is_entrywise and all(one.is_entrywise and one.is_plain for one in entries.values())
        return OptimizerProfile(
            is_entrywise=is_entrywise,
            # writes to nested state are not tracked
            keeps_zero=keeps_zero and not any(map(is_nested, entries)) and self._keeps_zero(runner, entries),
            entries=MappingProxyType(entries),
            others=others,
            steps=base.weights,
        )

    @property
    def _empty(self) -> Tensor:
        return self.data.kinds == 2

    @property
    def _still(self) -> Tensor:
        return self.data.kinds == 3

    def _agree(self, one: Tensor, other: Tensor) -> bool:
        """Return whether two tensors are equal, to the last bit, in entries whose weights and gradients are equal."""
        kept = self.data.kinds != 1
        return _same(one.reshape(-1)[kept], other.reshape(-1)[kept])

    def _is_of_the_shape(self, key: str, run: Run) -> bool:
        return any(has_shape(state.get(key), self.data.actual) for state in run.states)

    def _has_moved(self, steps: Sequence[Tensor]) -> bool:
        before, after = self.data.start[0], steps[-1]
        return bool((before != after)[self.data.kinds == 0].any())

    def _is_independent(self, base: Run, disturbed: Run, others: frozenset[str]) -> bool:
        runs = (base, disturbed)
        return (
            all(self._agree(*pair) for pair in zip(*(run.weights for run in runs), strict=True))
            and all(_equal(*pair) for pair in zip(*(run.options for run in runs), strict=True))
            and all(
                _equal(*({key: one for key, one in state.items() if key in others} for state in pair))
                for pair in zip(*(run.states for run in runs), strict=True)
            )
        )

    def _entry(self, key: str, base: Run, disturbed: Run, is_entrywise: bool) -> StateEntry:
        steps = [
            (number, one[key], other[key])
            for number, (one, other) in enumerate(zip(base.states, disturbed.states, strict=True))
            if has_shape(one.get(key), self.data.actual) and has_shape(other.get(key), self.data.actual)
        ]
        number, begun, _ = steps[0]
        independent = all(self._agree(one, other) for _, one, other in steps)
        fresh = self._constant(begun)
        if fresh is None or not self._is_by_entry([pair for _, *pair in steps], fresh=None if independent else fresh):
            return StateEntry(is_entrywise=False, fresh=None)
        if independent:  # else the first value may be no value of an entry at all, but a code without its scale
            fresh = self._first_value(key, base, disturbed, fresh)
        return StateEntry(
            is_entrywise=independent,
            fresh=fresh,
            follows_weight=fresh == 0.0 and self._follows_weight(base, number, begun),
            inactive=0.0 if is_entrywise else fresh,
            is_plain=key not in base.coded,
            is_nested=is_nested(key),
        )

    def _constant(self, content: Tensor) -> float | None:
        held = content.reshape(-1)[self._empty]
        return float(held[0]) if bool((held == held[0]).all()) else None

    def _first_value(self, key: str, base: Run, disturbed: Run, otherwise: float) -> float:
        made = [values_of(run.first[key]) for run in (base, disturbed)]
        numbers = [self._constant(one) if has_shape(one, self.data.actual) else None for one in made]
        return numbers[0] if numbers[0] is not None and numbers[0] == numbers[1] else otherwise

    def _is_by_entry(self, steps: Sequence[Sequence[Tensor]], fresh: float | None) -> bool:
        """Return whether empty entries are one number after each step while others vary.

        Args:
            steps: the tensors of both runs after each step.
            fresh: the number that it must be after every step; None allows any.
        """
        varies = False
        for pair in steps:
            first, second = (self._constant(one) for one in pair)
            if first is None or first != second or fresh not in (None, first):
                return False
            varies = varies or any(not bool(one.reshape(-1)[~self._empty].eq(first).all()) for one in pair)
        return varies

    def _follows_weight(self, run: Run, number: int, content: Tensor) -> bool:
        """Return whether entries without a gradient began as the value of the weight, before the step or after it."""
        held = content.reshape(-1)[self._still].float()
        weights = [one[self._still].float() for one in (self.data.start[0], run.weights[number])]
        return any(bool(one.all()) and torch.allclose(held, one, rtol=1e-2, atol=0.0) for one in weights)

    def _keeps_zero(self, runner: Runner, entries: Mapping[str, StateEntry]) -> bool:
        empty = self._empty

        def reset(state: State) -> None:
            for key in entries:
                if has_shape(state.get(key), self.data.actual):
                    fill(state[key], empty.reshape(self.data.actual), entries[key].inactive)

        run = runner.run(self.data, after=reset)
        return not any(weights[empty].ne(0).any() for weights in run.weights) and all(
            bool((content.reshape(-1)[empty] == entries[key].inactive).all())
            for state in run.states[1:]
            for key, content in state.items()
            if key in entries and has_shape(content, self.data.actual)
        )


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(torch.isclose(one, other, rtol=0.0, atol=0.0, equal_nan=True).all())


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and _same(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)
