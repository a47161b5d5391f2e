"""Pools of trials: so many at a time, what is lost is a failure, and nothing starts once they are stopped."""

import threading

import attrs
import pytest

from sparsecore.errors import InputError
from sparsecore.study.pools import Job, JobLostError, PoolOptions, ThreadedPool, create_pool


@attrs.define(eq=False)
class Gate:
    """A job that is going on until it is let through, or ended."""

    status: int = 0
    opened: threading.Event = attrs.field(factory=threading.Event)

    def wait(self) -> int:
        assert self.opened.wait(60)
        return self.status

    def terminate(self) -> None:
        self.status = -15
        self.opened.set()


@pytest.fixture
def job(tmp_path):
    return Job("trial", ("true",), tmp_path / "trial.log")


def test_at_most_the_given_number_of_jobs_run_at_a_time_and_in_order(tmp_path):
    gates = {name: Gate() for name in "abc"}
    started, two_are_there = [], threading.Semaphore(0)

    def start(job):
        started.append(job.name)
        two_are_there.release()
        return gates[job.name]

    side_by_side = ThreadedPool(2, start)
    futures = [side_by_side.submit(Job(name, ("true",), tmp_path / name)) for name in gates]
    for _ in range(2):
        assert two_are_there.acquire(timeout=60)
    assert started == ["a", "b"]
    gates["b"].opened.set()
    assert two_are_there.acquire(timeout=60)
    assert started == ["a", "b", "c"]
    gates["a"].opened.set()
    gates["c"].opened.set()
    assert [future.result(60) for future in futures] == [0, 0, 0]


def test_stopping_ends_running_jobs_and_starts_no_more(job):
    is_started = threading.Event()
    started = []

    def start(_):
        started.append(Gate())
        is_started.set()
        return started[-1]

    side_by_side = ThreadedPool(1, start)
    running, waiting = side_by_side.submit(job), side_by_side.submit(job)
    assert is_started.wait(60)
    side_by_side.stop()
    assert running.result(60) == -15
    assert len(started) == 1
    assert waiting.cancelled() or waiting.result(60) == -1


def test_a_job_that_cannot_be_started_fails_and_its_log_says_why(job):
    def start(_):
        raise JobLostError("there is no partition of this name")

    assert ThreadedPool(1, start).submit(job).result(60) == -1
    assert job.log.read_text() == "there is no partition of this name\n"


def test_a_lost_job_fails_and_its_log_keeps_its_output(job):
    class Lost(Gate):
        def wait(self):
            raise JobLostError("the machine went away")

    job.log.write_text("epoch 1\n")
    assert ThreadedPool(1, lambda _: Lost()).submit(job).result(60) == -1
    assert job.log.read_text() == "epoch 1\nthe machine went away\n"


def test_a_job_killed_by_a_signal_fails_and_its_log_names_the_signal(job):
    job.log.write_text("epoch 1\n")
    assert (
        create_pool("local", PoolOptions(1)).submit(attrs.evolve(job, command=("sh", "-c", "kill -9 $$"))).result(60)
        == -9
    )
    assert "epoch 1\nsignal 9 ended this process;" in job.log.read_text()


def test_a_job_whose_log_cannot_be_written_fails(job):
    assert create_pool("local", PoolOptions(1)).submit(attrs.evolve(job, log=job.log / "not/there")).result(60) == -1


def test_fewer_than_one_job_at_a_time_is_refused():
    with pytest.raises(InputError, match="--jobs is at least 1; given 0"):
        PoolOptions(0)


def test_the_local_pool_refuses_options():
    with pytest.raises(InputError, match="the local pool has no options; given gpus"):
        create_pool("local", PoolOptions(options={"gpus": "1"}))
