"""Beside torch, the kernels compute on torch's OpenMP threads; alone, and in forked processes, on their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sparsecore_cpu._kernels")

from sparsecore_cpu._kernels import use_openmp_of

TESTS = Path(__file__).parent
WITH_TORCH = "import torch; torch_file = torch._C.__file__"
integration = pytest.mark.integration
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the threads of a process are counted in /proc")


def printed(code: str, **environment: str) -> list[str]:
    """What a Python process of its own prints, in words. It ends by itself if its threads wait for ever."""
    command = [sys.executable, "-W", "ignore", "-c", f"import signal; signal.alarm(200)\n{code}"]
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def torch() -> None:
    pytest.importorskip("torch")


def test_a_library_that_is_not_loaded_or_computes_without_openmp_is_not_used() -> None:
    assert not use_openmp_of("/nowhere/libtorch_cpu.so")
    assert not use_openmp_of(os.devnull)
    assert not use_openmp_of(None)


LOADED = """
import re, sys
import numpy as np
from sparsecore_cpu import _kernels
import sparsecore_cpu.operations, sparsecore_cpu.inference
_kernels.gather(np.ones(1, "f4"), np.zeros(300_000, "i4"), np.zeros(300_000, "f4"), 3)
print("torch" in sys.modules, bool(re.search("lib(torch|gomp|omp|iomp)", open("/proc/self/maps").read())))
"""


@integration
@on_linux
def test_the_kernels_alone_load_neither_torch_nor_openmp() -> None:
    assert printed(LOADED) == ["False", "False"]


COUNTED = """
import os

def threads():
    return len(os.listdir("/proc/self/task"))

def compute_on_torch(count):
    torch.set_num_threads(count)
    torch.ones(2**22).exp()

def compute_on_kernels(count):
    _kernels.gather(np.ones(1, "f4"), np.zeros(2**20, "i4"), np.zeros(2**20, "f4"), count)

compute_on_torch(1)
none = threads()
compute_on_torch(5)
of_torch = threads()
compute_on_kernels(5)
for _ in range(20):  # fewer tasks than threads in between, which must not end threads either
    _kernels._parallel_for(2, 5, lambda _: None)
    compute_on_torch(5)
print(of_torch - none, threads() - of_torch)
"""
SKLEARN = """
import sklearn.metrics
sklearn.metrics.pairwise_distances_argmin(np.zeros((5000, 9)), np.zeros((500, 9)))
"""
USE = f"{WITH_TORCH}; assert _kernels.use_openmp_of(torch_file)"
KERNELS = "import numpy as np; from sparsecore_cpu import _kernels"
SPARSIFY = """
import numpy as np, torch
from kernel_examples import only
from sparsecore_cpu import _kernels
model, _ = only(torch.nn.Conv2d(3, 4, 3))
"""


@integration
@on_linux
@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize(
    "imports",
    [
        pytest.param(f"{WITH_TORCH}\n{KERNELS}\n{USE}", id="torch first", marks=pytest.mark.slow),
        pytest.param(f"{KERNELS}\n{USE}", id="torch last", marks=pytest.mark.slow),
        # the one with two OpenMP runtimes, of which the wrong one comes first
        pytest.param(f"{KERNELS}\n{SKLEARN}\n{USE}", id="scikit-learn and its OpenMP first"),
        pytest.param(f"{KERNELS}\n{USE}\n{SKLEARN}", id="scikit-learn and its OpenMP last", marks=pytest.mark.slow),
        pytest.param(SPARSIFY, id="by sparsify", marks=pytest.mark.slow),
    ],
)
def test_the_kernels_start_no_threads_beside_those_of_torch(imports: str) -> None:
    assert printed(imports + COUNTED, OMP_NUM_THREADS="1") == ["4", "0"]


@integration
@on_linux
@pytest.mark.slow
@pytest.mark.usefixtures("torch")
def test_an_openmp_runtime_that_was_preloaded_is_torch_s_and_the_kernels_too() -> None:
    packages = Path(pytest.importorskip("sklearn").__file__).parents[1]
    runtimes = list(packages.glob("scikit_learn.libs/libgomp*"))
    if not runtimes:
        pytest.skip("this scikit-learn brings no OpenMP runtime")
    found = printed(f"{KERNELS}\n{USE}{COUNTED}", LD_PRELOAD=str(runtimes[0]), OMP_NUM_THREADS="1")
    assert found == ["4", "0"]


SAME = f"""
from test_cpu_threads import computed, assert_equal
from sparsecore_cpu import _kernels
from sparsecore_cpu.runtime import kernel_names
{WITH_TORCH}

cases = [(name, batch, side) for name in kernel_names() for batch, side in ((37, 12), (5, 3))]
def results(threads):
    return [computed(name, threads, *size) for name, *size in cases]

