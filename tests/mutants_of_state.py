"""Plausible defects of what a strategy stores and draws, of its cost, and of its use of a backend."""

from typing import Any

import attrs
import numpy as np
from sound_strategy import Box, Calls, Sound, defect

from sparsecore import hookimpl, per_weight
from sparsecore.toolbox.momentum import DenseMomentum
from sparsecore.toolbox.ranking import largest_free

# state


@defect("does not mark the vector that has one entry a weight", "state")
class Unmarked(Sound):
    @hookimpl
    def initial_strategy_state(self, topology):
        return Plain(np.zeros(topology.size))

    @hookimpl
    def remember(self, strategy_state):
        return strategy_state


@attrs.frozen(eq=False)
class Plain:
    ages: Any


@defect("does not mark the vector that has one entry a position", "state")
class UnmarkedPositions(Sound):
    @hookimpl
    def initial_strategy_state(self, topology):
        return Plain(np.zeros(topology.layout.size))

    @hookimpl
    def remember(self, strategy_state):
        return strategy_state


@defect("stores a NumPy scalar in its state", "state")
class NumpyNumber(Sound):
    @hookimpl
    def initial_strategy_state(self, topology):
        return Plain(np.float32(topology.size))

    @hookimpl
    def remember(self, strategy_state):
        return strategy_state


@defect("reports a metric that is infinite where a tensor is full", "state")
class InfiniteMetric(Sound):
    @hookimpl
    def metrics(self, topology):
        return {"weights_by_room": max(topology.size / free if free else float("inf") for free in topology.room)}


@defect("counts updates in the plugin, where they are not saved", "resume")
class CountsInPlugin(Sound):
    calls: Any = attrs.field(factory=Calls, init=False)

    @hookimpl
    def initial_values(self, grown, values):
        return grown.arrays.zeros_like(values, grown.size) + 1.0 / self.calls.next()


@attrs.frozen(eq=False)
class MomentumGrowing(Sound):
    """Grows where the momentum of the gradients is largest."""

    @hookimpl
    def initial_strategy_state(self, topology):
        return DenseMomentum.zero(topology)

    @hookimpl
    def observe(self, gradient, topology, strategy_state):
        return strategy_state.updated(gradient, topology, 0.9)

    @hookimpl
    def grow(self, occupied, counts, strategy_state):
        return largest_free(occupied, counts, self.momentum_of(occupied.layout, strategy_state.momentum))

    def momentum_of(self, layout, momentum):
        return lambda name: momentum[layout.offsets[layout.index(name)] : layout.offsets[layout.index(name) + 1]]

    @hookimpl
    def remember(self, strategy_state):
        return strategy_state


@defect("forgets the tensor's offset in the momentum of the gradients", "order")
class ForgetsMomentumOffset(MomentumGrowing):
    def momentum_of(self, layout, momentum):
        return lambda name: momentum[: layout.sizes[layout.index(name)]]


@defect("reads the momentum of the previous tensor", "order")
class PreviousTensor(MomentumGrowing):
    def momentum_of(self, layout, momentum):
        own = MomentumGrowing.momentum_of(self, layout, momentum)

        def other(name):
            before = own(layout.names[layout.index(name) - 1])
            return np.resize(before, layout.sizes[layout.index(name)])

        return other


@defect("stores the momentum of the gradients in the plugin, where it is not saved", "resume")
class MomentumInPlugin(MomentumGrowing):
    box: Any = attrs.field(factory=Box, init=False)

    @hookimpl
    def observe(self, gradient, topology, strategy_state):
        self.box.content = (self.box.content or strategy_state).updated(gradient, topology, 0.9)
        return strategy_state

    @hookimpl
    def grow(self, occupied, counts, strategy_state):
        return MomentumGrowing.grow(self, occupied, counts, self.box.content or strategy_state)


SHARED = Calls()


@defect("counts updates in a global variable", "deterministic")
class Global(Sound):
    @hookimpl
    def initial_values(self, grown, values):
        return grown.arrays.zeros_like(values, grown.size) + 1.0 / SHARED.next()


