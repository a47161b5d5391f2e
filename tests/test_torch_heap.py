"""Memory that a training step frees is there for the next one."""

import subprocess
import sys

import pytest

pytest.importorskip("torch")
resource = pytest.importorskip("resource")

STEPS = """
import resource
import torch
{told}

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(2_000_000) for _ in range(20)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(min(faults() for _ in range(3)))
"""
TOLD = "from sparsecore_torch.learning.heap import keep_freed_memory; assert keep_freed_memory()"


def page_faults(told):
    done = subprocess.run([sys.executable, "-c", STEPS.format(told=told)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be told")
def test_what_is_freed_need_not_be_asked_for_again():
    assert page_faults(TOLD) < page_faults("") / 4
