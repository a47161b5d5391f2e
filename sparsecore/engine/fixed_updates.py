"""Updates whose numbers of weights follow from numbers alone, so that a compiler can trace everything else of them.

The smallest weights of each tensor go, and what grows is drawn at random or has the largest gradients. How many go and
grow the strategies themselves say, asked with other weights of the same numbers and signs.
"""

from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Arrays, Counts
from sparsecore.engine.declarations import Declares
from sparsecore.engine.engine import Engine
from sparsecore.engine.gradients import StepGradients
from sparsecore.engine.growth import random_ranks
from sparsecore.engine.reallocation import RegrowPruned, without_emptied
from sparsecore.engine.schedules import Clock
from sparsecore.engine.state import State
from sparsecore.engine.topology import Layout, Topology
from sparsecore.engine.update import StrategySteps
from sparsecore.errors import InputError

_TRACED_HOOKS = frozenset(
    {
        "initial_topology",
        "initial_strategy_state",
        "start_values",
        "young_weights",
        "update_due",
        "replaces_step",
        "prune",
        "allocate",
        "grow",
        "keep_regrown",
        "metrics",
    }
)
"""The hooks that a strategy of traced updates may implement; others would have to run at each update."""


@attrs.frozen(eq=False)
class UpdateNumbers:
    """How many weights an update prunes and grows.

    Attributes:
        pruned: those that are zero, positive and negative, (T, 3). A tensor that would lose all keeps its largest.
        grown: of each tensor, (T,).
        room: the number of positions of each tensor at which weights may grow, (T,).
    """

    pruned: NDArray[np.int64]
    grown: Counts
    room: Counts


@attrs.frozen(eq=False)
class DueUpdates:
    """The steps after which updates are due.

    Attributes:
        steps: their numbers, ascending, int64.
        replaces: whether each update replaces the optimizer's step.
    """

    steps: NDArray[np.int64]
    replaces: NDArray[np.bool_]


@attrs.frozen(eq=False)
class FixedUpdates:
    """The updates of an engine, as far as they follow from numbers.

    Attributes:
        engine: whose strategies decide.
        by_sign: whether the smallest weights of each sign go first, zeros before them, and not those of the tensor.
        by_gradient: whether weights grow where the gradient is largest, and not at random.
    """

    engine: Engine
    by_sign: bool
    by_gradient: bool

    @classmethod
    def of(cls, engine: Engine) -> "FixedUpdates":
        """Return the updates of an engine.

        Raises:
            InputError: a strategy decides by more than numbers and the order of magnitudes; the sentence says which.
        """
        stack = engine.stack
        _check_hooks(engine)
        pruning = _declared(engine, "prune")
        if stack.implementers("prune") and not (
            pruning.pruned_counts == "fixed" and pruning.smallest_first in {"tensor", "sign"}
        ):
            raise InputError(_refusal(engine, "prune", "decides by the values how many weights of a tensor go"))
        growing = _declared(engine, "grow")
        if stack.implementers("grow") and growing.grows_first != "gradient":
            raise InputError(_refusal(engine, "grow", "chooses where weights grow in a way of its own"))
        return cls(engine, pruning.smallest_first == "sign", bool(stack.implementers("grow")))

    @property
    def regrow_pruned(self) -> RegrowPruned:
        """Whether what was just pruned may grow again in the same update."""
        return self.engine.regrow_pruned

    def due(self, state: State) -> DueUpdates:
        """Return the steps of the run after which updates are due.

        Args:
            state: before the first step of which is asked.

        Raises:
            InputError: the clock does not know the end of the run.
        """
        if state.clock.total_steps is None:
            raise InputError("updates can be traced if the number of steps of the run is known; give total_steps=")
        if state.topology.size == state.topology.layout.size:
            return DueUpdates(np.empty(0, np.int64), np.empty(0, np.bool_))
        steps, replaces, now = [], [], state
        while (step := self.engine.first_update(now)) is not None:
            before = attrs.evolve(now, clock=attrs.evolve(now.clock, step=step - 1))
            steps.append(step)
            replaces.append(self.engine.plan(before).replaces_step)
            now = attrs.evolve(now, clock=attrs.evolve(now.clock, step=step))
        return DueUpdates(np.array(steps, np.int64), np.array(replaces, np.bool_))

    def numbers(self, clock: Clock, signs: NDArray[np.integer]) -> UpdateNumbers:
        """Return how many weights an update prunes and grows.

        Args:
            clock: after the step that the update follows.
            signs: the numbers of weights that are zero, positive and negative, (T, 3).

        Raises:
            InputError: a strategy does not let all weights that grow again keep their values.
            InvariantError: a plugin broke a promise.
            NoRoomError: more was pruned than can grow.
        """
        topology, values = _with_signs(self.engine.layout, signs, self.engine.arrays)
        random = self.engine.random.child("update", clock.updates)
        frozen = np.zeros(len(topology.layout), np.bool_)
        keeps = self.regrow_pruned == "keep"
        state = State(topology, {}, clock)
        steps = StrategySteps(self.engine.stack, state, values, random, StepGradients(), frozen, keeps)
        survives = steps.prune(topology, values)
        _, survivors = without_emptied(topology, values, survives)
        occupied = survivors if self.regrow_pruned else topology
        grown = steps.allocate(topology.counts - survivors.counts, survivors.counts, occupied.room)
        arrays = topology.arrays
        if keeps and not arrays.to_numpy(steps.keep_regrown(topology, values)).all():
            raise InputError("a strategy chooses which weights keep their values when they grow again, by their values")
        ends = np.cumsum(np.concatenate([[0], signs.reshape(-1)]))
        lost = np.add.reduceat(np.append(~arrays.to_numpy(survives), False).astype(np.int64), ends[:-1])
        return UpdateNumbers(np.where(signs > 0, lost.reshape(-1, 3), 0), grown, occupied.room)

    def ranks(self, clock: Clock, numbers: UpdateNumbers) -> list[NDArray[np.int64]]:
        """Return the ranks among the free positions of each tensor at which weights grow at random, ascending.

        Args:
            clock: after the step that the update follows.
            numbers: of the update.
        """
        random = self.engine.random.child("update", clock.updates)
        return random_ranks(self.engine.layout.names, numbers.room, numbers.grown, random)


