"""Calls the CPU backend's kernels with hostile arguments: ``python tests/fuzz_kernels.py``.

Whatever the arguments, a call returns or raises ValueError, TypeError or MemoryError, and writes nowhere but into its
outputs. The calls are made in a process of their own, which a second one watches: where it crashes or hangs, the call
is named, and ``--only NUMBER`` repeats it. Equal seeds make equal calls. `make fuzz` does it under sanitizers.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from fuzz_calls import Call
from fuzz_cases import ENTRIES

from sparsecore_cpu import _kernels

REFUSALS = (ValueError, TypeError, MemoryError)


def make(seed: int, number: int, note: Callable[[str], None]) -> tuple[int, str]:
    """The calls of one number: how many they were, and how the last one ended."""
    call = Call(seed, number, note)
    entry, luck = call.random.choice(ENTRIES), call.random.random()
    ended = "returned"
    with _disturbed(call, luck):
        try:
            entry(call)
        except REFUSALS as refused:
            call.refused(refused)
            ended = type(refused).__name__
    call.check()
    return call.made, ended


class _disturbed:  # noqa: N801
    """While it lasts another thread writes to the arrays, or memory runs out, or the process forks; mostly nothing."""

    def __init__(self, call: Call, luck: float) -> None:
        self._call, self._luck, self._end = call, luck, threading.Event()
        self._thread = threading.Thread(target=self._change)

    def __enter__(self) -> None:
        if self._luck < 0.01:
            self._thread.start()
        elif self._luck < 0.03:
            _kernels._fail_scratch(self._call.random.randrange(10))

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._luck < 0.01:
            self._thread.join()
        elif self._luck < 0.03:
            _kernels._fail_scratch(-1)
        elif self._luck < 0.031:
            self._fork()

    def _change(self) -> None:
        while not self._end.is_set():
            for array in list(self._call.given):
                if isinstance(array, np.ndarray) and array.dtype.kind in "fiu" and array.flags.writeable:
                    array[...] = 77
            time.sleep(0)

    @staticmethod
    def _fork() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            child = os.fork()
        if not child:
            listed = np.zeros(200_000, np.float32)
            _kernels.gather(np.ones(1, np.float32), np.zeros(200_000, np.int32), listed, 3)
            os._exit(0 if np.all(listed == 1) else 1)
        assert os.waitpid(child, 0)[1] == 0, "a forked process could not compute"


def work(options: argparse.Namespace) -> None:
    """Make the calls, telling before each in the file ``options.status`` which it is."""
    ends = Counter[str]()
    with Path(options.status).open("w", buffering=1) as status:
        number, made = options.first, 0
        while made < options.calls:

            def note(text: str, number: int = number) -> None:
                status.seek(0)
                status.write(f"number {number}: {text[:2000]}\n")
                status.truncate()

            try:
                count, ended = make(options.seed, number, note)
            except BaseException:
                traceback.print_exc()
                sys.exit(3)
            made, number = made + max(1, count), number + 1
            ends[ended] += 1
    print(f"{made} calls: {', '.join(f'{count} x {name}' for name, count in ends.most_common())}")


def watch(command: Sequence[str], patience: float) -> int:
    """Run a worker; where it ends badly or makes no call for so many seconds, print its last one.

    Args:
        command: of the worker; the name of the file in which it tells what it does is added.
        patience: in seconds.

    Returns: 0 where it ended well.
    """
    with tempfile.TemporaryDirectory() as folder:
        status = Path(folder) / "status"
        process = subprocess.Popen([*command, str(status)])
        seen, since = "", time.monotonic()
        while process.poll() is None:
            time.sleep(0.05)
            now = status.read_text() if status.exists() else ""
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > patience:
                process.kill()
                process.wait()
                print(f"hangs: {seen}")
                return 2
        if process.returncode:
            last = status.read_text() if status.exists() else "nothing was called yet"
            print(f"ended with status {process.returncode}: {last}")
            return 1
    return 0


def main() -> int:
    """Watch over a worker, or be one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="repeat the calls of this number alone")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds that a call may take")
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--status", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.status:
        work(options)
        return 0
    first, calls = (0, options.calls) if options.only is None else (options.only, 1)
    worker = [sys.executable, __file__, "--seed", str(options.seed), "--first", str(first), "--calls", str(calls)]
    return watch([*worker, "--status"], options.patience)


if __name__ == "__main__":
    sys.exit(main())
