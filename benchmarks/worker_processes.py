"""Processes of their own, for what must not share one: pools of threads, or memory that is counted."""

import argparse
import multiprocessing
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import quiet_machine
from machine import machine

WARM_UP = 2
"""Times that an action is carried out before it is timed."""

_PAUSE = 0.2
"""Seconds before each sample, in which the threads of the process before it go to sleep: many keep a core busy while
they wait for more work."""

Made = Callable[[], object]
Result = TypeVar("Result")


class Worker:
    """A process with an action, which it carries out when asked to; otherwise it waits.

    Args:
        make: makes the action there, given the options; a function of a module.
        options: of :func:`quiet_machine.add_options`, and whatever else ``make`` needs.
    """

    def __init__(self, make: Callable[[argparse.Namespace], Made], options: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, make, options), daemon=True)
        self._process.start()
        there.close()
        self._received()  # ready

    def sample(self) -> float | None:
        """Seconds of the action; None if other programs disturbed it."""
        self._connection.send("act")
        taken: float | None = self._received()
        return taken

    def end(self) -> dict[str, Any]:
        """End the process; the machine as it knows it."""
        self._connection.send("end")
        facts: dict[str, Any] = self._received()
        self._process.join()
        return facts

    def _received(self) -> Any:
        return _received(self._connection)


def in_turn(
    makers: Mapping[str, Callable[[argparse.Namespace], Made]], options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each action, taken in turn in processes of their own, and the machine as these know it.

    Args:
        makers: make the actions there, by name, as for :class:`Worker`.
        options: of :func:`quiet_machine.add_options`, and whatever else the makers need.
    """
    workers = {name: Worker(make, options) for name, make in makers.items()}
    seconds = quiet_machine.rounds({name: worker.sample for name, worker in workers.items()}, options)
    machines = [worker.end() for worker in workers.values()]
    return seconds, {name: value for facts in machines for name, value in facts.items()}


def alone(function: Callable[..., Result], *arguments: Any) -> Result:
    """The result of a function of a module, called in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_answer, args=(there, function, arguments))
    process.start()
    there.close()
    result: Result = _received(here)
    process.join()
    return result


def _received(connection: Connection) -> Any:
    try:
        return connection.recv()
    except EOFError:
        raise SystemExit("a process that measures did not come to its end; what it said of it is above") from None


def _answer(connection: Connection, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    connection.send(function(*arguments))


def _serve(connection: Connection, make: Callable[[argparse.Namespace], Made], options: argparse.Namespace) -> None:
    action, take = make(options), quiet_machine.clock(options)
    for _ in range(WARM_UP):
        action()
    connection.send("ready")
    with suppress(EOFError):  # the one who asks has given up
        while connection.recv() == "act":
            time.sleep(_PAUSE)
            connection.send(take(action))
        connection.send(machine())
