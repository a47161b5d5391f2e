"""What a sparse training has installed in its model and its optimizers, until it ends or another optimizer follows."""

from collections.abc import Callable
from typing import Any, final

from torch import Tensor

from sparsecore.engine.groups import GroupPlans, GroupStates
from sparsecore.engine.reallocation import Reallocation
from sparsecore_torch.arrays import as_tensor
from sparsecore_torch.sparse_training.checks import Freezing
from sparsecore_torch.sparse_training.gradient_perturbation import GradientPerturbation, perturb_gradient
from sparsecore_torch.sparse_training.input_meters import measured_layers
from sparsecore_torch.sparse_training.parts import TrainingParts
from sparsecore_torch.sparse_training.silent_weights import SilentWeights
from sparsecore_torch.sparse_training.steps import Steps
from sparsecore_torch.sparse_training.young_weights import YoungSteps


@final
class Installed:
    """The hooks of a training, each with what it keeps from step to step.

    Args:
        parts: of the training.
        state: the present one.
        marks: of young weights, (N,), int64 (:class:`YoungSteps`); None if no weight is young.
        plan: returns the plan of the next step.
        before: called before each step of an optimizer.
        after: called after each step of the training.

    Attributes:
        freezing: notices frozen tensors.
        young: corrects the steps of weights that have grown recently.
        steps: follows the optimizers.
        measured: the layers whose inputs are measured.
        silent: hides weights that the model does not compute with.

    Raises:
        InputError: a strategy asks for what this model or these optimizers do not give.
    """

    def __init__(
        self,
        parts: TrainingParts,
        state: GroupStates,
        marks: Tensor | None,
        *,
        plan: Callable[[], GroupPlans],
        before: Callable[[], None],
        after: Callable[[], None],
    ) -> None:
        def show_before() -> None:
            before()
            self.silent.show()

        def perturb(scale: Any) -> None:
            if plan().perturbs_gradient:
                perturb_gradient(parts.engines, plan().state, parts.storage, scale)

        self._parts = parts
        self.freezing = Freezing(parts.selection.sparse)
        self.young = YoungSteps(parts.young, parts.shares, parts.stored.stores, state.topology, marks)
        self.steps = Steps(
            parts.model,
            parts.shares,
            parts.stored.stores,
            self.young,
            is_replaced=lambda: plan().replaces_step,
            before=show_before,
            skipped=lambda: self.silent.look(plan().state),
            after=after,
        )
        self._perturbation = GradientPerturbation(parts.engines, parts.shares, perturb)
        self.measured = measured_layers(parts.selection.sparse, parts.engines, parts.routes)
        self.silent = SilentWeights(parts.model, parts.engines, parts.shares, parts.storage)
        self.silent.look(state)

    def end(self) -> None:
        """Remove all hooks."""
        self.steps.end()
        self._perturbation.end()
        self.measured.end()
        self.silent.end()

    def expect(self, plan: GroupPlans) -> None:
        """Prepare what the strategies need of the next step.

        Args:
            plan: of the step.
        """
        self._parts.storage.expect_gradient(
            dense=plan.wants_gradient,
            is_step_replaced=plan.replaces_step,
            active=plan.wants_weight_gradient,
            candidates=None if plan.wants_gradient else plan.candidates,
        )
        self.measured.expect(wanted=plan.wants_input_norms)

    def advance(self, plan: GroupPlans) -> tuple[GroupStates, Reallocation | None]:
        """Give the strategies what they need of a step that has been taken, and the storage what they decide.

        Args:
            plan: of the step.

        Returns:
            The state after the step, and the update where one was due.
        """
        parts, storage = self._parts, self._parts.storage
        values = storage.values()
        rates = [rate() for rate in parts.learning_rates]
        frozen = self.freezing.frozen()
        active = storage.active_gradient() if plan.wants_weight_gradient else None
        # dense gradients have those of candidates in them
        has_candidates = plan.candidates is not None and not plan.wants_gradient
        of_candidates = storage.candidate_gradient() if has_candidates else None
        norms = None
        if plan.wants_input_norms:
            self.measured.finish(values.device)
            norms = self.measured.norms
        advance = parts.ranks.together(
            lambda: parts.engines.advance(
                plan, values, rates, storage.gradient, frozen, active, of_candidates, storage.momentum, norms
            )
        )
        if advance.reallocation is not None:
            storage.reallocate(advance.reallocation)
            self.young.carry(advance.reallocation)
        elif advance.values is not values:
            storage.set_values(as_tensor(advance.values))
        return advance.state, advance.reallocation
