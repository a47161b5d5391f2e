"""Several devices of JAX share each batch, and come to the topologies of a single one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import small_images

pytest.importorskip("jax")

pytestmark = pytest.mark.integration

TWO = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}

SHARED = """
import json
import attrs
import numpy as np
from sparsecore.learning.protocols import Sgd
from sparsecore.testing.backend_promises import training_scenarios
from sparsecore.testing.backend_promises.training_scenarios import SmallNetwork, TrainingScenario, images
from sparsecore_jax import JaxBackend

scenario = TrainingScenario(SmallNetwork("batch-norm"), Sgd(weight_decay=0.01), seed=2)
found = {}
for device in ("auto", "cpu:1"):
    backend = JaxBackend(dtype="float64", device=device)
    learner, state = scenario.learner(backend), scenario.start(backend)
    whole = scenario.batch(0)
    learner.train(whole, 0.1)
    learner.train(whole.part(0, 7), 0.1)  # which two devices cannot divide
    learner.backward(scenario.batch(1), dense=True)
    learner.optimizer_step(0.1)
    state, reallocation = training_scenarios.reallocate_once(scenario, backend, state, learner.values)
    learner.reallocate(reallocation)
    learner.train(scenario.batch(2), 0.1)
    totals = [*attrs.astuple(learner.totals()), *attrs.astuple(learner.evaluate(images().test))]
    buffers = learner._buffers.values()
    found[device] = {
        "topology": state.topology.sha256(),
        "values": learner.values.host.tolist(),
        "totals": totals,
        "devices": sorted({len(buffer.sharding.device_set) for buffer in buffers}),
        "is replicated": all(buffer.is_fully_replicated for buffer in buffers),
        "parts": [len(shard.data) for shard in learner._examples(whole).images.addressable_shards],
    }
print(json.dumps(found))
"""


def python(*arguments: str | Path, **environment: str) -> str:
    command, variables = [sys.executable, *map(str, arguments)], {**os.environ, **environment}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_devices_share_a_batch_and_compute_what_one_computes() -> None:
    found = json.loads(python("-c", SHARED, **TWO))
    two, one = found["auto"], found["cpu:1"]
    assert two["topology"] == one["topology"]
    for name in ("values", "totals"):
        assert two[name] == pytest.approx(one[name], rel=1e-9, abs=1e-12)
    assert (two["devices"], two["parts"]) == ([2], [4, 4])
    assert (one["devices"], one["parts"]) == ([1], [8])
    assert two["is replicated"]


@pytest.mark.slow
def test_a_run_on_two_devices_has_the_topologies_of_a_run_on_one(tmp_path: Path) -> None:
    images = small_images(tmp_path / "small.npz")
    command = ["-m", "sparsecore", "train", "--backend", "jax", "--model", "wrn-10-1", "--data", "npz"]
    command += ["--data-dir", images, "--sparsity", "0.8", "--epochs", "2", "--batch-size", "16", "--json"]
    command += ["--set", "backend.dtype=float64", "--set", "strategy.schedule={steps=3}", "--out"]
    devices: dict[str, dict[str, str]] = {"one": {}, "two": TWO}
    results = [json.loads(python(*command, tmp_path / name, **environment)) for name, environment in devices.items()]
    assert results[0]["reallocations"] > 1
    assert results[0]["topology_sha256"] == results[1]["topology_sha256"]
    logs = [(tmp_path / name / "reallocations.jsonl").read_bytes() for name in ("one", "two")]
    assert logs[0] == logs[1]
