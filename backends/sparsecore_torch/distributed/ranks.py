"""Ranks in a torch process group, which check that they agree, and how launched processes form the group."""

import atexit
import functools
import gc
import itertools
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

import attrs
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, Store

from sparsecore.engine.arrays import Array
from sparsecore.engine.groups import AnyAdvance
from sparsecore.engine.schedules import Clock
from sparsecore.errors import DisagreementError, InputError, SparsecoreError
from sparsecore.learning.ranks import RANK_TIMEOUT, Launch, Ranks, SingleProcess, launch, rank_timeout
from sparsecore_torch._torch_internals.processes import default_store
from sparsecore_torch.arrays import as_tensor
from sparsecore_torch.distributed.agreement import Exchange, Matter, Report, Verdict, named, wait_for
from sparsecore_torch.distributed.digests import Pace, digests, fingerprint

Result = TypeVar("Result")
Values = Callable[[], Mapping[str, Array]]


@attrs.frozen
class Patience:
    """How long a rank waits for the others, in seconds.

    Attributes:
        start: before training, when a rank may have data to download.
        step: after a step, when all ranks have just reduced gradients together.
        saving: in the first checkpoint, for ranks that may not save at all.
    """

    start: float = 300.0
    step: float = 60.0
    saving: float = 1.0

    @classmethod
    def of_environment(cls) -> "Patience":
        """Read the environment variable SPARSECORE_RANK_TIMEOUT.

        Raises:
            InputError: its value is no number of seconds.
        """
        seconds = rank_timeout()
        return cls() if seconds is None else cls(start=seconds, step=seconds)


_START = "all ranks must be given the same settings, plugins, data and run folder"
_UPDATE = "what a strategy does, and when, must depend only on what all ranks share"
_VALUES = "all ranks must hold the same values after every step, as DistributedDataParallel makes them"
_DETECTION_TIME = 3.0
"""Seconds within which all ranks notice that the connections between them have broken."""
_stores = itertools.count()


