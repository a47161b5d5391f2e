"""Under ``python -O``, which leaves asserts out, everything is as it is without: a part of the suite runs there."""

import subprocess
import sys
from pathlib import Path

import pytest
from processes import start

pytest.importorskip("torch")

pytestmark = pytest.mark.slow  # each test starts processes of `python -O`

ROOT = Path(__file__).parents[1]
PART = ("test_invariants.py", "test_schedules.py", "test_sparsify_refusals.py")
"""Refusals and invariants: what an assert could carry."""


@pytest.mark.integration
def test_a_part_of_the_suite_passes_under_optimized_python():
    # pytest says once that it runs the asserts of the tests alone, which it has rewritten
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore:assertions not in test modules"]
    command = [sys.executable, "-O", "-m", "pytest", *options, *(f"tests/{name}" for name in PART)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]


ENDED = """
import torch
from torch import nn
from sparsecore.errors import InputError
from sparsecore_torch import sparsify

model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
training = sparsify(model, torch.optim.SGD(model.parameters(), lr=0.1), strategy="static")
training.squash()
for name in ("topology", "sparsity", "step", "updates", "values", "masks", "memory", "summary", "state_dict"):
    try:
        answer = getattr(training, name)
        answer() if callable(answer) else answer
    except InputError:
        continue
    print(name)
"""


@pytest.mark.integration
def test_an_ended_training_refuses_every_call_under_optimized_python():
    (ended,) = start(["-O", "-c", ENDED], size=1)
    assert (ended.status, ended.stdout) == (0, ""), ended.stderr


JOINED = """
import torch
import torch.distributed as dist
from sparsecore_torch.distributed.ranks import launched_ranks

launched_ranks(torch.device("cpu")).join()
print(dist.get_world_size())
"""


@pytest.mark.integration
def test_ranks_join_their_process_group_under_optimized_python():
    ranks = start(["-O", "-c", JOINED])
    assert [(rank.status, rank.stdout.strip()) for rank in ranks] == [(0, "2"), (0, "2")], ranks
