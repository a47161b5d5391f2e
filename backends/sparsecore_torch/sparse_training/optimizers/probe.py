"""Finds out what an optimizer keeps for each weight, by stepping copies of it on scratch parameters.

The shape of a tensor in an optimizer's state does not say what it is: momenta, 8-bit codes, or a preconditioner of a
layer that happens to be square. But it shows in what the optimizer does. Two copies are stepped on parameters and
gradients that agree in some entries and differ in others: what has one entry a weight is then equal, to the last bit,
where these agree. Entries that have neither weight nor gradient show what an optimizer begins with.
"""

import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from itertools import product
from types import MappingProxyType
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsecore_torch.sparse_training.optimizers.copies import (
    HiddenStateError,
    MakeCopy,
    ProbeError,
    copied,
    is_plain,
    layers_within,
    prepare,
    rebuilt,
    seeded,
    step,
    undisturbed,
    values_of,
)
from sparsecore_torch.sparse_training.optimizers.wrapped import tensors_outside_of_state

_MOST, _LEAST = 16_384, 256
"""Entries of a scratch parameter: of more or fewer, a smaller or larger one stands in."""


@attrs.frozen
class StateEntry:
    """What one tensor in an optimizer's state, of the parameter's shape, is to the weights.

    Attributes:
        is_entrywise: each entry depends on its weight and the gradient of that weight, and on no others.
        fresh: an entry whose weight has had neither value nor gradient; None where that is no one number, as in a
            preconditioner: such a tensor belongs to the parameter as a whole.
        follows_weight: a fresh entry is the value of the weight instead, as in copies of the weights.
        inactive: what it is to hold where no weight is; zero, unless that would mean something else to the optimizer.
        is_plain: it is a plain tensor, and none of a class that keeps other numbers than it stands for.
        is_nested: it lies in a list or dict inside of the parameter's state.
    """

    is_entrywise: bool
    fresh: float | None
    follows_weight: bool = False
    inactive: float = 0.0
    is_plain: bool = True
    is_nested: bool = False

    @property
    def is_zeroed(self) -> bool:
        """Whether plain zeros say that there is no weight."""
        return self.is_plain and self.inactive == 0.0

    @property
    def is_kept_apart(self) -> bool:
        """Whether what an inactive entry holds is not what a weight begins with."""
        return self.follows_weight or self.fresh not in (None, self.inactive)


@attrs.frozen
class OptimizerProfile:
    """What an optimizer does to a parameter of a certain shape and dtype.

    Attributes:
        is_entrywise: it changes each weight by this weight, its gradient and its state alone.
        keeps_zero: a weight stays zero, and so does its state, if both and its gradient are zero.
        entries: the state of the parameter's shape, by path and key.
        others: the keys of all other state; None where whatever else there is belongs to parameters as a whole.
        steps: the weights after each step of the trial, flat; to be compared with a trial on another shape.
    """

    is_entrywise: bool
    keeps_zero: bool
    entries: Mapping[str, StateEntry]
    others: frozenset[str] | None
    steps: Sequence[Tensor] = attrs.field(repr=False, eq=False)

    def knows(self, key: str) -> bool:
        """Whether it says what the state of this path and key is."""
        return key in self.entries or self.others is None or key in self.others


def probe(optimizer: Optimizer, group: int, like: Tensor, *, flat: bool = False) -> OptimizerProfile:
    """Find out what an optimizer does to parameters of this shape and dtype. Nothing that is real changes.

    Args:
        optimizer: also one that has stepped before.
        group: the number of the param group whose options count.
        like: a parameter of that group.
        flat: whether to try a vector of as many entries instead of the parameter's shape.

    Raises:
        ProbeError: the optimizer cannot be tried.
    """
    shape = stand_in(tuple(like.shape))
    trial = _Trial(_data(shape, (math.prod(shape),) if flat else shape, like.dtype, like.device))
    with undisturbed(like.device):
        errors: list[ProbeError] = []
        for make, drive in product(_MAKES, _DRIVES):
            try:
                return trial.profile(_Runner(partial(make, optimizer, group), drive))
            except HiddenStateError:
                raise
            except ProbeError as error:
                errors.append(error)
    raise errors[0]


