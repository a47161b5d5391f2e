"""How ranks hear of one another: each puts its report into the store of the process group, rank 0 judges.

The store and no collective: who waits for a rank that never comes can say which one it is, and all others hear the
same sentence, while a collective that runs into its time limit breaks the connections of everybody.
"""

import time
from collections.abc import Callable, Sequence

import attrs
from torch.distributed.distributed_c10d import Store

from sparsecore_torch.distributed.agreement import (
    Matter,
    Report,
    Verdict,
    absence,
    dump,
    judge,
    load_report,
    load_verdict,
)

_PATIENCE_OF_THE_FAILED = 10.0
"""Seconds; others may wait for nothing but the one that has failed."""


class Exchange:
    """One rank's door to the others; every rank comes to it equally often."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._number = 0

    def settle(self, report: Report, matter: Matter, patience: float) -> Verdict:
        """Tell the others, and hear what comes of it; the number of seconds bounds how long a rank is waited for."""
        self._store.set(self._key(self._rank), dump(report))
        if report.failure is not None:
            patience = min(patience, _PATIENCE_OF_THE_FAILED)
        verdict = self._heard(report, matter, patience) if self._rank else self._judged(matter, patience)
        if self._number:
            # all have been here, so all have done with what was before
            self._delete(self._number - 1)
        self._number += 1
        return verdict

    def overheard(self) -> Verdict | None:
        """The verdict of an exchange that this rank has not come to, if there is one."""
        key = self._key("verdict")
        return load_verdict(self._store.get(key)) if self._store.check([key]) else None

    def _judged(self, matter: Matter, patience: float) -> Verdict:
        keys = [self._key(rank) for rank in range(self._size)]
        self._wait(keys, patience)
        reports = [load_report(self._store.get(key)) if self._store.check([key]) else None for key in keys]
        return self._said(judge(reports, matter, patience))

    def _heard(self, report: Report, matter: Matter, patience: float) -> Verdict:
        key = self._key("verdict")
        # rank 0 may come late, and then wait as long for somebody else
        if self._wait([key], 2 * patience):
            return load_verdict(self._store.get(key))
        reports = [None] * self._rank + [report]
        if report.failure is not None:
            return self._said(attrs.evolve(judge(reports, matter, patience), told_by=self._rank))
        present = next(rank for rank in range(self._size) if self._store.check([self._key(rank)]))
        return self._said(Verdict(absence([0], report.place, 2 * patience, matter), present))

    def _said(self, verdict: Verdict) -> Verdict:
        self._store.set(self._key("verdict"), dump(verdict))
        return verdict

    def _delete(self, number: int) -> None:
        self._store.delete_key(self._key(self._rank, number))
        if self._rank == 0:
            self._store.delete_key(self._key("verdict", number))

    def _wait(self, keys: Sequence[str], patience: float) -> bool:
        """Whether all of the keys came in time."""
        return _happens(lambda: self._store.check(list(keys)), patience)

    def _key(self, who: int | str, number: int | None = None) -> str:
        return f"{self._number if number is None else number}/{who}"


def _happens(event: Callable[[], bool], patience: float) -> bool:
    # looked at again and again, because the store's own way of waiting cannot be interrupted
    end, pause = time.monotonic() + patience, 2e-4
    while not event():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return True