class TorchRanks:
    """Ranks that agree through a store; implements :class:`sparsecore.learning.ranks.Ranks`.

    Args:
        rank: that of this process.
        size: the number of ranks.
        store: returns a store that these ranks alone use; called at their first exchange.
        patience: how long a rank waits for the others.
        form_group: brings this process into a process group with the others.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        store: Callable[[], Store],
        patience: Patience = Patience(),
        form_group: Callable[[], None] = lambda: None,
    ) -> None:
        self.rank, self.size = rank, size
        self._store, self._patience, self._form_group = store, patience, form_group
        self._pace = Pace()
        self._next_comparison = 0
        self._saved = -1, 0
        self._others_save = True

    def join(self) -> None:
        """Form the process group with the other ranks. Collective."""
        self._form_group()

    @functools.cached_property
    def _exchange(self) -> Exchange:
        return Exchange(self._store(), self.rank, self.size)

    def jointly(self, action: Callable[[], Result], facts: Callable[[Result], Mapping[str, str]]) -> Result:
        """Do something on every rank before training, and check that all ranks find the same facts. Collective.

        Args:
            action: done by each rank for itself.
            facts: from its result to the texts by name that must be equal on all ranks.

        Raises:
            DisagreementError: ranks differ, or another one has raised an error.
        """
        with self._failing_together(self._patience.start):
            result = action()
            found = facts(result)
        matter = Matter([f"the {name}" for name in found], _START)
        self._agree(Report("the start", list(found.values())), matter, self._patience.start)
        return result

    def text_of_rank_0(self, text: str) -> str:
        """Return the text of rank 0. Collective.

        Args:
            text: that of this rank; those of other ranks are not read.

        Raises:
            DisagreementError: rank 0 has ended, or has not sent its text in time.
        """
        return self._exchange.text_of_rank_0(text, self._patience.start)

    def together(self, advance: Callable[[], AnyAdvance]) -> AnyAdvance:
        """Advance the engine after an optimizer step; where weights move, check that all ranks agree. Collective.

        Args:
            advance: advances the engine.

        Raises:
            DisagreementError: ranks differ, or another one has raised an error.
        """
        with self._failing_together(self._patience.step):
            result = advance()
        if result.reallocation is not None:
            after, clock = result.state.topology, result.state.clock
            positions, values = digests(after, as_tensor(result.values))
            names = after.layout.names
            subjects = [f"the {what} of {name!r}" for what in ("positions", "values") for name in names]
            report = Report(f"update {clock.updates} (step {clock.step})", positions + values)
            self._agree(report, Matter(subjects, _UPDATE), self._patience.step)
        return result

    def compare(self, clock: Clock, values: Values) -> bool:
        """Compare fingerprints of all values, if a comparison is due. Collective.

        Args:
            clock: after the step.
            values: returns the tensors that must be equal, by a description.

        Returns:
            Whether a comparison was due.

        Raises:
            DisagreementError: ranks hold different values.
        """
        if clock.step < self._next_comparison and not clock.has_ended and not _ends_epoch(clock):
            return False
        pause = self._pace.pause(clock.step)
        with self._pace.spending():
            held, stage = _tensors(values()), f"the comparison after step {clock.step}"
            report = Report(stage, [fingerprint(held.values())])
            verdict = self._settle(report, Matter(["the values"], _VALUES), self._patience.step, pause)
        if verdict.marks_differ:
            # all ranks have received that verdict, and now compare each tensor
            each = Report(stage, [fingerprint([tensor]) for tensor in held.values()])
            self._agree(each, Matter(list(held), _VALUES), self._patience.step)
        _raise_if_disagreed(verdict)
        self._next_comparison = clock.step + verdict.pause
        return True

    def compare_saved(self, clock: Clock, values: Values) -> None:
        """Compare a fingerprint with those of other ranks that save at the same step. Not collective.

        Args:
            clock: of the step.
            values: returns the tensors that must be equal, by a description.

        Raises:
            DisagreementError: another rank saves different values.
        """
        last, times = self._saved
        self._saved = clock.step, times + 1 if last == clock.step else 0
        mark = str(fingerprint(_tensors(values()).values()))
        patience = self._patience.saving if self._others_save else 0.0
        marks = self._exchange.exchange_marks(f"saved/{clock.step}/{self._saved[1]}", mark, patience)
        # often rank 0 saves alone, and should wait in vain only once
        self._others_save = len(marks) == self.size
        differing = [rank for rank, other in marks.items() if other != mark]
        if differing:
            raise _error(
                Verdict(
                    f"the ranks save different values after step {clock.step}: {named(differing)} and rank {self.rank} "
                    f"differ; {_VALUES}",
                    min(marks),
                )
            )

    @contextmanager
    def communicating(self) -> Iterator[None]:
        """Enclose other communication, whose errors then say why it broke off.

        Raises:
            InputError: ranks have diverged by the user's mistake.
            DisagreementError: ranks have diverged otherwise, or some have ended or fallen silent.
            RuntimeError: it broke off for another reason; the error is that of torch.
        """
        try:
            yield
        except RuntimeError as error:
            verdict = self._exchange.pending_verdict()
            if verdict is not None and verdict.sentence is not None:
                raise _error(verdict) from error
            if not _is_of_connection(error):
                raise
            silent = self._exchange.silent(_DETECTION_TIME)
            if not silent:
                raise
            reported_by = next(rank for rank in range(self.size) if rank not in silent)
            reason = str(error).partition("\n")[0]
            raise _error(
                Verdict(
                    f"{named(silent)} no longer took part in this step, or ended; its output says why ({reason})",
                    reported_by,
                )
            ) from error

    @contextmanager
    def _failing_together(self, patience: float) -> Iterator[None]:
        try:
            with self.communicating():
                yield
        except DisagreementError:
            raise  # all other ranks have received it
        except Exception as error:
            with suppress(DisagreementError):  # the error of this rank says more
                verdict = self._exchange.settle(Report.of_error(error), Matter((), ""), patience)
                if isinstance(error, SparsecoreError):
                    error.reported_by = verdict.reported_by
            raise

    def _agree(self, report: Report, matter: Matter, patience: float) -> None:
        _raise_if_disagreed(self._settle(report, matter, patience))

    def _settle(self, report: Report, matter: Matter, patience: float, pause: int = 1) -> Verdict:
        return self._exchange.settle(report, matter, patience, pause)


def present_ranks(patience: Patience | None = None) -> Ranks:
    """Return the ranks of the process group that the user's program has made, or this process alone.

    Args:
        patience: how long a rank waits for the others; None reads the environment.

    Raises:
        InputError: SPARSECORE_RANK_TIMEOUT is no number of seconds.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return SingleProcess()
    prefix = f"sparsecore/{next(_stores)}"
    return TorchRanks(
        dist.get_rank(),
        dist.get_world_size(),
        lambda: PrefixStore(prefix, default_store()),
        patience or Patience.of_environment(),
    )


