"""The processes of a torch process group, as ranks that agree."""

import atexit
import functools
import gc
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from sparsecore.engine import Advance
from sparsecore.errors import DisagreementError, InputError, SparsecoreError
from sparsecore.launch import launch
from sparsecore.ranks import Alone, Ranks
from sparsecore_torch.distributed.agreement import Matter, Report, Verdict
from sparsecore_torch.distributed.digests import digests
from sparsecore_torch.distributed.exchange import Exchange

Result = TypeVar("Result")

_AT_THE_START = timedelta(minutes=30)  # one may have data to download
_AT_AN_UPDATE = timedelta(minutes=1)  # they come from a reduction of gradients, all at the same time
_START = "all ranks must be given the same settings, plugins, data and run folder"
_UPDATE = "what a strategy does, and when, must depend only on what all ranks share"
_made = itertools.count()


class TorchRanks:
    """See :class:`sparsecore.ranks.Ranks`.

    Args:
        rank: this process.
        size: how many there are.
        store: theirs alone; asked for when they first have something to tell one another.
        patience: how long a rank waits for the others at an update.
    """

    def __init__(self, rank: int, size: int, store: Callable[[], Store], patience: timedelta = _AT_AN_UPDATE) -> None:
        self.rank, self.size = rank, size
        self._store, self._patience = store, patience

    def join(self) -> None:
        """Be in one process group with the others from now on."""
        _ = self._exchange  # made at its first use, which joins the group

    @functools.cached_property
    def _exchange(self) -> Exchange:
        return Exchange(self._store(), self.rank, self.size)

    def jointly(self, action: Callable[[], Result], facts: Callable[[Result], Mapping[str, str]]) -> Result:
        """What every rank does for itself before training."""
        with self._failing_together(_AT_THE_START):
            result = action()
            told = facts(result)
        matter = Matter([f"the {name}" for name in told], _START)
        self._settle(Report("the start", list(told.values())), matter, _AT_THE_START)
        return result

    def together(self, advance: Callable[[], Advance]) -> Advance:
        """What follows an optimizer step; where weights move, all must agree."""
        with self._failing_together(self._patience):
            result = advance()
        if result.reallocation is not None:
            after, clock = result.state.topology, result.state.clock
            positions, values = digests(after, result.values)
            names = after.layout.names
            subjects = [f"the {what} of {name!r}" for what in ("positions", "values") for name in names]
            report = Report(f"update {clock.updates} (step {clock.step})", positions + values)
            self._settle(report, Matter(subjects, _UPDATE), self._patience)
        return result

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """Communication of other kinds; where it breaks off because ranks have parted, say why they have."""
        try:
            yield
        except RuntimeError as error:
            verdict = self._overheard(error)
            if verdict is None or verdict.sentence is None:
                raise
            raise _error(verdict) from error

    @contextmanager
    def _failing_together(self, patience: timedelta) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            verdict = self._exchange.settle(Report.of_error(error), Matter((), ""), patience.total_seconds())
            if isinstance(error, SparsecoreError):
                error.told_by = verdict.told_by
            raise

    def _settle(self, report: Report, matter: Matter, patience: timedelta) -> None:
        verdict = self._exchange.settle(report, matter, patience.total_seconds())
        if verdict.sentence is not None:
            raise _error(verdict)

    def _overheard(self, error: RuntimeError) -> Verdict | None:
        try:
            return self._exchange.overheard()
        except dist.DistNetworkError:
            # the store has gone with the process that held it
            return Verdict(f"rank {self.rank} has lost its connection to the others: {error}", self.rank)


def present_ranks(patience: timedelta = _AT_AN_UPDATE) -> Ranks:
    """The ranks of the process group that the user's program has made; or this process alone."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return Alone()
    place = f"sparsecore/{next(_made)}"
    return TorchRanks(dist.get_rank(), dist.get_world_size(), lambda: _store(place), patience)


@functools.cache
def launched_ranks(device: torch.device) -> Ranks:
    """The ranks that a launcher such as torchrun has started, on devices of this kind; or this process alone."""
    process = launch()
    if process.size == 1:
        return Alone()
    return TorchRanks(process.rank, process.size, lambda: _joined(device))


def _joined(device: torch.device) -> Store:
    """The store of the process group of all launched processes, which this one leaves when it ends."""
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(_CHANNELS[device.type])
        atexit.register(_leave)
    return _store("sparsecore/run")


_CHANNELS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


def _store(place: str) -> Store:
    # torch has no public name for the store of the process group
    return PrefixStore(place, dist.distributed_c10d._get_default_store())


def _leave() -> None:
    # what still holds the group would keep its threads running, into the end of the interpreter
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()


def _error(verdict: Verdict) -> Exception:
    error = (InputError if verdict.refusal else DisagreementError)(verdict.sentence)
    error.told_by = verdict.told_by
    return error
