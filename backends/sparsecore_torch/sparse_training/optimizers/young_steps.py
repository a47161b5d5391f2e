"""Adam's steps of weights that have grown recently: which optimizers take such steps, and their correction."""

from collections.abc import Mapping
from functools import lru_cache, partial
from itertools import product
from typing import Any, Final

import attrs
import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsecore.engine.young_weights import YoungWeights
from sparsecore.learning.young_steps import maturity, step_tables, table_size
from sparsecore_torch.arrays import gather, put_entries
from sparsecore_torch.sparse_training.optimizers.copies import ProbeError, undisturbed
from sparsecore_torch.sparse_training.optimizers.probe import stand_in
from sparsecore_torch.sparse_training.optimizers.trial import DRIVES, MAKES, Run, Runner, TrialData
from sparsecore_torch.tensors import is_sharded

_KNOWN: Final = (torch.optim.Adam, torch.optim.AdamW)
"""Classes that need no trial; those derived from them do."""

_RATE = 0.01
"""The learning rate of a trial: that of a warm-up may be too small to move a weight."""


def takes_steps_of_adam(optimizer: Optimizer, group: int, like: Tensor) -> bool:
    """Return whether an optimizer's step is that of Adam or AdamW, by its moments and its count of steps.

    w changes by −η · m / (1−β₁ᵗ) / (√s / √(1−β₂ᵗ) + ε), and at most by a decay in addition, where m, s and t are
    ``exp_avg``, ``exp_avg_sq`` and ``step`` of its state after the step. Other classes than torch's own are tried.

    Args:
        optimizer: the one that takes the step.
        group: the index of the param group whose options count.
        like: a parameter of that group; False for one that is sharded or complex.
    """
    options = optimizer.param_groups[group]
    if is_sharded(like) or like.is_complex() or options.get("lr") is None or not {"betas", "eps"} <= options.keys():
        return False
    if type(optimizer) in _KNOWN:
        return True
    shape = stand_in(tuple(like.shape))
    data = TrialData(shape, shape, like.dtype, like.device)
    with undisturbed(like.device):
        for make, drive in product(MAKES, DRIVES):
            try:
                return _is_of_adam(Runner(partial(make, optimizer, group), drive, _RATE).run(data), data)
            except ProbeError:
                continue
    return False


def _is_of_adam(run: Run, data: TrialData) -> bool:
    before = data.start[0]
    for weights, state, options in zip(run.weights, run.states, run.options, strict=True):
        second = state.get(_second_moment(options))
        if "step" not in state or not isinstance(state.get("exp_avg"), Tensor) or not isinstance(second, Tensor):
            return False
        first_beta, second_beta = _betas(options)
        count, rate = float(state["step"]), float(options["lr"])
        root = second.double().reshape(-1).sqrt() / (1 - second_beta**count) ** 0.5
        step = rate / (1 - first_beta**count) * state["exp_avg"].double().reshape(-1) / (root + float(options["eps"]))
        decay = rate * float(options.get("weight_decay") or 0.0) * before.double()
        moved, rounding = before.double() - weights.double(), 4 * torch.finfo(data.dtype).eps
        if not any(torch.allclose(moved, one, rtol=1e-3, atol=rounding * 4) for one in (step, step + decay)):
            return False
        before = weights
    return True


def _second_moment(options: Mapping[str, Any]) -> str:
    """Return the key of the second moment by whose root a step is divided."""
    return "max_exp_avg_sq" if options.get("amsgrad") else "exp_avg_sq"


