"""The calls of a prediction run on as many threads as took least time when they were measured."""

from collections.abc import Callable
from functools import partial

import attrs
import pytest

pytest.importorskip("sparsecore_cpu._kernels")

from sparsecore_cpu._kernels import in_series
from sparsecore_cpu.inference import calls
from sparsecore_cpu.inference.calls import CallList, MeasuredCalls

Milliseconds = Callable[[int], float]
"""Those that a call takes on so many threads."""


@attrs.define
class Recorder:
    """A clock that only calls advance, and what they were run on: (name, threads)."""

    now: float = 0.0
    run: list[tuple[str, int]] = attrs.field(factory=list)

    def call(self, name: str, milliseconds: Milliseconds, threads: int) -> None:
        self.now += 1e-3 * milliseconds(threads)
        self.run.append((name, threads))


def chosen(shared: dict[str, Milliseconds], threads: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The threads of each call in the second prediction; a last call is for one thread."""
    recorder, listed = Recorder(), CallList()
    monkeypatch.setattr(calls, "perf_counter", lambda: recorder.now)
    for name, milliseconds in shared.items():
        listed.append_threaded(partial(recorder.call, name, milliseconds))
    listed.append(partial(recorder.call, "alone", lambda _: 0.1, 1))
    measured = MeasuredCalls(listed, threads)
    measured.run()
    recorder.run.clear()
    measured.run()
    assert [name for name, _ in recorder.run] == [*shared, "alone"]
    return dict(recorder.run)


def test_each_call_runs_on_the_number_of_threads_that_was_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    shared: dict[str, Milliseconds] = {
        "divided": lambda threads: 1 / threads,
        "slower": lambda threads: 0.2 * threads,
        "best on four": lambda threads: 1 + abs(threads - 4),
    }
    assert chosen(shared, 6, monkeypatch) == {"divided": 6, "slower": 1, "best on four": 4, "alone": 1}


def test_all_run_on_one_thread_if_changes_of_their_number_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [1]

    def slowed_by_changes(own: Milliseconds, threads: int) -> float:
        changed, before[0] = threads != before[0], threads
        return own(threads) + 0.6 * changed

    divided = partial(slowed_by_changes, lambda threads: 1 / threads)
    slower = partial(slowed_by_changes, lambda threads: 0.5 * threads)
    assert chosen({"divided": divided, "slower": slower}, 2, monkeypatch) == {"divided": 1, "slower": 1, "alone": 1}


def test_a_choice_that_was_made_while_others_were_busy_is_mended_later(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, listed, busy = Recorder(), CallList(), [True]
    monkeypatch.setattr(calls, "perf_counter", lambda: recorder.now)
    listed.append_threaded(partial(recorder.call, "shared", lambda threads: threads if busy[0] else 1 / threads))
    measured = MeasuredCalls(listed, 2)
    measured.run()
    assert recorder.run[-1] == ("shared", 1)
    recorder.run.clear()
    busy[0] = False
    for _ in range(60):
        measured.run()
    assert recorder.run[-10:] == [("shared", 2)] * 10
    assert len(recorder.run) == 60


def test_calls_on_one_thread_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "perf_counter", None)
    run: list[int] = []
    listed = CallList()
    listed.append_threaded(run.append)
    MeasuredCalls(listed, 1).run()
    assert run == [1]


def test_an_error_within_a_series_is_raised() -> None:
    def fail() -> None:
        raise LookupError("of a call")

    for threads in (1, 2):
        with pytest.raises(LookupError, match="of a call"):
            in_series(threads, fail)
    with pytest.raises(ValueError, match="threads must be from 1"):
        in_series(0, fail)
