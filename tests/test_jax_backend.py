"""``--backend jax`` keeps the kit's promises, compiles a step once for all topologies, and refuses in sentences."""

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp
from command_line import SMALL, said, small_images, sparsecore, train
from stopped_runs import stopped

from sparsecore.engine.young_weights import YoungWeights
from sparsecore.errors import InputError
from sparsecore.experiment.assembly import assemble
from sparsecore.experiment.experiment import Experiment
from sparsecore.learning.protocols import Adam, Sgd
from sparsecore.plugins.discovery import load
from sparsecore.testing import BackendTests
from sparsecore.testing.backend_promises import BACKEND_PROMISES
from sparsecore.testing.backend_promises.array_operations import ARRAY_OPERATIONS
from sparsecore.testing.backend_promises.training_scenarios import (
    SmallNetwork,
    TrainingScenario,
    images,
    reallocate_once,
    to_host,
)
from sparsecore.testing.search import Status, check_promise
from sparsecore.testing.subjects import BackendSubject
from sparsecore_jax import JaxArray, JaxBackend
from sparsecore_numpy import NumpyBackend

EXACT = JaxBackend(dtype="float64")
NORMED = TrainingScenario(SmallNetwork("batch-norm"), Sgd(weight_decay=0.01), seed=2)


OF_ONE_OPERATION = {promise.name for promise in BACKEND_PROMISES if promise.name.startswith("gradient-")}
SLOW = OF_ONE_OPERATION - {"gradient-tied"} | {"totals", "evaluation", "dense", "learns", "set-values", "optimizers"}


def _param(promise: Any) -> Any:
    marks = [pytest.mark.slow] if promise.name in SLOW else []
    return pytest.param(promise, marks=marks, id=promise.name)


@pytest.mark.parametrize("promise", [_param(promise) for promise in BACKEND_PROMISES])
def test_it_keeps_each_promise_of_the_kit(promise: Any) -> None:
    # JAX compiles each network again, so that few examples of a learner must do here
    examples = 50 if promise in ARRAY_OPERATIONS else 1
    result = check_promise(promise, BackendSubject.of(JaxBackend(device="cpu")), examples=examples)
    assert result.status is Status.KEPT, result


@pytest.mark.slow
class TestJax(BackendTests):
    backend = JaxBackend(device="cpu")
    max_examples = 20


@pytest.mark.slow
class TestJaxInDoublePrecision(BackendTests):
    backend = JaxBackend(device="cpu", dtype="float64")
    max_examples = 10


def test_a_step_is_one_function_that_only_another_number_of_weights_compiles_again() -> None:
    learner, state = NORMED.learner(EXACT), NORMED.start(EXACT)
    other = attrs.evolve(NORMED, optimizer=Sgd(momentum=0.5, weight_decay=0.1), seed=9).learner(EXACT)
    compiled = learner._compiled
    assert other._compiled is compiled  # of an equal network, with other numbers
    before = compiled.step._cache_size(), compiled.gradients._cache_size()
    for step in range(3):
        learner.backward(NORMED.batch(step))
        learner.optimizer_step(0.1 / (step + 1))
        # seed 2 is even: as many grow as were pruned
        state, reallocation = reallocate_once(NORMED, EXACT, state, learner.values)
        assert reallocation.pruned_count > 0
        learner.reallocate(reallocation)
    other.train(NORMED.batch(), 0.1)
    assert compiled.step._cache_size() == before[0] + 1
    assert compiled.gradients._cache_size() == before[1]
    fewer = attrs.evolve(NORMED, seed=3)  # odd: half of what is pruned grows
    learner, state = fewer.learner(EXACT), fewer.start(EXACT)
    learner.train(NORMED.batch(), 0.1)
    _, reallocation = reallocate_once(fewer, EXACT, state, learner.values)
    learner.reallocate(reallocation)
    learner.train(NORMED.batch(), 0.1)
    assert compiled.step._cache_size() == before[0] + 2
    assert not jax.config.jax_enable_x64
    assert jnp.ones(1).dtype == np.float32


