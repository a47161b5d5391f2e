"""Plausible defects of when a strategy updates, of what it prunes, allocates and grows, and of grown values."""

from typing import Any, ClassVar

import attrs
import numpy as np
from sound_strategy import Box, Calls, Guided, Sound, defect

from sparsecore import hookimpl
from sparsecore.engine.declarations import Declares
from sparsecore.engine.growth import free_positions, shares
from sparsecore.engine.topology import Topology
from sparsecore.engine.young_weights import YoungWeights

# the start


@defect("starts dense, whatever the sparsity", "start")
class Dense(Sound):
    @hookimpl
    def initial_topology(self, layout, arrays):
        return Topology.of(layout, arrays.arange(layout.size, layout.position_dtype), arrays)


@defect("starts at positions drawn with replacement", "start")
class StartWithReplacement(Sound):
    @hookimpl
    def initial_topology(self, layout, sparsity, random, arrays):
        count = max(1, round(layout.size * (1 - sparsity)))
        positions = np.sort(random.generator("start").integers(0, layout.size, count))
        return Topology.of(layout, arrays.from_numpy(positions.astype(layout.position_dtype)), arrays)


@defect("starts at the same positions whatever the seed", "seeded-start")
class SeedlessStart(Sound):
    @hookimpl
    def initial_topology(self, layout, sparsity, arrays):
        draw = np.random.default_rng(0)
        counts = [max(1, int(size * (1 - sparsity))) for size in layout.sizes]
        chosen = [
            offset + np.sort(draw.choice(size, count, replace=False))
            for offset, size, count in zip(layout.offsets, layout.sizes, counts, strict=False)
        ]
        return Topology.of(layout, arrays.from_numpy(np.concatenate(chosen).astype(layout.position_dtype)), arrays)


# timing


@defect("returns a number instead of whether an update is due", "due")
class CountsDue(Sound):
    @hookimpl
    def update_due(self, clock):
        return clock.step // 3


@defect("counts the calls instead of the steps", "due")
class CountsCalls(Sound):
    calls: Any = attrs.field(factory=Calls, init=False)

    @hookimpl
    def update_due(self):
        return self.calls.next() % 3 == 0


@defect("compares the step with an end of the run that may not be known", "no-errors")
class DueUntilTheEnd(Sound):
    @hookimpl
    def update_due(self, clock):
        return clock.step % 3 == 0 and clock.step < 0.75 * clock.total_steps


@attrs.frozen
class Growing(YoungWeights):
    def damping(self, ages):
        return 1 + 1 / ages


@defect("gives young weights steps that are longer than the optimizer's", "young")
class LongSteps(Sound):
    @hookimpl
    def young_weights(self):
        return Growing(warm_up=5)


@defect("gives young weights something else each time", "young")
class ChangesItsMind(Sound):
    calls: Any = attrs.field(factory=Calls, init=False)

    @hookimpl
    def young_weights(self):
        return YoungWeights(warm_up=self.calls.next())


# pruning


@defect("prunes the most negative instead of the smallest", "smallest")
class MostNegative(Sound):
    def order(self, values, arrays):
        return arrays.argsort(values)


@defect("flips the sign, so that the largest are pruned first", "smallest")
class LargestFirst(Sound):
    def order(self, values, arrays):
        return arrays.argsort(-abs(values))


@defect("prunes the last of equal weights first", "smallest")
class WrongTie(Sound):
    def order(self, values, arrays):
        last = arrays.argsort(-abs(values))
        return arrays.take(last, len(values) - 1 - arrays.arange(len(values), "int64"))


@defect("is off by one, and keeps the smallest weight", "smallest")
class SparesSmallest(Sound):
    def order(self, values, arrays):
        order = arrays.argsort(abs(values))
        return arrays.concatenate([order[1:], order[:1]])


class BySign(Sound):
    """Prunes the fraction of each sign that is closest to zero, as SET does."""

    declares: ClassVar = Declares(smallest_first="sign", shares="survivors", grown_value=0.5)

    def order(self, values, arrays):
        groups = [arrays.nonzero(group) for group in self.groups(values)]
        ordered = [arrays.take(slots, arrays.argsort(abs(arrays.take(values, slots)))) for slots in groups]
        return arrays.concatenate([slots[: int(self.fraction * len(slots))] for slots in ordered])


@defect("ranks positive and negative weights, and never prunes exact zeros", "zeros")
class ImmuneZeros(BySign):
    def groups(self, values):
        return values > 0, values < 0


@defect("ranks exact zeros among the positive weights, and prunes negative ones before them", "zeros")
class PositiveZeros(BySign):
    def groups(self, values):
        return values >= 0, values < 0


@defect("ranks exact zeros as a group of their own, and prunes the same fraction of it", "zeros")
class ZerosApart(BySign):
    def groups(self, values):
        return values == 0, values > 0, values < 0


