"""Plausible defects of how many weights a strategy grows, where, and with which values; of views and candidates."""

from typing import Any

import attrs
import numpy as np
from sound_strategy import Box, Guided, Sound, Traceable, defect

from sparsecore import hookimpl
from sparsecore.engine.growth import free_positions, shares

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


# growth that is declared to be by gradients


@defect("grows where the gradient is largest, and not its absolute value", "gradient-first")
class SignedGradient(Traceable):
    def best(self, gradient, free, count):
        return np.sort(free[np.argsort(-gradient[free], kind="stable")[:count]])


@defect("grows at the last of equal gradients", "gradient-first")
class LastOfEqual(Traceable):
    def best(self, gradient, free, count):
        return np.sort(free[::-1][np.argsort(-abs(gradient[free][::-1]), kind="stable")[:count]])


@defect("grows at the gradients of the free positions before them", "gradient-first")
class ShiftedGradient(Traceable):
    def best(self, gradient, free, count):
        return super().best(np.roll(gradient, 1), free, count)
