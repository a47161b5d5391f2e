"""The clock of a training that starts, and whether its strategies' schedules can be followed by it."""

import operator
from typing import SupportsIndex

from sparsecore.engine.groups import EngineGroups, GroupStates
from sparsecore.engine.schedules import Clock
from sparsecore.errors import InputError


def clock_of(total_steps: SupportsIndex | None, steps_per_epoch: SupportsIndex | None) -> Clock:
    """Return the clock before the first step.

    Args:
        total_steps: the number of optimizer steps of the whole run, where it is known.
        steps_per_epoch: the number of optimizer steps of an epoch, where it is known.

    Raises:
        InputError: one of them is no whole number of at least 1.
    """
    end, epoch = _steps("total_steps", total_steps), _steps("steps_per_epoch", steps_per_epoch)
    return Clock(steps_per_epoch=epoch or 1, total_steps=end)


def try_schedules(engines: EngineGroups, state: GroupStates) -> None:
    """Plan the first step, since the fields of a schedule may not show what it needs.

    Args:
        engines: of the training.
        state: before the first step.

    Raises:
        InputError: a schedule needs what the clock does not know.
    """
    try:
        engines.plan(state)
    except InputError as error:
        if state.clock.total_steps is None:
            error.add_note("the number of steps of the run is given to sparsify as total_steps=")
        raise


def _steps(name: str, given: SupportsIndex | None) -> int | None:
    if given is None:
        return None
    try:
        steps = 0 if isinstance(given, bool) else operator.index(given)
    except TypeError:
        steps = 0
    if steps < 1:
        raise InputError(f"{name} is a whole number of at least 1; given {given!r}")
    return steps