@defect("treats exact zeros as inactive, and ranks them last", "zeros")
class ZerosLast(Sound):
    def order(self, values, arrays):
        return arrays.argsort(abs(values) + (values == 0) * 1e30)


@defect("forgets the tensor's offset, and prunes another tensor", "smallest")
class ForgetsOffset(Sound):
    @hookimpl
    def prune(self, topology, values):
        name = topology.layout.names[-1]
        part = values[topology.slots(name)]
        return topology.all_but(self.order(part, topology.arrays)[: int(self.fraction * len(part))])


@defect("returns slots instead of a mask", "prune")
class Slots(Sound):
    @hookimpl
    def prune(self, topology, values):
        return self.order(values, topology.arrays)[: int(self.fraction * topology.size)]


@defect("returns a mask of the dense tensors", "prune")
class DenseMask(Sound):
    @hookimpl
    def prune(self, topology):
        masks = [topology.mask(name).ravel() for name in topology.layout.names]
        return topology.arrays.from_numpy(np.concatenate(masks))


@defect("fails for a tensor with a single weight", "no-errors")
class Single(Sound):
    @hookimpl
    def prune(self, topology, values):
        for name in topology.layout.names:
            self.order(values[topology.slots(name)], topology.arrays)[1]
        return topology.all()


@defect("anneals the pruned fraction to an end of the run that may not be known", "no-errors")
class Annealed(Sound):
    @hookimpl
    def prune(self, topology, values, clock):
        rest = max(0.0, 1 - clock.step / clock.total_steps)
        return Sound.prune(attrs.evolve(self, fraction=self.fraction * rest), topology, values)


@defect("prunes the largest from its fourth update on", "smallest")
class LargestLater(Sound):
    @hookimpl
    def prune(self, topology, values, strategy_state):
        return Sound.prune(self, topology, values if strategy_state.updates < 3 else 9 - abs(values))


# allocation


@defect("is off by one: the first tensor gets a weight of the last one's share", "proportional")
class OffByOne(Sound):
    @hookimpl
    def allocate(self, total, survivors, room):
        counts = shares(total, survivors, room).copy()
        if counts[-1] > 0 and counts[0] < room[0] and len(counts) > 1:
            counts[0] += 1
            counts[-1] -= 1
        return counts


@defect("rounds each share independently", "shares")
class Rounded(Sound):
    @hookimpl
    def allocate(self, total, survivors, room):
        return np.minimum(np.round(total * survivors / survivors.sum()).astype(np.int64), room)


@defect("allocates without regard to the room", "shares")
class NoRoom(Sound):
    @hookimpl
    def allocate(self, total, survivors):
        return shares(total, survivors, np.full(len(survivors), total))


@defect("returns counts as floats", "shares")
class Floats(Sound):
    @hookimpl
    def allocate(self, total, survivors, room):
        return shares(total, survivors, room) * 1.0


@defect("allocates by room instead of by survivors", "proportional")
class ByRoom(Sound):
    @hookimpl
    def allocate(self, total, room):
        return shares(total, room, room)


@defect("allocates as if each tensor had one free position fewer", "no-errors")
class RoomLessOne(Sound):
    @hookimpl
    def allocate(self, total, survivors, room):
        return shares(total, survivors, np.maximum(room - 1, 0))


@defect("allocates in proportion to numbers that may be negative", "no-errors")
class NegativeShares(Sound):
    @hookimpl
    def allocate(self, total, pruned, room):
        return shares(total, pruned - 1, room)


# growth


@defect("grows with replacement", "growth")
class WithReplacement(Sound):
    def ranks(self, occupied, counts, random):
        draws = [random.generator("growth", name) for name in occupied.layout.names]
        return [
            np.sort(draw.integers(0, room, count) if count else np.empty(0, np.int64))
            for draw, room, count in zip(draws, occupied.room, counts, strict=True)
        ]


@defect("grows each free position with the right probability (Bernoulli)", "growth")
class Bernoulli(Sound):
    def ranks(self, occupied, counts, random):
        draws = [random.generator("growth", name) for name in occupied.layout.names]
        return [
            np.flatnonzero(draw.random(room) < count / max(room, 1))
            for draw, room, count in zip(draws, occupied.room, counts, strict=True)
        ]


@defect("grows into what was just pruned", "growth")
class IntoPruned(Sound):
    box: Any = attrs.field(factory=Box, init=False)

    @hookimpl
    def prune(self, topology, values):
        self.box.content = Sound.prune(self, topology, values)
        return self.box.content

    @hookimpl
    def grow(self, occupied, counts, random):
        survivors = occupied.subset(self.box.content)
        return free_positions(survivors, self.ranks(survivors, counts, random))


@defect("grows in the order of the draw", "growth")
class Unsorted(Sound):
    @hookimpl
    def grow(self, occupied, counts, random):
        grown = free_positions(occupied, self.ranks(occupied, counts, random))
        return occupied.arrays.concatenate([grown[1:], grown[:1]])


