"""The lottery ticket (Frankle & Carbin 2018) as a sequence of runs: train, prune by magnitude, rewind, repeat.

Each round after the first is an ordinary experiment that starts from the run before it: with that run's weights without
the smallest over the whole network, and with the values that the remaining weights and all dense parameters had at the
start of round 0. If they are rewound to the end of an early epoch instead (Frankle et al. 2019), schedules and batches
also continue from that epoch. The optimizer starts afresh in every round.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from sparsecore.errors import InputError
from sparsecore.experiment.assembly import Tables
from sparsecore.experiment.conversion import structure
from sparsecore.experiment.experiment import Experiment
from sparsecore.formats import LOTTERY
from sparsecore.run.files import read_regular_toml
from sparsecore.run.folder import LOTTERY_FILE


def _check_fraction(_: object, __: object, fraction: float) -> None:
    if not 0 < fraction < 1:
        raise InputError(f"prune is the fraction of weights that each round prunes, in (0, 1); given {fraction}")


_at_least_1: Any = attrs.validators.ge(1)
_at_least_0: Any = attrs.validators.ge(0)


@attrs.frozen
class LotteryRun:
    """One run of a lottery.

    Attributes:
        name: name of its folder.
        round: number of prunings before it.
        tables: tables of its experiment.
        is_control: whether it trains a ticket from fresh values.
    """

    name: str
    round: int
    tables: Tables
    is_control: bool = False


@attrs.frozen
class Lottery:
    """The settings of a lottery, apart from the experiment of round 0.

    Attributes:
        rounds: number of pruning rounds.
        prune: fraction of the remaining weights that each round prunes.
        rewind: epoch of round 0 to whose end the remaining weights are rewound; 0 is its start.
        control: whether each ticket is also trained from fresh values.
    """

    rounds: int = attrs.field(default=10, validator=_at_least_1)
    prune: float = attrs.field(default=0.2, validator=_check_fraction)
    rewind: int = attrs.field(default=0, validator=_at_least_0)
    control: bool = False

    @property
    def sparsity(self) -> float:
        """The approximate sparsity of the last round."""
        return 1 - (1 - self.prune) ** self.rounds

    def runs(self, dense: Tables, folder: Path) -> Iterator[LotteryRun]:
        """Yield the runs in their order.

        Args:
            dense: tables of the experiment of round 0, without the epochs that it keeps for other rounds.
            folder: folder of the lottery, which has the folders of the runs.
        """
        yield LotteryRun("round-0", 0, self._first(dense))
        for number in range(1, self.rounds + 1):
            yield LotteryRun(f"round-{number}", number, self._ticket(dense, folder, number))
            if self.control:
                fresh = {"run": str(folder / f"round-{number}"), "values": "fresh"}
                yield LotteryRun(f"control-{number}", number, _from(dense, fresh), is_control=True)

    def check_rewind(self, dense: Experiment) -> None:
        """Check that round 0 has an epoch after the one to rewind to.

        Args:
            dense: the experiment of round 0.

        Raises:
            InputError: it ends with that epoch, or before it.
        """
        if self.rewind >= dense.training.epochs:
            raise InputError(
                "rewind is an epoch of round 0 before its last; "
                f"given rewind = {self.rewind} with {dense.training.epochs} epochs"
            )

    def _first(self, dense: Tables) -> Tables:
        kept = {*dense.get("keep", {}).get("epochs", ()), *([self.rewind] if self.rewind else ())}
        return {**dense, "keep": {"epochs": sorted(kept)}} if kept else dense

    def _ticket(self, dense: Tables, folder: Path, number: int) -> Tables:
        # the later rounds rewind to the start of the round before, which is where round 1 was rewound to
        returns = number == 1 and self.rewind
        values: Tables = {"values": "rewound", "epoch": self.rewind} if returns else {"values": "original"}
        return _from(dense, {"run": str(folder / f"round-{number - 1}"), **values, "prune": self.prune})


def _from(dense: Tables, start: Tables) -> Tables:
    """Return the experiment with another start, which determines the sparsity."""
    return {**{name: table for name, table in dense.items() if name != "sparsity"}, "start": start}


def read_lottery(folder: Path) -> Lottery:
    """Read the lottery in a folder.

    Args:
        folder: folder of the lottery.

    Raises:
        InputError: the folder has none, or its file is damaged.
    """
    try:
        return structure(LOTTERY.take(read_regular_toml(folder / LOTTERY_FILE), LOTTERY_FILE), Lottery, LOTTERY_FILE)
    except InputError as error:
        raise InputError(f"{folder} is the folder of no lottery: {LOTTERY_FILE} cannot be read ({error})") from error