expected = results(1)
for chosen in (None, torch_file, None):
    assert _kernels.use_openmp_of(chosen) == bool(chosen)
    for threads in (1, 2, 3, 4):
        for one, other in zip(results(threads), expected, strict=True):
            assert_equal(one, other)
"""


@integration
@pytest.mark.usefixtures("torch")
def test_openmp_and_our_own_threads_give_the_same_bits() -> None:
    assert printed(SAME) == []


FORKED = f"""
import os
{WITH_TORCH}
from test_cpu_threads import digest
from sparsecore_cpu import _kernels

torch.set_num_threads(3)
assert _kernels.use_openmp_of(torch_file)
before = torch.ones(2**22).exp(), digest()
for _ in range(2):
    child = os.fork()
    if not child:
        signal.alarm(60)
        assert digest() == before[1]
        assert not _kernels.use_openmp_of(torch_file)  # its threads are the parent's
        assert digest() == before[1]
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert digest() == before[1]
"""

LOADED_IN_A_FORK = f"""
import os
{WITH_TORCH}

torch.set_num_threads(3)
torch.ones(2**22).exp()
child = os.fork()
if not child:
    signal.alarm(60)
    from sparsecore_cpu import _kernels
    assert not _kernels.use_openmp_of(torch_file)
    from test_cpu_threads import digest
    digest()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@integration
@pytest.mark.usefixtures("torch")
def test_forked_processes_compute_on_threads_of_their_own() -> None:
    assert printed(FORKED) == []


@integration
@on_linux
@pytest.mark.slow
@pytest.mark.usefixtures("torch")
def test_a_process_that_was_forked_before_the_kernels_were_loaded_uses_threads_of_its_own() -> None:
    assert printed(LOADED_IN_A_FORK) == []


LOADER = f"""
{WITH_TORCH}
from test_cpu_threads import digest
from torch.utils.data import DataLoader
from sparsecore_cpu import _kernels

class Digests:
    def __len__(self):
        return 4

    def __getitem__(self, _):
        signal.alarm(60)
        return digest()

torch.set_num_threads(2)
assert _kernels.use_openmp_of(torch_file)
before = torch.ones(2**22).exp(), digest()
for computed in DataLoader(Digests(), batch_size=None, num_workers=2, multiprocessing_context="fork"):
    assert computed == before[1]
"""


@integration
@pytest.mark.slow
@pytest.mark.usefixtures("torch")
def test_workers_of_a_data_loader_compute_on_threads_of_their_own() -> None:
    assert printed(LOADER) == []


FAILING = """
import threading, time

running, lock, ended = 0, threading.Lock(), []

def task(index):
    global running
    with lock:
        running += 1
    time.sleep(0.01)
    with lock:
        running -= 1
    ended.append(index)
    if index % 3 == 2:
        raise LookupError(index)

for threads in (1, 2, 4):
    for _ in range(3):
        try:
            _kernels._parallel_for(50, threads, task)
        except LookupError as error:
            assert error.args[0] in ended
            assert running == 0
        else:
            raise AssertionError("no error")
        assert len(ended) < 50
        ended.clear()
    _kernels._parallel_for(2, threads, task)
    assert sorted(ended) == [0, 1]
    ended.clear()
"""
NESTED = """
import threading

done, lock = [], threading.Lock()
def inner(index):
    with lock:
        done.append(index)
for threads in (1, 3):
    _kernels._parallel_for(5, threads, lambda outer: _kernels._parallel_for(4, 3, lambda index: inner((outer, index))))
    assert sorted(done) == [(outer, index) for outer in range(5) for index in range(4)]
    done.clear()

used = set()
_kernels._parallel_for(200, 3, lambda _: used.add(threading.get_ident()))
assert 1 <= len(used) <= 3
"""
AT_ONCE = """
from concurrent.futures import ThreadPoolExecutor
from test_cpu_threads import computed, assert_equal

sizes = [(batch, side) for batch in (5, 33) for side in (3, 8)]
alone = [computed("", 1, *size) for size in sizes]
for _ in range(3):  # threads end in between, and their teams with them
    with ThreadPoolExecutor(4) as callers:
        for _ in range(3):
            together = callers.map(lambda size: computed("", 3, *size), sizes)
            for one, other in zip(together, alone, strict=True):
                assert_equal(one, other)
"""


@integration
@pytest.mark.parametrize("choose", ["", USE], ids=["our own", "torch's"])
def test_on_both_kinds_of_threads_errors_end_all_tasks_tasks_may_start_tasks_and_threads_compute_at_once(
    choose: str,
) -> None:
    if choose:
        pytest.importorskip("torch")
    assert printed("\n".join([KERNELS, choose, FAILING, NESTED, AT_ONCE])) == []