def _with_signs(layout: Layout, signs: NDArray[np.integer], arrays: Arrays) -> tuple[Topology, NDArray[np.float32]]:
    """Return some topology and values with these numbers of zero, positive and negative weights in each tensor."""
    counts = signs.sum(axis=1)
    positions = [np.arange(count) + offset for count, offset in zip(counts, layout.offsets, strict=False)]
    values = np.repeat(np.tile(np.array([0, 1, -1], np.float32), len(counts)), signs.reshape(-1))
    on_backend = arrays.from_numpy(np.concatenate(positions).astype(layout.position_dtype))
    return Topology.of(layout, on_backend, arrays), arrays.from_numpy(values)  # type: ignore[return-value]


def _declared(engine: Engine, hook: str) -> Declares:
    implementers = engine.stack.implementers(hook)
    declared = getattr(engine.strategies[implementers[0]], "declares", None) if implementers else None
    return declared if isinstance(declared, Declares) else Declares()


def _check_hooks(engine: Engine) -> None:
    if engine.unit_map.largest > 1:
        raise InputError(f"updates of units of several weights, {engine.units}, cannot be traced; there are 'weights'")
    for hook in engine.stack.hooks:
        if hook not in _TRACED_HOOKS and engine.stack.implementers(hook):
            raise InputError(_refusal(engine, hook, f"acts by its hook {hook!r}"))
    asking: Sequence[str] = [
        name
        for argument in ("gradient", "weight_gradient", "candidate_gradient", "input_norms")
        for name in engine.stack.plugins_requesting(argument, "prune", "allocate")
    ]
    if asking:
        raise InputError(_refusal(engine, "prune", "decides by gradients how many weights go or grow", asking[0]))
    if engine.stack.plugins_requesting("values", "allocate"):
        raise InputError(_refusal(engine, "allocate", "shares growth out by the values"))


def _refusal(engine: Engine, hook: str, why: str, name: str = "") -> str:
    implementer = name or engine.stack.implementers(hook)[0]
    return (
        f"updates of the strategy {implementer!r} cannot be traced inside jax.jit: it {why}. Those of 'set', 'rigl', "
        "'static' and of 'magnitude-drop' with or without 'gradient-growth' can; others move weights between jitted "
        "steps, by training.update()"
    )