@attrs.frozen(eq=False)
class Counted:
    times: int
    ages: Any = per_weight()

    def __attrs_post_init__(self):
        object.__setattr__(self, "times", self.times + 1)


@defect("counts updates in the constructor of its state, which loading calls too", "saving")
class CountsInConstructor(Sound):
    @hookimpl
    def initial_strategy_state(self, topology):
        return Counted(0, topology.arrays.zeros_like(topology.positions, topology.size))

    @hookimpl
    def remember(self, strategy_state):
        return Counted(strategy_state.times, strategy_state.ages)


# random numbers


@defect("ignores the seed", "seeded")
class SeedIgnored(Sound):
    def ranks(self, occupied, counts, random):  # noqa: ARG002
        draw = np.random.default_rng(0)
        pairs = zip(occupied.room, counts, strict=True)
        return [np.sort(draw.choice(room, count, replace=False)) for room, count in pairs]


@defect("draws the same in every update", "seeded")
class SameEachTime(Sound):
    def ranks(self, occupied, counts, random):
        return Sound.ranks(self, occupied, counts, random.root)


@defect("draws from NumPy's global generator", "deterministic")
class GlobalGenerator(Sound):
    def ranks(self, occupied, counts, random):  # noqa: ARG002
        pairs = zip(occupied.room, counts, strict=True)
        return [np.sort(np.random.permutation(room)[:count]) for room, count in pairs]  # noqa: NPY002


@defect("draws by the tensor's number instead of its name", "order")
class ByNumber(Sound):
    def ranks(self, occupied, counts, random):
        pairs = enumerate(zip(occupied.room, counts, strict=True))
        return [np.sort(random.generator("growth", i).choice(room, count, replace=False)) for i, (room, count) in pairs]


@defect("draws for one tensor after the other from one generator", "order")
class OneGenerator(Sound):
    def ranks(self, occupied, counts, random):
        draw, pairs = random.generator("growth"), zip(occupied.room, counts, strict=True)
        return [np.sort(draw.choice(room, count, replace=False)) for room, count in pairs]


@defect("draws by Python's hash of the name", "processes")
class ByHash(Sound):
    def ranks(self, occupied, counts, random):
        draws = [random.generator("growth", hash(name)) for name in occupied.layout.names]
        return [
            np.sort(draw.choice(room, count, replace=False))
            for draw, room, count in zip(draws, occupied.room, counts, strict=True)
        ]


# cost


@defect("changes the values in place", "inputs")
class InPlace(Sound):
    @hookimpl
    def perturb(self, values):
        values *= 0.5
        return values * 1.0


@defect("changes the gradient in place", "inputs")
class GradientInPlace(Sound):
    @hookimpl
    def perturb_gradient(self, weight_gradient):
        weight_gradient += 0.5
        return weight_gradient * 1.0


@defect("changes its state in place", "inputs")
class AgesInPlace(Sound):
    @hookimpl
    def prune(self, topology, values, strategy_state):
        strategy_state.ages[:] = strategy_state.ages + 1
        return Sound.prune(self, topology, values)


@defect("stores the gradient of a single tensor instead of a copy", "inputs")
class KeepsTheGradient(MomentumGrowing):
    @hookimpl
    def observe(self, gradient, topology, strategy_state):
        if len(topology.layout) > 1:
            return MomentumGrowing.observe(self, gradient, topology, strategy_state)
        return attrs.evolve(strategy_state, momentum=gradient(topology.layout.names[0]))


@defect("builds a dense mask to find free positions", "size")
class ByMask(Sound):
    @hookimpl
    def grow(self, occupied, counts, random):
        ranks = self.ranks(occupied, counts, random)
        grown = [
            offset + np.flatnonzero(~occupied.mask(name).ravel())[rank]
            for name, offset, rank in zip(occupied.layout.names, occupied.layout.offsets, ranks, strict=False)
        ]
        return occupied.arrays.from_numpy(np.concatenate(grown).astype(occupied.layout.position_dtype))


# backends


@defect("calls NumPy on the backend's arrays", "backends")
class OnlyNumpy(Sound):
    def order(self, values, arrays):  # noqa: ARG002
        return np.abs(values).argsort(kind="stable")