def test_a_saved_state_is_that_of_the_numpy_backend_which_continues_from_it() -> None:
    scenario = attrs.evolve(NORMED, optimizer=Adam(), young=YoungWeights(own_steps=True, warm_up=3))
    ended = []
    for first, second in ((EXACT, NumpyBackend("float64")), (NumpyBackend("float64"), EXACT)):
        learner = scenario.learner(first)
        state, reallocation = reallocate_once(scenario, first, scenario.start(first), learner.values)
        learner.reallocate(reallocation)
        learner.train(scenario.batch(0), 0.1)
        saved = learner.state()
        other = scenario.learner(second)
        there, _ = reallocate_once(scenario, second, scenario.start(second), other.values)
        other.load_state(there.topology, saved)
        for step in range(1, 4):
            other.train(scenario.batch(step), 0.1)
        ended.append(other.state())
        assert state.topology.sha256() == there.topology.sha256()
    assert sorted(ended[0]) == sorted(ended[1])
    for name, buffer in ended[0].items():
        np.testing.assert_allclose(buffer, ended[1][name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_gradients_are_of_the_values_at_the_backward_pass() -> None:
    learner, expected = NORMED.learner(EXACT), NORMED.learner(NumpyBackend("float64"))
    for each, backend in ((learner, EXACT), (expected, NumpyBackend("float64"))):
        before = to_host(backend, each.values)
        each.backward(NORMED.batch())
        each.set_values(backend.arrays.from_numpy(before / 2))  # as where silent weights are shown again
        each.optimizer_step(0.1)
    np.testing.assert_allclose(learner.values.host, expected.values, rtol=1e-9, atol=1e-12)
    with pytest.raises(InputError, match="backward pass"):
        learner.optimizer_step(0.1)
    with pytest.raises(InputError, match="backward pass"):
        _ = learner.weight_gradient


def test_values_that_were_read_stay_as_they_are_while_training_goes_on() -> None:
    learner = NORMED.learner(EXACT)
    read, kept = learner.values, learner.values.host.copy()
    assert isinstance(read, JaxArray)
    assert read.host is read.host
    learner.train(NORMED.batch(), 0.1)
    np.testing.assert_array_equal(read.host, kept)
    assert (learner.values.host != kept).any()


def test_bfloat16_computes_about_what_double_precision_computes_and_keeps_parameters_in_single_precision() -> None:
    losses = []
    for backend in (EXACT, JaxBackend(dtype="bfloat16")):
        learner = NORMED.learner(backend)
        learner.backward(NORMED.batch())
        losses.append(learner.totals().loss)
        losses.append(np.linalg.norm(learner.weight_gradient.host))
        assert learner.evaluate(images().test).examples == len(images().test)
    assert learner.values.dtype == learner.weight_gradient.dtype == np.float32
    assert losses[2:] == pytest.approx(losses[:2], rel=0.05)
    assert losses[2] != np.float32(losses[0])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("backend.device=abacus", ["'abacus'", "'auto'", "cpu:0"]),
        ("backend.device=cpu:77", ["'cpu:77'", "cpu:0"]),
        ("backend.device=7", ["a text was expected", "7"]),
        ("backend.dtype=float8", ["float32, float64, bfloat16", "'float8'"]),
        ("backend.precision=16", ["'precision'", "device, dtype"]),
    ],
)
def test_wrong_options_raise_one_error_sentence(setting: str, words: list[str]) -> None:
    with pytest.raises(InputError) as refusal:
        Experiment.of(assemble(None, {"backend.name": "jax"}, (), (setting,)))
    for word in words:
        assert word in str(refusal.value)


def test_every_option_is_documented() -> None:
    page = (Path(__file__).parent.parent / "docs/experiments.md").read_text("utf-8")
    for field in attrs.fields(load("backend", "jax")):
        assert f"`backend.{field.alias}`" in page


@pytest.mark.usefixtures("quick_runs")
def test_a_run_in_double_precision_has_the_topologies_of_numpy_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    data = small_images(tmp_path / "small.npz")
    common = (*SMALL, "--data-dir", data, "--set", "backend.dtype=float64", "--set", "strategy.schedule={steps=3}")
    results = [train(*common, "--backend", name, "--out", tmp_path / name) for name in ("numpy", "jax")]
    assert results[0]["reallocations"] > 3
    assert results[0]["topology_sha256"] == results[1]["topology_sha256"]
    reallocations = [(tmp_path / name / "reallocations.jsonl").read_text() for name in ("numpy", "jax")]
    assert reallocations[0] == reallocations[1]
    folder = stopped(tmp_path / "jax", tmp_path / "stopped", 5)
    train("--resume", "--out", folder.path)
    for name in ("checkpoint.safetensors", "metrics.jsonl", "reallocations.jsonl"):
        assert (folder.path / name).read_bytes() == (tmp_path / "jax" / name).read_bytes(), name


@pytest.mark.slow
def test_a_module_of_pytorch_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    model = ("--model", "sparsecore_models.gpt:CharacterGPT")
    done = sparsecore("train", "--backend", "jax", *model, "--out", tmp_path / "run")
    assert "--backend torch" in said(done)
