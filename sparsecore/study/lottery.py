"""The lottery ticket (Frankle & Carbin 2018) as a row of runs: train, prune by magnitude, rewind, train again.

A later round is an ordinary experiment that starts from the run before it: on that run's weights without the smallest,
over the whole network, and with the values that the survivors and all dense parameters had at the start of round 0; or
at the end of an early epoch of it (Frankle et al. 2019), and then schedules and batches go on from that epoch, too.
The optimizer begins anew in every round.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from sparsecore.errors import InputError
from sparsecore.experiment.assembly import Tables
from sparsecore.experiment.experiment import Experiment
from sparsecore.run.folder import LOTTERY_FILE

FILE = LOTTERY_FILE
"""What a lottery's folder has beside its runs."""


def _check_share(_: object, __: object, share: float) -> None:
    if not 0 < share < 1:
        raise InputError(f"prune is the share of weights that each round takes away, in (0, 1); given {share}")


_at_least_1: Any = attrs.validators.ge(1)
_at_least_0: Any = attrs.validators.ge(0)


@attrs.frozen
class LotteryRun:
    """One run of a lottery.

    Attributes:
        name: of its folder.
        round: how many times weights have been taken away.
        tables: its experiment.
        is_control: whether it has fresh values.
    """

    name: str
    round: int
    tables: Tables
    is_control: bool = False


@attrs.frozen
class Lottery:
    """What a lottery is, beside the experiment of its first round.

    Attributes:
        rounds: how many times weights are taken away.
        prune: the share that a round takes away of the weights before it.
        rewind: the epoch of round 0 to whose end the survivors return; 0 is its start.
        control: whether each ticket is also trained from fresh values.
    """

    rounds: int = attrs.field(default=10, validator=_at_least_1)
    prune: float = attrs.field(default=0.2, validator=_check_share)
    rewind: int = attrs.field(default=0, validator=_at_least_0)
    control: bool = False

    @property
    def sparsity(self) -> float:
        """About where the last round ends."""
        return 1 - (1 - self.prune) ** self.rounds

    def runs(self, dense: Tables, folder: Path) -> Iterator[LotteryRun]:
        """The runs, in their order.

        Args:
            dense: the experiment of round 0, without what it keeps for others.
            folder: where the runs are, one below it each.
        """
        yield LotteryRun("round-0", 0, self._first(dense))
        for number in range(1, self.rounds + 1):
            yield LotteryRun(f"round-{number}", number, self._ticket(dense, folder, number))
            if self.control:
                fresh = {"run": str(folder / f"round-{number}"), "values": "fresh"}
                yield LotteryRun(f"control-{number}", number, _from(dense, fresh), is_control=True)

    def check_rewind(self, dense: Experiment) -> None:
        """Raise an :class:`InputError` if round 0 comes to its end before the epoch to return to."""
        if self.rewind >= dense.training.epochs:
            raise InputError(
                "a round returns to the end of an epoch that others follow; "
                f"given rewind = {self.rewind} with {dense.training.epochs} epochs"
            )

    def _first(self, dense: Tables) -> Tables:
        kept = {*dense.get("keep", {}).get("epochs", ()), *([self.rewind] if self.rewind else ())}
        return {**dense, "keep": {"epochs": sorted(kept)}} if kept else dense

    def _ticket(self, dense: Tables, folder: Path, number: int) -> Tables:
        # what round 1 starts with is what every later round's predecessor started with
        returns = number == 1 and self.rewind
        values: Tables = {"values": "rewound", "epoch": self.rewind} if returns else {"values": "original"}
        return _from(dense, {"run": str(folder / f"round-{number - 1}"), **values, "prune": self.prune})


def _from(dense: Tables, start: Tables) -> Tables:
    """The same experiment from another run, which has the sparsity."""
    return {**{name: table for name, table in dense.items() if name != "sparsity"}, "start": start}
