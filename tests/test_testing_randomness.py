"""Strategies that draw nothing with some hyperparameters are not called unseeded."""

import attrs
import numpy as np
import pytest

from sparsecore import hookimpl
from sparsecore.engine.declarations import Declares
from sparsecore.engine.growth import free_positions, random_topology
from sparsecore.engine.randomness import Randomness
from sparsecore.testing import hyperparameters
from sparsecore.testing.search import Status, check_promise
from sparsecore.testing.strategy_promises import STRATEGY_PROMISES
from sparsecore.testing.subjects import StrategySubject


def promise(name):
    return next(promise for promise in STRATEGY_PROMISES if promise.name == name)


@attrs.frozen(eq=False)
class PartlyRandom:
    """Grows the fraction ``randomness`` at random, the rest at the lowest free positions."""

    randomness: float = attrs.field(default=0.5, validator=[attrs.validators.ge(0), attrs.validators.le(1)])

    @hookimpl
    def grow(self, occupied, counts, random):
        return free_positions(occupied, [self.ranks(*tensor, random) for tensor in self.tensors(occupied, counts)])

    def tensors(self, occupied, counts):
        return zip(occupied.layout.names, occupied.room, counts, strict=True)

    def ranks(self, name, room, count, random):
        drawn_count = int(self.randomness * count)
        drawn = random.generator("growth", name).permutation(np.arange(count - drawn_count, room))[:drawn_count]
        return np.sort(np.concatenate([np.arange(count - drawn_count), drawn]))


@attrs.frozen(eq=False)
class BadlySeeded(PartlyRandom):
    """Draws the same for every seed."""

    def ranks(self, name, room, count, random):  # noqa: ARG002
        return PartlyRandom.ranks(self, name, room, count, Randomness(0))


@pytest.mark.parametrize("randomness", [0.0, 0.0156, 0.3, 1.0])
def test_growth_that_draws_nothing_with_these_hyperparameters_is_not_called_unseeded(randomness):
    result = check_promise(promise("seeded"), StrategySubject.of(PartlyRandom(randomness)), examples=20)
    assert result.status is Status.KEPT, result.reason


@pytest.mark.parametrize("first_seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_all_hyperparameters_together_keep_the_promise(first_seed):
    result = check_promise(promise("seeded"), StrategySubject.of(hyperparameters(PartlyRandom)), first_seed=first_seed)
    assert result.status is Status.KEPT, result.reason


@pytest.mark.parametrize("given", [BadlySeeded(), BadlySeeded(1.0), hyperparameters(BadlySeeded)])
def test_growth_that_is_the_same_for_every_seed_is_found(given):
    result = check_promise(promise("seeded"), StrategySubject.of(given), shrink=False)
    assert result.status is Status.BROKEN
    assert "growth='fixed'" in result.reason


def test_growth_that_is_declared_to_be_fixed_is_not_checked_for_randomness():
    subject = StrategySubject.of(BadlySeeded(), declares=Declares(growth="fixed"))
    assert check_promise(promise("seeded"), subject, examples=20).status is Status.KEPT


@attrs.frozen(eq=False)
class MaybeRandomStart:
    """Starts at random positions, or, without randomness, at fixed ones."""

    randomness: bool = True

    @hookimpl
    def initial_topology(self, layout, sparsity, random, arrays):
        counts = [max(1, int(size * (1 - sparsity))) for size in layout.sizes]
        return random_topology(layout, counts, random if self.randomness else Randomness(0), arrays)


def test_a_start_that_draws_nothing_with_these_hyperparameters_is_not_called_unseeded():
    assert check_promise(promise("seeded-start"), StrategySubject.of(MaybeRandomStart(False))).status is Status.KEPT
    assert (
        check_promise(promise("seeded-start"), StrategySubject.of(hyperparameters(MaybeRandomStart))).status
        is Status.KEPT
    )
