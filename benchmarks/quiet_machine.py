"""Times calls while no other program is busy (on Linux; elsewhere every sample is accepted)."""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

_MOST_FOREIGN = 0.08
"""The largest share of one core's time that other programs may use during a sample."""


def add_options(parser: argparse.ArgumentParser, rounds: int) -> None:
    """``--rounds``, ``--patience`` and ``--busy``, which :func:`in_turn` takes."""
    parser.add_argument("--rounds", type=int, default=rounds, help=f"samples of each (default: {rounds})")
    parser.add_argument("--patience", type=float, default=120, help="seconds to wait for other programs (default: 120)")
    parser.add_argument("--busy", action="store_true", help="take samples that other programs disturbed, too")


def in_turn(
    actions: Mapping[str, Callable[[], object]], options: argparse.Namespace, warm_up: int = 2
) -> dict[str, list[float]]:
    """Seconds of each action, taken in turn in this process.

    Args:
        actions: by name.
        options: of :func:`add_options`.
        warm_up: rounds that are not timed.
    """
    for _ in range(warm_up):
        for action in actions.values():
            action()
    return rounds({name: partial(clock(options), action) for name, action in actions.items()}, options)


def clock(options: argparse.Namespace) -> Callable[[Callable[[], object]], float | None]:
    """Return the function that takes a sample: `seconds`, or with ``--busy`` `disturbed_seconds`."""
    return disturbed_seconds if options.busy else seconds


def rounds(samplers: Mapping[str, Callable[[], float | None]], options: argparse.Namespace) -> dict[str, list[float]]:
    """Samples of each, in turn; a round in which one was disturbed (None) is left out as a whole."""
    taken: list[dict[str, float]] = []
    end = time.monotonic() + options.patience
    while len(taken) < options.rounds:
        sample = {name: sampler() for name, sampler in samplers.items()}
        whole = {name: second for name, second in sample.items() if second is not None}
        if len(whole) == len(sample):
            taken.append(whole)
        elif time.monotonic() > end:
            raise SystemExit(
                f"other programs were busy for {options.patience} seconds; {len(taken)} of {options.rounds} rounds "
                "were timed (--busy takes all)"
            )
    return {name: [sample[name] for sample in taken] for name in samplers}


def caveat(settings: Mapping[str, object]) -> str:
    """What a page has to say of options with which samples were taken that other programs disturbed."""
    return "**Taken while other programs were busy: not to be relied upon.** " if settings["busy"] else ""


def ratio(of: list[float], to: list[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return statistics.median(one / other for one, other in zip(of, to, strict=True))


def seconds(function: Callable[[], object]) -> float | None:
    """How long the call took; None if other programs kept a core busy meanwhile."""
    foreign = _foreign()
    taken = disturbed_seconds(function)
    return taken if _foreign() - foreign <= _MOST_FOREIGN * taken + 2 / _ticks() else None


def disturbed_seconds(function: Callable[[], object]) -> float:
    """How long the call took, whatever others did."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _foreign() -> float:
    """Seconds of processor time that other programs have had so far."""
    counters = Path("/proc/stat")
    if not counters.exists():
        return 0.0
    user, nice, system, _idle, _waiting, interrupts, soft, stolen, *_ = counters.read_text().split()[1:]
    busy = sum(map(int, (user, nice, system, interrupts, soft, stolen))) / _ticks()
    own = os.times()
    return busy - own.user - own.system


def _ticks() -> int:
    return os.sysconf("SC_CLK_TCK")