@defect("is off by one, and grows beside the free position", "growth")
class Beside(Sound):
    @hookimpl
    def grow(self, occupied, counts, random):
        return free_positions(occupied, self.ranks(occupied, counts, random)) + 1


@defect("forgets the tensor's offset, and grows in the first tensor", "growth")
class InTheFirst(Sound):
    @hookimpl
    def grow(self, occupied, counts, random):
        total = min(int(counts.sum()), int(occupied.room[0]))
        counts = np.array([total] + [0] * (len(counts) - 1))
        return free_positions(occupied, self.ranks(occupied, counts, random))


@defect("returns positions as int64", "growth")
class Wide(Sound):
    @hookimpl
    def grow(self, occupied, counts, random):
        return occupied.arrays.cast(free_positions(occupied, self.ranks(occupied, counts, random)), "int64")


@defect("returns positions as int32", "vast")
class Narrow(Sound):
    @hookimpl
    def grow(self, occupied, counts, random):
        positions = free_positions(occupied, self.ranks(occupied, counts, random))
        return occupied.arrays.cast(positions, "int32")


@defect("computes positions in 32 bits, and returns them in the right dtype", "growth")
class NarrowOnTheWay(Sound):
    @hookimpl
    def grow(self, occupied, counts, random):
        positions = free_positions(occupied, self.ranks(occupied, counts, random))
        return occupied.arrays.cast(occupied.arrays.cast(positions, "int32"), occupied.layout.position_dtype)


@defect("grows a half at the lowest free positions and a half at random, and the two may overlap", "growth")
class Overlapping(Sound):
    def ranks(self, occupied, counts, random):
        draws = [random.generator("growth", name) for name in occupied.layout.names]
        return [
            np.sort(np.concatenate([np.arange(count // 2), draw.choice(room, count - count // 2, replace=False)]))
            for draw, room, count in zip(draws, occupied.room, counts, strict=True)
        ]


# values


@defect("gives grown weights the value with the wrong sign", "grown")
class WrongSign(Sound):
    @hookimpl
    def initial_values(self, grown, values):
        return grown.arrays.zeros_like(values, grown.size) - 0.5


@defect("gives grown weights the mean of the positive weights, of which there may be none", "values")
class MeanOfNothing(Sound):
    @hookimpl
    def initial_values(self, grown, values):
        positive = values[values > 0]
        mean = sum(positive.tolist()) / len(positive) if len(positive) else float("nan")
        return grown.arrays.zeros_like(values, grown.size) + mean


@defect("gives grown weights another dtype", "values")
class OtherDtype(Sound):
    @hookimpl
    def initial_values(self, grown, values):
        other = {"float32": "float64", "float64": "float32"}[str(values.dtype)]
        return grown.arrays.cast(grown.arrays.zeros_like(values, grown.size) + 0.5, other)


@defect("gives grown weights a momentum that is not finite", "values")
class InfiniteMomentum(Sound):
    @hookimpl
    def initial_momentum(self, grown, values):
        return grown.arrays.zeros_like(values, grown.size) + np.inf


# weights that grow again


@defect("says for each tensor, not for each weight, whether what grows again keeps its value", "regrown")
class KeepsTensors(Sound):
    @hookimpl
    def keep_regrown(self, topology):
        return topology.all()[: len(topology.layout)]


@defect("returns the positions that keep their value if they grow again, and not one bool a weight", "regrown")
class KeepsPositions(Sound):
    @hookimpl
    def keep_regrown(self, topology):
        return topology.positions


# the forward view


@defect("makes all weights of each tensor silent", "view")
class NothingVisible(Sound):
    @hookimpl
    def forward_view(self, topology):
        return ~topology.all()


@defect("returns the positions of the visible weights, and not one bool a weight", "view")
class VisiblePositions(Sound):
    @hookimpl
    def forward_view(self, topology):
        return topology.positions


@defect("lets the network start with half of the weights that the sparsity asks for", "start")
class HalfVisible(Sound):
    @hookimpl
    def forward_view(self, topology):
        first_of_each = [slots.start for slots in map(topology.slots, topology.layout.names)]
        visible = np.arange(topology.size) % 2 == 1
        visible[first_of_each] = True
        return visible


# candidates


@defect("names candidates that are active", "candidates")
class ActiveCandidates(Guided):
    @hookimpl
    def candidates(self, topology):
        return topology.positions


@defect("names the same candidate twice", "candidates")
class RepeatedCandidates(Guided):
    @hookimpl
    def candidates(self, topology, random):
        draws = [
            np.sort(random.generator(name).integers(0, room, min(count, room))) if room else np.empty(0, np.int64)
            for name, room, count in zip(topology.layout.names, topology.room, topology.counts, strict=True)
        ]
        return free_positions(topology, draws)


@defect("grows at the first free positions instead of candidates", "candidates")
class GrowsElsewhere(Guided):
    @hookimpl
    def grow(self, occupied, counts):
        return free_positions(occupied, [np.arange(count) for count in counts])
