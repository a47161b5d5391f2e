"""What strategies do at one optimizer step: the plan before it, and the result after it."""

import attrs

from sparsecore.engine.arrays import Array
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.state import State
from sparsecore.engine.topology import Topology


@attrs.frozen(eq=False)
class StepPlan:
    """What strategies do at the next optimizer step, which is asked of them once, before it.

    Attributes:
        state: the state before the step.
        next_state: the state after the step where nothing but the clock changes.
        update_due: whether weights are reallocated after the step.
        wants_gradient: whether a strategy needs the dense gradients of this step.
        wants_weight_gradient: whether a strategy needs the gradients of the active weights of this step.
        wants_input_norms: whether a strategy needs the norms of the layers' inputs in this step.
        replaces_step: whether the update replaces the optimizer's step, which is then to be left out.
        candidates: inactive positions at which a strategy needs the gradients of this step; None where there are none.
        perturbs_gradient: whether a strategy changes the gradient of the active weights before the optimizer's step
            (:meth:`Engine.perturbed_gradient`).
        is_idle: whether nothing follows the step: ``next_state`` is then the state after it, and :meth:`Engine.advance`
            can be left out, so that the values need not be collected for it.
    """

    state: State
    next_state: State
    update_due: bool
    wants_gradient: bool
    wants_weight_gradient: bool
    wants_input_norms: bool
    replaces_step: bool
    candidates: Topology | None
    perturbs_gradient: bool
    is_idle: bool


@attrs.frozen(eq=False)
class Advance:
    """The result of :meth:`Engine.advance`.

    Attributes:
        state: the state after the step.
        values: the N values after it; the given array itself where nothing changed them.
        reallocation: the update; None where none was due.
    """

    state: State
    values: Array
    reallocation: Reallocation | None
