"""Plausible defects of how a strategy starts, of when it updates, and of what it drops."""

from typing import Any, ClassVar

import attrs
import numpy as np
from sound_strategy import Calls, Sound, Traceable, defect

from sparsecore import hookimpl
from sparsecore.engine.declarations import Declares
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


# numbers that are declared to follow from numbers


@defect("prunes what is below half of the mean of its tensor, however many that are", "fixed-counts")
class BelowMean(Traceable):
    @hookimpl
    def prune(self, topology, values):
        arrays, magnitudes = topology.arrays, abs(values)
        halves = [
            np.full(last - first, float(np.mean(magnitudes[first:last])) / 2, values.dtype)
            for first, last in zip(topology.bounds[:-1], topology.bounds[1:], strict=True)
        ]
        return magnitudes >= arrays.from_numpy(np.concatenate(halves))


@defect("prunes the smallest of each tensor, and says that so many of each sign go", "fixed-counts")
class TensorForSign(Traceable):
    declares: ClassVar = Declares(smallest_first="sign", pruned_counts="fixed")