def stand_in(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape of a bearable size that an optimizer treats as it treats this one.

    Sides that are equal stay equal, and those that differ stay different; what is 1 stays 1.
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


_SCALES = (1.0, 1.0, 30.0, 0.1, 1.0, 1e-3, 1.0, 100.0, 1.0)
"""Of the gradients of each step: large and small ones, as some optimizers do something else with these."""


@attrs.frozen(eq=False)
class _Data:
    """Weights and gradients of a trial.

    Entries are of four kinds, strewn at random: observed ones; ones that are other in the disturbed run; ones with
    neither weight nor gradient ("empty"); and ones with a weight, but no gradient ("still"). The first gradient is at a
    right angle to each row of the weights, and not so in the disturbed run: some optimizers project such gradients.

    Attributes:
        shape: in which entries have rows.
        actual: the shape of the scratch parameter, with as many entries.
        dtype: of the parameter.
        device: of the parameter.
    """

    shape: tuple[int, ...]
    actual: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @cached_property
    def kinds(self) -> Tensor:
        """0 observed, 1 disturbed, 2 empty, 3 still; flat."""
        count = math.prod(self.shape)
        kinds = torch.arange(count) * 4 // count
        return kinds[torch.randperm(count, generator=_generator(1))].to(self.device)

    @cached_property
    def start(self) -> tuple[Tensor, Tensor]:
        """The weights at the start, flat, in the base run and in the disturbed one."""
        return self._pair(2, self.kinds.cpu() == 2)

    @cached_property
    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """The gradients of all steps, flat, in the base run and in the disturbed one."""
        none = self.kinds.cpu() >= 2
        base, disturbed = zip(*(self._pair(3 + number, none) for number in range(len(_SCALES))), strict=True)
        turned = (self._at_a_right_angle(base[0]), *base[1:])
        factors = [0.1 * scale for scale in _SCALES]
        return [(one * factor, other * factor) for one, other, factor in zip(turned, disturbed, factors, strict=True)]

    def _pair(self, seed: int, none: Tensor) -> tuple[Tensor, Tensor]:
        base = self._numbers(seed)
        disturbed = torch.where(self.kinds.cpu() == 1, 5 * self._numbers(seed + 100), base)
        first, second = ((0.5 * one.masked_fill(none, 0.0)).to(self.device, self.dtype) for one in (base, disturbed))
        return first, second

    def _numbers(self, seed: int) -> Tensor:
        """Numbers with random signs that are not close to zero."""
        normal = torch.randn(math.prod(self.shape), generator=_generator(seed))
        return normal + 0.1 * normal.sign()

    def _at_a_right_angle(self, gradient: Tensor) -> Tensor:
        rows = self.shape[0] if len(self.shape) > 1 else 1
        weights, slopes = (one.double().reshape(rows, -1) for one in (self.start[0], gradient))
        free = torch.where(self.kinds.reshape(rows, -1) == 1, weights, 0.0)
        products, squares = (weights * slopes).sum(1, keepdim=True), free.square().sum(1, keepdim=True)
        # not quite a right angle, so that there is something to project
        wanted = 1e-2 * weights.norm(dim=1, keepdim=True) * slopes.norm(dim=1, keepdim=True) / weights.shape[1] ** 0.5
        turned = slopes - free * (products - wanted) / squares.clamp_min(torch.finfo(torch.float64).tiny)
        return gradient.new_tensor(turned.reshape(-1))


_data = lru_cache(maxsize=16)(_Data)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


_VISIBLE = 0.01
"""A learning rate that moves weights of any dtype, while a warm-up may begin with one that is rounded away."""

Drive = Callable[[Optimizer, nn.Parameter, Tensor], None]
"""One step of a copy with a gradient."""


def _plainly(optimizer: Optimizer, parameter: nn.Parameter, gradient: Tensor) -> None:
    parameter.grad = gradient.clone()
    step(optimizer)


def _by_closure(optimizer: Optimizer, parameter: nn.Parameter, gradient: Tensor) -> None:
    def closure() -> Tensor:  # whose gradient is another one where the optimizer has moved the weights meanwhile
        parameter.grad = gradient + gradient.abs() * parameter.detach()
        return gradient.new_ones(())

    closure()
    step(optimizer, closure)


def _with_graph(optimizer: Optimizer, parameter: nn.Parameter, gradient: Tensor) -> None:
    """For optimizers that differentiate the gradient once more; its derivative is diagonal."""
    loss = (parameter * gradient + gradient.abs() * parameter.square() / 2).sum()
    (parameter.grad,) = torch.autograd.grad(loss, [parameter], create_graph=True)
    try:
        step(optimizer)
    finally:
        parameter.grad = None


_DRIVES: tuple[Drive, ...] = (_plainly, _by_closure, _with_graph)
_MAKES: tuple[MakeCopy, ...] = (copied, rebuilt, seeded)

State = Mapping[str, Any]
"""The content of a parameter's state by path and key."""


@attrs.frozen(eq=False)
class _Run:
    """What came of each step: weights (flat), state, and the options of the group.

    Attributes:
        first: what each key of the state held at first.
        coded: the keys whose tensors are no plain ones.
        outside: the tensors of the parameter's shape, at the end, that are not in its state.
    """

    first: dict[str, Any] = attrs.field(factory=dict)
    coded: set[str] = attrs.field(factory=set)
    outside: dict[str, Tensor] = attrs.field(factory=dict)
    weights: list[Tensor] = attrs.field(factory=list)
    states: list[State] = attrs.field(factory=list)
    options: list[State] = attrs.field(factory=list)


@attrs.frozen(eq=False)
class _Runner:
    """Steps copies of an optimizer.

    Attributes:
        make: a copy that holds a scratch parameter.
        drive: one step of it.
        rate: a learning rate in the place of the optimizer's own.
    """

    make: Callable[[nn.Parameter], Optimizer]
    drive: Drive
    rate: float | None = None

    def run(self, data: _Data, *, disturbed: bool = False, after: Callable[[State], None] | None = None) -> _Run:
        """All steps; ``after`` may change the state in place once it has been written down."""
        torch.manual_seed(0)  # all runs draw alike; undisturbed() puts the generator back
        which = int(disturbed)
        parameter = nn.Parameter(data.start[which].clone().reshape(data.actual))
        optimizer = self.make(parameter)
        prepare(optimizer)
        if self.rate is not None:
            own = optimizer.param_groups[0]["lr"]
            optimizer.param_groups[0]["lr"] = torch.full_like(own, self.rate) if isinstance(own, Tensor) else self.rate
        run = _Run()
        for gradients in data.gradients:
            self.drive(optimizer, parameter, gradients[which].reshape(data.actual))
            _check_keys(optimizer, parameter)
            states = dict(labelled_states(layers_within(optimizer), parameter))
            state = {f"{label}{key}": content for label, one in states.items() for key, content in flat(one).items()}
            run.weights.append(parameter.detach().clone().reshape(-1))
            run.states.append({key: _snapshot(content) for key, content in state.items()})
            run.options.append({k: _snapshot(one) for k, one in optimizer.param_groups[0].items() if k != "params"})
            for label, one in states.items():
                first = {f"{label}{key}": content for key, content in getattr(one, "first", {}).items()}
                run.first.update({key: content for key, content in first.items() if key not in run.first})
            run.first.update({key: content for key, content in run.states[-1].items() if key not in run.first})
            run.coded.update(key for key, one in state.items() if isinstance(one, Tensor) and not is_plain(one))
            if after is not None:
                after(state)
        for layer in layers_within(optimizer):
            for name, tensor in tensors_outside_of_state(layer, parameter):
                if _has_shape(tensor, data.actual) and tensor is not parameter:
                    run.outside[name] = tensor.detach().clone()
        return run


def _check_keys(optimizer: Any, parameter: Tensor) -> None:
    """Raise an error if state is kept by the identity of a parameter: torch mixes such keys up with parameters."""
    if any(key == id(parameter) for layer in layers_within(optimizer) for key in layer.state if isinstance(key, int)):
        raise HiddenStateError("it keeps state by id(parameter), and not by the parameter")


def labelled_states(layers: Sequence[Any], parameter: Tensor) -> Iterator[tuple[str, dict[str, Any]]]:
    """The state that each layer keeps for a parameter, each once; that of the first layer has the label ''."""
    seen: list[Any] = []
    for number, layer in enumerate(layers):
        state = getattr(layer, "state", {}).get(parameter)
        if isinstance(state, dict) and not any(state is one for one in seen):
            seen.append(state)
            yield f"{type(layer).__name__}." if number else "", state


def flat(state: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a state, by key; what lies in dicts, lists and deques in it, by ``key[inner key]``."""
    found: dict[str, Any] = {}
    for key, content in state.items():
        inner = _inner(content)
        if inner is None:
            found[key] = content
        else:
            found.update(flat({f"{key}[{one}]": within for one, within in inner.items()}))
    return found


def first_of(key: str) -> str:
    """The key of the first element of a sequence, from that of any element: sequences may grow as steps go by."""
    return _ELEMENT.sub("[0]", key)


_ELEMENT = re.compile(r"\[\d+\]")


def _inner(content: Any) -> Mapping[Any, Any] | None:
    if isinstance(content, Mapping):
        return content
    return dict(enumerate(content)) if isinstance(content, list | tuple | deque) else None


def fill(content: Tensor, where: Tensor, fresh: float | Tensor) -> None:
    """Put fresh entries into a tensor of an optimizer's state, in place."""
    values = values_of(content)
    fresh = torch.as_tensor(fresh, dtype=values.dtype, device=values.device)
    content.detach().copy_(torch.where(where, fresh, values))


@attrs.frozen(eq=False)
class _Trial:
    """Finds out by a base run, a disturbed one, and one whose empty entries are kept at what they are to hold."""

    data: _Data

    def profile(self, runner: _Runner) -> OptimizerProfile:
        """What the optimizer does; where its learning rate is too small to move a weight, at a larger one.

        What an entry is at first may be the learning rate, and is that of the optimizer's own.
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

    def _profile(self, runner: _Runner) -> OptimizerProfile:
        base, disturbed = runner.run(self.data), runner.run(self.data, disturbed=True)
        for name, tensor in base.outside.items():
            if not _equal(tensor, disturbed.outside.get(name)):  # else it has nothing to do with the gradients
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
            # nobody watches the writes to what lies deeper
            keeps_zero=keeps_zero and not any(map(_is_nested, entries)) and self._keeps_zero(runner, entries),
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
        """Whether two runs are equal where their weights and gradients are, to the last bit."""
        kept = self.data.kinds != 1
        return _same(one.reshape(-1)[kept], other.reshape(-1)[kept])

    def _is_of_the_shape(self, key: str, run: _Run) -> bool:
        return any(_has_shape(state.get(key), self.data.actual) for state in run.states)

    def _has_moved(self, steps: Sequence[Tensor]) -> bool:
        before, after = self.data.start[0], steps[-1]
        return bool((before != after)[self.data.kinds == 0].any())

    def _is_independent(self, base: _Run, disturbed: _Run, others: frozenset[str]) -> bool:
        runs = (base, disturbed)
        return (
            all(self._agree(*pair) for pair in zip(*(run.weights for run in runs), strict=True))
            and all(_equal(*pair) for pair in zip(*(run.options for run in runs), strict=True))
            and all(
                _equal(*({key: one for key, one in state.items() if key in others} for state in pair))
                for pair in zip(*(run.states for run in runs), strict=True)
            )
        )

    def _entry(self, key: str, base: _Run, disturbed: _Run, is_entrywise: bool) -> StateEntry:
        steps = [
            (number, one[key], other[key])
            for number, (one, other) in enumerate(zip(base.states, disturbed.states, strict=True))
            if _has_shape(one.get(key), self.data.actual) and _has_shape(other.get(key), self.data.actual)
        ]
        number, begun, _ = steps[0]
        independent = all(self._agree(one, other) for _, one, other in steps)
        fresh = self._constant(begun)
        if fresh is None or not self._is_by_entry([pair for _, *pair in steps], fresh=None if independent else fresh):
            return StateEntry(is_entrywise=False, fresh=None)
        if independent:  # else what it was made with may be no value of an entry at all: a code without its scale
            fresh = self._made_with(key, base, disturbed, fresh)
        return StateEntry(
            is_entrywise=independent,
            fresh=fresh,
            follows_weight=fresh == 0.0 and self._follows_weight(base, number, begun),
            inactive=0.0 if is_entrywise else fresh,
            is_plain=key not in base.coded,
            is_nested=_is_nested(key),
        )

    def _constant(self, content: Tensor) -> float | None:
        held = content.reshape(-1)[self._empty]
        return float(held[0]) if bool((held == held[0]).all()) else None

    def _made_with(self, key: str, base: _Run, disturbed: _Run, otherwise: float) -> float:
        made = [values_of(run.first[key]) for run in (base, disturbed)]
        numbers = [self._constant(one) if _has_shape(one, self.data.actual) else None for one in made]
        return numbers[0] if numbers[0] is not None and numbers[0] == numbers[1] else otherwise

    def _is_by_entry(self, steps: Sequence[Sequence[Tensor]], fresh: float | None) -> bool:
        """Whether empty entries hold one number after each step, whatever the others do, and the others do something.

        Args:
            steps: what was held in both runs.
            fresh: the number that it must be after every step; where it is None, any.
        """
        varies = False
        for pair in steps:
            first, second = (self._constant(one) for one in pair)
            if first is None or first != second or fresh not in (None, first):
                return False
            varies = varies or any(not bool(one.reshape(-1)[~self._empty].eq(first).all()) for one in pair)
        return varies

    def _follows_weight(self, run: _Run, number: int, content: Tensor) -> bool:
        """Whether entries without a gradient began as the weight was, before the step or after it."""
        held = content.reshape(-1)[self._still].float()
        weights = [one[self._still].float() for one in (self.data.start[0], run.weights[number])]
        return any(bool(one.all()) and torch.allclose(held, one, rtol=1e-2, atol=0.0) for one in weights)

    def _keeps_zero(self, runner: _Runner, entries: Mapping[str, StateEntry]) -> bool:
        empty = self._empty

        def reset(state: State) -> None:
            for key in entries:
                if _has_shape(state.get(key), self.data.actual):
                    fill(state[key], empty.reshape(self.data.actual), entries[key].inactive)

        run = runner.run(self.data, after=reset)
        return not any(weights[empty].ne(0).any() for weights in run.weights) and all(
            bool((content.reshape(-1)[empty] == entries[key].inactive).all())
            for state in run.states[1:]
            for key, content in state.items()
            if key in entries and _has_shape(content, self.data.actual)
        )


def _is_nested(key: str) -> bool:
    return key.endswith("]")


def _has_shape(content: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(content, Tensor) and tuple(content.shape) == shape


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(torch.isclose(one, other, rtol=0.0, atol=0.0, equal_nan=True).all())


def _snapshot(content: Any) -> Any:
    """A copy of some state that no step changes."""
    if isinstance(content, Tensor):
        return values_of(content).clone()
    if isinstance(content, Mapping):
        return {key: _snapshot(one) for key, one in content.items()}
    if isinstance(content, list | tuple):
        return [_snapshot(one) for one in content]
    return content


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and _same(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)
