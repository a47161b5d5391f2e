"""The number of weights that each tensor starts with, where a distribution is asked for by name."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import attrs
import numpy as np

from sparsecore.engine.distributions import DISTRIBUTIONS, SHARES, budget_at, equal_cost_shares, spent
from sparsecore.engine.engine import Engine
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError, unknown
from sparsecore.sparse_training.groups import Group
from sparsecore.sparse_training.start import DEFAULT_SPARSITY, is_drawn

FLOPS = "flops"
"""The name of the distribution that gives every tensor the same number of multiplications."""


@attrs.frozen(eq=False)
class CountRequest:
    """What a user has asked for.

    Attributes:
        distribution: the name of a distribution; None for that of the strategy.
        budget: the number of weights of all sparse tensors; None where the sparsity says it.
        example: inputs of the model for 'flops'; None where there are none.
    """

    distribution: str | None
    budget: int | None
    example: Any

    def check(self, sparsity: Any, start: object, scope: str) -> None:
        """Check what can be checked without a model.

        Args:
            sparsity: the argument of ``sparsify``.
            start: likewise.
            scope: likewise.

        Raises:
            InputError: there is no such distribution, or arguments contradict each other.
        """
        names = (*DISTRIBUTIONS, FLOPS)
        if self.distribution is not None and self.distribution not in names:
            raise InputError(unknown("start distribution", self.distribution, names))
        if self.budget is not None and sparsity is not None:
            raise InputError(
                f"budget={self.budget!r} and sparsity={sparsity!r} both say how many weights there are; give one"
            )
        if self.distribution == FLOPS and self.example is None:
            raise InputError("distribution='flops' runs the model once to count: give its inputs as example=")
        if self.distribution != FLOPS and self.example is not None:
            raise InputError("example= is for distribution='flops' alone, which runs the model on it")
        if self.is_given and not (is_drawn(start) and scope == "tensor"):
            raise InputError(
                "distribution= and budget= say how many weights each tensor starts with, which start= or scope= say "
                "already; leave these out"
            )

    @property
    def is_given(self) -> bool:
        """Whether anything has been asked for."""
        return self.distribution is not None or self.budget is not None


def with_budget(
    request: CountRequest, sparsities: Sequence[Group[float | None]], layout: Layout
) -> tuple[Group[float | None], ...]:
    """Return the groups of tensors with the sparsity that a budget means, which is of all tensors.

    Args:
        request: what was asked for.
        sparsities: the groups as they were given.
        layout: all sparse tensors.

    Raises:
        InputError: the budget is no number of weights that the tensors can have.
    """
    if request.budget is None:
        return tuple(sparsities)
    spent(request.budget, layout, layout.sizes)
    return tuple(attrs.evolve(one, setting=1.0 - request.budget / layout.size) for one in sparsities)


def start_counts(
    request: CountRequest,
    whole: Engine,
    engines: Sequence[Engine],
    sparsities: Sequence[Group[float | None]],
    uses: Callable[[], Mapping[str, Fraction]],
) -> Mapping[str, int] | None:
    """Return the number of units that each tensor starts with; None where the strategies say it.

    Args:
        request: what was asked for.
        whole: an engine for all tensors.
        engines: those of the strategies.
        sparsities: the groups of tensors with one sparsity each, among which a distribution shares weights out.
        uses: counts the multiplications per weight of each tensor.

    Raises:
        InputError: a strategy has a distribution of its own that it needs, or the budget does not fit.
    """
    if not request.is_given:
        return None
    for engine in engines:
        _check_free(request, engine)
    units = whole.unit_map.layout
    if request.budget is not None and whole.unit_map.largest > 1:
        raise InputError(f"budget= counts single weights, and these are moved in units {whole.units}; give sparsity=")
    costs = uses() if request.distribution == FLOPS else {}
    per_unit = {
        name: costs.get(name, Fraction(1)) * Fraction(size, count)
        for name, size, count in zip(units.names, whole.layout.sizes, units.sizes, strict=True)
    }
    counts: dict[str, int] = {}
    for group in sparsities:
        own = Layout.of({name: units.shapes[units.index(name)] for name in group.tensors})
        sparsity = DEFAULT_SPARSITY if group.setting is None else group.setting
        numbers = _counts(request, own, sparsity, [per_unit[name] for name in own.names])
        counts |= dict(zip(own.names, map(int, numbers), strict=True))
    return counts


def _counts(request: CountRequest, layout: Layout, sparsity: float, costs: Sequence[Fraction]) -> Any:
    name = "uniform" if request.distribution is None else request.distribution
    if request.budget is None and name in DISTRIBUTIONS:
        return DISTRIBUTIONS[name](layout, sparsity)
    wanted = equal_cost_shares(costs) if name == FLOPS else SHARES[name](layout)
    budget = budget_at(layout, sparsity) if request.budget is None else request.budget
    return spent(budget, layout, np.array(wanted, dtype=object))


def _check_free(request: CountRequest, engine: Engine) -> None:
    """Check that the strategies can start with any number of weights in each tensor."""
    given = f"distribution={request.distribution!r}" if request.budget is None else f"budget={request.budget!r}"
    if engine.becomes_sparser:
        raise InputError(
            f"{given} says how many weights each tensor starts with, and the strategy {_names(engine)} starts denser "
            "and prunes; its own options say how dense and how it distributes what is left"
        )
    for name, strategy in engine.strategies.items():
        if getattr(getattr(strategy, "declares", None), "start_multiples", None) is not None:
            raise InputError(f"the strategy {name} needs groups of equally many weights, so that {given} cannot be met")
    if request.distribution is None and engine.has_distribution:
        raise InputError(
            f"the strategy {_names(engine)} has a distribution of its own, which goes by sparsity=; say with "
            f"distribution= how {given} is shared out"
        )


def _names(engine: Engine) -> str:
    return " + ".join(engine.strategies)
