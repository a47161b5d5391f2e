"""Memory that a training step frees is there for the next one."""

import subprocess
import sys

import pytest

pytest.importorskip("torch")
resource = pytest.importorskip("resource")

# By default, glibc sometimes learns to keep blocks of up to 32 MiB, from what was freed before; it returns larger ones.
STEPS = """
import resource
import torch
{setup}

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        torch.ones(16_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(min(faults() for _ in range(3)))
"""
KEEPING = "from sparsecore_torch.experiment.batch_learner import keep_freed_memory; assert keep_freed_memory()"


def page_faults(setup):
    done = subprocess.run([sys.executable, "-c", STEPS.format(setup=setup)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has this setting")
def test_freed_memory_is_reused_without_page_faults():
    assert page_faults(KEEPING) < page_faults("") / 4
