"""When: how far a run has come."""

import attrs


@attrs.frozen
class Clock:
    """The time that schedules are functions of.

    Attributes:
        step: optimizer steps that are finished.
        steps_per_epoch: steps an epoch.
        total_steps: steps of the whole run; None where the end is not known.
        updates: reallocations that are finished.
    """

    step: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    steps_per_epoch: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    total_steps: int | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(1)))
    updates: int = 0

    @property
    def epoch(self) -> int:
        """The epoch that the next step belongs to, counted from 0."""
        return self.step // self.steps_per_epoch

    @property
    def has_ended(self) -> bool:
        """Whether no step follows."""
        return self.total_steps is not None and self.step >= self.total_steps

    def tick(self) -> "Clock":
        """One optimizer step later."""
        return attrs.evolve(self, step=self.step + 1)

    def updated(self) -> "Clock":
        """One reallocation later."""
        return attrs.evolve(self, updates=self.updates + 1)