@functools.cache
def launched_ranks(device: torch.device) -> Ranks:
    """Return the ranks that a launcher such as torchrun has started, or this process alone.

    Args:
        device: that this process computes on.

    Raises:
        InputError: the environment describes impossible ranks, or no number of seconds to wait.
    """
    process = launch()
    if process.size == 1:
        return SingleProcess()
    rendezvous = Rendezvous(process, device, Patience.of_environment())
    return TorchRanks(process.rank, process.size, lambda: rendezvous.store, rendezvous.patience, rendezvous.form_group)


@attrs.frozen(eq=False, slots=False)
class Rendezvous:
    """How launched processes find one another.

    They meet in the store first: it can name ranks that are missing or have failed, while forming a process group only
    waits for them.

    Attributes:
        process: this process.
        device: that it computes on.
        patience: how long it waits for the others.
    """

    process: Launch
    device: torch.device
    patience: Patience

    @functools.cached_property
    def store(self) -> Store:
        """The store of these ranks alone, served by the launcher's agent or by rank 0.

        Raises:
            InputError: rank 0 cannot serve it.
            DisagreementError: it cannot be reached.
        """
        return PrefixStore("sparsecore/run", self._default_store)

    def form_group(self) -> None:
        """Form the process group of all launched processes, which this one leaves when it ends. Collective.

        Raises:
            RuntimeError: some did not come within :attr:`Patience.start`.
        """
        if dist.is_initialized():
            return
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        dist.init_process_group(
            _BACKENDS[self.device.type],
            store=PrefixStore("sparsecore/group", self._default_store),
            rank=self.process.rank,
            world_size=self.process.size,
            timeout=timedelta(seconds=self.patience.start),
        )
        atexit.register(_leave)

    @functools.cached_property
    def _default_store(self) -> Store:
        if dist.is_initialized():
            return default_store()
        host, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
        if not port.isascii() or not port.isdigit() or int(port) >= 2**16:
            raise InputError(f"the environment says MASTER_PORT={port}; expected the number of a port")
        serves = self.process.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        if not serves and not _is_served(host, int(port), self.patience.start):
            waited = f"{self.patience.start:g} s ({RANK_TIMEOUT} sets how long a rank waits)"
            sentence = f"rank 0 did not come to {host}:{port} in {waited}"
            raise _error(Verdict(sentence, self.process.rank))
        try:
            return TCPStore(
                host,
                int(port),
                self.process.size,
                is_master=serves,
                timeout=timedelta(seconds=self.patience.start),
                wait_for_workers=False,
                multi_tenant=True,
            )
        except dist.DistError as error:
            reason = str(error).partition("\n")[0]
            sentence = f"the ranks cannot meet at {host}:{port}, as MASTER_ADDR and MASTER_PORT say: {reason}"
            raise InputError(sentence) from error


def _is_served(host: str, port: int, patience: float) -> bool:
    """Wait until a store is served at an address, for so many seconds; torch's own way of waiting prints warnings."""

    def connects() -> bool:
        with suppress(OSError), socket.create_connection((host, port), timeout=patience):
            return True
        return False

    return wait_for(connects, patience)


_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


def _leave() -> None:
    # objects that hold the group would keep its threads running until the interpreter ends
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()


def _tensors(values: Mapping[str, Array]) -> dict[str, Tensor]:
    return {what: torch.as_tensor(each) for what, each in values.items()}


def _ends_epoch(clock: Clock) -> bool:
    # a clock without epochs has one step in each
    return clock.steps_per_epoch > 1 and clock.step % clock.steps_per_epoch == 0


def _is_of_connection(error: RuntimeError) -> bool:
    # gloo's errors have no class of their own
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def _raise_if_disagreed(verdict: Verdict) -> None:
    if verdict.sentence is not None:
        raise _error(verdict)


def _error(verdict: Verdict) -> SparsecoreError:
    error = (InputError if verdict.refusal else DisagreementError)(verdict.sentence)
    error.reported_by = verdict.reported_by
    return error
