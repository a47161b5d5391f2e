"""Where luck is at stake and where it is not: strategies that draw nothing at a border of their hyperparameters."""

import attrs
import numpy as np
import pytest

from sparsecore import hookimpl
from sparsecore.engine.growth import free_positions, random_topology
from sparsecore.engine.hooks import Declares
from sparsecore.engine.randomness import Randomness
from sparsecore.testing import hyperparameters
from sparsecore.testing.judging import Outcome, judge
from sparsecore.testing.stacks import Subject
from sparsecore.testing.strategy_promises import STRATEGY_PROMISES


def promise(name):
    return next(promise for promise in STRATEGY_PROMISES if promise.name == name)


@attrs.frozen(eq=False)
class PartlyLucky:
    """Grow the fraction ``luck`` at random, the rest at the lowest free positions."""

    luck: float = attrs.field(default=0.5, validator=[attrs.validators.ge(0), attrs.validators.le(1)])

    @hookimpl
    def grow(self, occupied, counts, random):
        return free_positions(occupied, [self.ranks(*tensor, random) for tensor in self.tensors(occupied, counts)])

    def tensors(self, occupied, counts):
        return zip(occupied.layout.names, occupied.room, counts, strict=True)

    def ranks(self, name, room, count, random):
        lucky = int(self.luck * count)
        drawn = random.generator("luck", name).permutation(np.arange(count - lucky, room))[:lucky]
        return np.sort(np.concatenate([np.arange(count - lucky), drawn]))


@attrs.frozen(eq=False)
class BadlySeeded(PartlyLucky):
    """The luck is the same for every seed."""

    def ranks(self, name, room, count, random):  # noqa: ARG002
        return PartlyLucky.ranks(self, name, room, count, Randomness(0))


@pytest.mark.parametrize("luck", [0.0, 0.0156, 0.3, 1.0])
def test_growth_that_draws_nothing_with_these_hyperparameters_is_not_called_unseeded(luck):
    verdict = judge(promise("seeded"), Subject.of(PartlyLucky(luck)), examples=20)
    assert verdict.outcome is Outcome.KEPT, verdict.reason


@pytest.mark.parametrize("first_seed", range(3))
def test_all_hyperparameters_together_keep_the_promise(first_seed):
    verdict = judge(promise("seeded"), Subject.of(hyperparameters(PartlyLucky)), first_seed=first_seed)
    assert verdict.outcome is Outcome.KEPT, verdict.reason


@pytest.mark.parametrize("given", [BadlySeeded(), BadlySeeded(1.0), hyperparameters(BadlySeeded)])
def test_luck_that_is_the_same_for_every_seed_is_found_all_the_same(given):
    verdict = judge(promise("seeded"), Subject.of(given))
    assert verdict.outcome is Outcome.BROKEN
    assert "growth='fixed'" in verdict.reason


def test_growth_that_is_declared_to_be_fixed_is_not_asked_for_luck():
    subject = Subject.of(BadlySeeded(), declares=Declares(growth="fixed"))
    assert judge(promise("seeded"), subject, examples=20).outcome is Outcome.KEPT


@attrs.frozen(eq=False)
class LuckyStart:
    """Start at random positions, or, with no luck, at the first."""

    luck: bool = True

    @hookimpl
    def initial_topology(self, layout, sparsity, random, arrays):
        counts = [max(1, int(size * (1 - sparsity))) for size in layout.sizes]
        return random_topology(layout, counts, random if self.luck else Randomness(0), arrays)


def test_a_start_that_hyperparameters_leave_nothing_to_chance_is_not_called_unseeded():
    assert judge(promise("seeded-start"), Subject.of(LuckyStart(False))).outcome is Outcome.KEPT
    assert judge(promise("seeded-start"), Subject.of(hyperparameters(LuckyStart))).outcome is Outcome.KEPT
