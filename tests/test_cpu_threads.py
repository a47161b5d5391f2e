"""How many threads compute changes no bit, nor does who else computes at the same time."""

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import DTypeLike, NDArray

pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import Outcome, drawn, in_kernels, on, output_of, weight_of
from test_numpy_learner import Residual, assert_equal_states, batches, images_of, reallocation_of, task_of

from sparsecore_cpu import CpuBackend, runtime
from sparsecore_cpu.runtime import KERNELS, kernel_names

FloatArray = NDArray[np.float32]
COUNTS = (1, 2, 5)
with_kernels = pytest.mark.parametrize("name", kernel_names())


def block(ops: Any, x: Any, w: list[Any]) -> Any:
    """Every kernel at least once."""
    y = ops.relu(ops.batch_norm(x, *w[2:6]))
    y = ops.add(ops.conv2d(y, w[0], padding=1), ops.relu(x))
    y = ops.relu(ops.batch_norm(ops.conv2d(y, w[1], stride=2, padding=1), *w[6:10]))
    return ops.linear(ops.add(ops.global_average_pool(y), ops.global_average_pool(ops.add(y, y))), w[10], w[11])


def weights(seed: int, channels: int, outputs: int) -> list[Any]:
    def sparse(*shape: int) -> Any:
        return weight_of(drawn(seed, *shape), np.arange(0, int(np.prod(shape)), 3))

    def norm(size: int) -> list[Any]:
        return [weight_of(drawn(1, size)), weight_of(drawn(2, size)), np.zeros(size, "f4"), np.ones(size, "f4")]

    kernels = [sparse(channels, channels, 3, 3), sparse(outputs, channels, 3, 3)]
    return [*kernels, *norm(channels), *norm(outputs), sparse(7, outputs), weight_of(drawn(3, 7))]


def computed(
    name: str,
    threads: int,
    batch: int,
    side: int,
    channels: int = 6,
    outputs: int = 20,
    activations: DTypeLike = np.float32,
) -> Outcome:
    x, w = drawn(batch, batch, side, side + 2, channels), weights(side, channels, outputs)
    x = runtime.read(runtime.rounded(x))
    return in_kernels(on(name, threads, activations), block, x, w, drawn(4, *output_of(block, x, w).shape))


def assert_equal(one: Outcome, other: Outcome) -> None:
    for given_, expected in zip(one.arrays, other.arrays, strict=True):
        np.testing.assert_array_equal(given_, expected)


@with_kernels
@settings(max_examples=8)
@given(batch=st.integers(2, 70), side=st.integers(1, 20))
def test_any_number_of_threads_gives_the_same_bits(name: str, batch: int, side: int) -> None:
    one, *others = (computed(name, threads, batch, side) for threads in COUNTS)
    for other in others:
        assert_equal(other, one)


@with_kernels
def test_training_with_any_number_of_threads_gives_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS, name)
    states = []
    for threads in COUNTS:
        task = task_of("float32", model=Residual(), images=images_of(side=9))
        learner = CpuBackend(threads).learner(task)
        for batch in batches(2, size=33):
            learner.train(batch, 0.1)
        learner.reallocate(reallocation_of(task, learner.values))
        for batch in batches(2, size=30):
            learner.train(batch, 0.1)
        states.append(learner.state())
    for state in states[1:]:
        assert_equal_states(state, states[0])


def test_python_threads_compute_at_once_and_each_gets_its_own_result() -> None:
    sizes = [(batch, side) for batch in (5, 33) for side in (3, 8)]
    alone = [computed("", 1, *size) for size in sizes]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            together = list(threads.map(lambda size: computed("", 3, *size), sizes))
            for one, other in zip(together, alone, strict=True):
                assert_equal(one, other)


def digest() -> str:
    """Of a computation with several threads."""
    made = computed("", 2, 17, 4)
    return hashlib.sha256(b"".join(array.tobytes() for array in made.arrays)).hexdigest()


FORKING = """
import os, signal, threading
import test_cpu_threads as t

signal.alarm(300)
before = t.digest()
busy = threading.Thread(target=lambda: [t.digest() for _ in range(3)])
busy.start()
children = []
for _ in range(2):
    read, write = os.pipe()
    if os.fork() == 0:
        signal.alarm(200)  # rather than waiting for ever for a thread that there is not
        os.write(write, t.digest().encode())
        os._exit(0)
    os.close(write)
    children.append(os.fdopen(read))
busy.join()
print([child.read() == before for child in children], t.digest() == before)
"""


@pytest.mark.integration
def test_a_child_forked_during_a_computation_can_compute() -> None:
    # from Python 3.12 on, a warning says that forks and threads do not go together
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=Path(__file__).parent,
    )
    assert done.stdout.strip() == "[True, True] True", done.stderr