@attrs.define(eq=False)
class YoungEntries:
    """The young weights of one Parameter of an optimizer, and the correction of their steps.

    The correction costs some operations on the young weights alone. The host waits for no device, except where weights
    cease to be young.

    Attributes:
        optimizer: takes the steps.
        group: the index of the Parameter's param group.
        parameter: the Parameter.
        young: what its young weights get.
        places: their row-major indices in the dense tensor, (Y,), int64.
        indices: their row-major indices in the Parameter, (Y,), int64.
        ages: the number of steps that each has taken since it grew, (Y,), int64.
        oldest: at least the largest of the ages.
        count_before: the Parameter's count of steps before the step under way.
    """

    optimizer: Optimizer
    group: int
    parameter: Tensor
    young: YoungWeights
    places: Tensor
    indices: Tensor
    ages: Tensor
    oldest: int
    count_before: float | Tensor = attrs.field(init=False, default=0.0)

    @classmethod
    def of_vector(cls, optimizer: Optimizer, parameter: Tensor, young: YoungWeights, marks: Tensor) -> "YoungEntries":
        """Return the young weights of a Parameter of all weights, in the first param group.

        Args:
            optimizer: takes the steps.
            parameter: (N,).
            young: what young weights get.
            marks: (N,), int64: one more than the number of steps since a weight grew, 0 where it is not young.
        """
        slots = marks.nonzero().view(-1)
        ages = marks[slots] - 1
        return cls(optimizer, 0, parameter, young, slots, slots, ages, int(ages.max()) if len(ages) else 0)

    def marks(self, size: int) -> Tensor:
        """Return the marks of :meth:`of_vector`.

        Args:
            size: N.
        """
        marks = self.ages.new_zeros(size)
        return marks.index_copy_(0, self.indices, self.ages + 1)

    @property
    def _state(self) -> Mapping[str, Any]:
        state: Mapping[str, Any] = self.optimizer.state.get(self.parameter, {})
        return state

    def _count(self) -> float | Tensor:
        count = self._state.get("step", 0.0)
        on_device = isinstance(count, Tensor) and count.device.type != "cpu"
        return count.double().clone() if on_device else float(count)

    def before_step(self) -> None:
        """Note the count of steps, from which it is seen whether the Parameter takes part in the next one."""
        self.count_before = self._count()

    @torch.no_grad()
    def correct(self) -> None:
        """Replace the step that the weights have taken by their own one, if the Parameter has taken one."""
        count = self._count()
        has_stepped = count != self.count_before
        if has_stepped is False or not len(self.indices):
            return
        self.ages += has_stepped
        # an optimizer that has just been made counts from the start
        self.ages.clamp_(max=count.long() if isinstance(count, Tensor) else int(count))
        self.oldest += 1
        change = self._change(count)
        if isinstance(has_stepped, Tensor):
            change = torch.where(has_stepped, change, torch.zeros_like(change))
        put_entries(self.parameter, self.indices, gather(self.parameter, self.indices).to(change.dtype) + change)
        self.drop_mature()

    def _change(self, count: float | Tensor) -> Tensor:
        """The step that was taken, with the opposite sign, and the weights' own one."""
        options, state = self.optimizer.param_groups[self.group], self._state
        dtype = torch.promote_types(self.parameter.dtype, torch.float32)
        first, second = (
            gather(state[key].detach(), self.indices).to(dtype) for key in ("exp_avg", _second_moment(options))
        )
        betas, size = _betas(options), table_size(self.oldest)
        rates, roots = _tables(self.young, betas, size, dtype, self.parameter.device)
        root, rate, epsilon = second.sqrt(), options["lr"], options["eps"]
        taken_rate, taken_root = 1 - betas[0] ** count, (1 - betas[1] ** count) ** 0.5
        own_rate, own_root = rates[self.ages], roots[self.ages]
        if not self.young.own_steps:
            own_rate, own_root = own_rate / taken_rate, own_root * taken_root
        own: Tensor = rate * own_rate * (first / (root / own_root + epsilon))
        taken: Tensor = rate / taken_rate * (first / (root / taken_root + epsilon))
        return taken - own

    def drop_mature(self) -> None:
        """Forget the weights that are no longer young, when the oldest may be one of them."""
        limit = maturity(self.young, _betas(self.optimizer.param_groups[self.group]))
        if self.oldest >= limit:
            kept = self.ages < limit
            self.places, self.indices, self.ages = self.places[kept], self.indices[kept], self.ages[kept]
            self.oldest = int(self.ages.max()) if len(self.ages) else 0


def _betas(options: Mapping[str, Any]) -> tuple[float, float]:
    first, second = options["betas"]
    return float(first), float(second)


@lru_cache(maxsize=8)
def _tables(
    young: YoungWeights, betas: tuple[float, float], size: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    tables = step_tables(young, betas, size)
    rates, roots = (torch.tensor(table, dtype=dtype, device=device) for table in (tables.rate, tables.root))
    return rates, roots
