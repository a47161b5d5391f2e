"""Update rules: their formulas, torch.optim as an oracle, and what becomes of their state when weights move."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import train
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_numpy_learner import assert_equal_states, batches, learner_of, reallocation_of, task_of

from sparsecore.errors import InputError
from sparsecore.host.parameters import ParameterVectors
from sparsecore.learning.optimizers import Adam, AdamW, Optimizer, Sgd

decays = st.sampled_from([0.0, 1e-3, 0.3])
betas = st.tuples(st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.0, 0.9, 0.999]))
epsilons = st.sampled_from([1e-8, 1e-3])
rules: st.SearchStrategy[Optimizer] = st.one_of(
    st.builds(Sgd, momentum=st.sampled_from([0.0, 0.5, 0.9]), nesterov=st.just(False), weight_decay=decays),
    st.builds(Sgd, momentum=st.sampled_from([0.5, 0.9]), nesterov=st.just(True), weight_decay=decays),
    st.builds(Adam, betas=betas, epsilon=epsilons, weight_decay=decays),
    st.builds(AdamW, betas=betas, epsilon=epsilons, weight_decay=decays),
)
MOMENTS = (Adam(weight_decay=0.01), AdamW(weight_decay=0.1))


def path(rule: Optimizer, start: NDArray[Any], gradients: NDArray[Any], rates: list[float]) -> NDArray[Any]:
    """The values after the steps of the rule under test."""
    vectors = ParameterVectors.start(start, rule)
    for count, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        vectors.gradient[:] = gradient
        vectors.optimizer_step(rule, rate, count)
    return vectors.values


def example(seed: int, steps: int, dtype: str = "float64") -> tuple[NDArray[Any], NDArray[Any], list[float]]:
    rng = np.random.default_rng(seed)
    gradients = rng.standard_normal((steps, 7))
    gradients[:, 0] = 0  # a weight that no example reaches
    return rng.standard_normal(7).astype(dtype), gradients.astype(dtype), list(rng.uniform(0, 0.3, steps))


def torch_s(rule: Optimizer, torch: Any, parameter: Any) -> Any:
    """The optimizer of torch that the rule is."""
    kinds: Mapping[type, Callable[[Any], Any]] = {
        Sgd: lambda r: torch.optim.SGD([parameter], momentum=r.momentum, nesterov=r.nesterov),
        Adam: lambda r: torch.optim.Adam([parameter], betas=r.betas, eps=r.epsilon),
        AdamW: lambda r: torch.optim.AdamW([parameter], betas=r.betas, eps=r.epsilon),
    }
    optimizer = kinds[type(rule)](rule)
    optimizer.param_groups[0]["weight_decay"] = rule.weight_decay
    return optimizer


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-11), ("float32", 2e-5)])
@settings(deadline=None, max_examples=60)
@given(rule=rules, seed=st.integers(0, 1000), steps=st.integers(1, 12))
def test_update_rules_equal_torch_s(dtype: str, tolerance: float, rule: Optimizer, seed: int, steps: int) -> None:
    torch = pytest.importorskip("torch")
    start, gradients, rates = example(seed, steps, dtype)
    if isinstance(rule, Adam) and rule.betas[1] == 0 and rule.weight_decay:
        # it divides by the last gradient alone, with the decay in it, whose few digits in float32 may cancel
        assume(dtype == "float64")
    parameter = torch.nn.Parameter(torch.tensor(start))
    optimizer = torch_s(rule, torch, parameter)
    for gradient, rate in zip(gradients, rates, strict=True):
        parameter.grad = torch.tensor(gradient)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    values = path(rule, start, gradients, rates)
    assert values.dtype == dtype
    np.testing.assert_allclose(values, parameter.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_follows_its_formula(decoupled: bool) -> None:
    beta1, beta2, epsilon, decay = 0.8, 0.95, 1e-3, 0.2
    start, gradients, rates = example(3, 9)
    expected = []
    for weight, path_of_gradients in zip(start.tolist(), gradients.T.tolist(), strict=True):
        w, m, s = weight, 0.0, 0.0
        for t, (g, rate) in enumerate(zip(path_of_gradients, rates, strict=True), start=1):
            d = g if decoupled else g + decay * w
            w = w - rate * decay * w if decoupled else w
            m, s = beta1 * m + (1 - beta1) * d, beta2 * s + (1 - beta2) * d * d
            w -= rate * (m / (1 - beta1**t)) / (math.sqrt(s / (1 - beta2**t)) + epsilon)
        expected.append(w)
    rule = (AdamW if decoupled else Adam)((beta1, beta2), epsilon, decay)
    np.testing.assert_allclose(path(rule, start, gradients, rates), expected, rtol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_gradient_descent_follows_its_formula(nesterov: bool) -> None:
    start, gradients, rates = example(4, 6)
    w, v = start.copy(), np.zeros(7)
    for g, rate in zip(gradients, rates, strict=True):
        d = g + 0.1 * w
        v = 0.7 * v + d
        w = w - rate * (d + 0.7 * v if nesterov else v)
    np.testing.assert_allclose(path(Sgd(0.7, nesterov, 0.1), start, gradients, rates), w, rtol=1e-12)


@pytest.mark.parametrize("rule", MOMENTS)
def test_all_optimizer_state_is_carried_when_weights_move(rule: Optimizer) -> None:
    learner = learner_of(optimizer=rule)
    for batch in batches(3):
        learner.train(batch, 0.01)
    before = learner.state()
    reallocation = reallocation_of(task_of(), learner.values)
    learner.reallocate(reallocation)
    after = learner.state()
    slot_of = {int(position): slot for slot, position in enumerate(reallocation.before.positions)}
    survivors = set(reallocation.before.positions[reallocation.survives].tolist())
    assert 0 < len(survivors) < len(slot_of)
    for name in ("first_moment", "second_moment"):
        expected = [before[name][slot_of[p]] if p in survivors else 0.0 for p in reallocation.after.positions.tolist()]
        np.testing.assert_array_equal(after[name], expected)
        np.testing.assert_array_equal(after[f"dense_{name}"], before[f"dense_{name}"])
    assert after["steps"] == before["steps"] == 3


@pytest.mark.parametrize("rule", MOMENTS)
def test_a_learner_that_loads_a_state_resumes_with_its_moments_and_step_count(rule: Optimizer) -> None:
    learner, other = learner_of("float32", optimizer=rule), learner_of("float32", optimizer=rule)
    for batch in batches(3):
        learner.train(batch, 0.01)
    other.load_state(task_of().topology, learner.state())
    for batch in batches(2, 5):
        learner.train(batch, 0.01)
        other.train(batch, 0.01)
    assert_equal_states(other.state(), learner.state())
    assert learner.state()["steps"] == 5


def test_the_state_of_another_rule_is_refused() -> None:
    with pytest.raises(InputError, match=r"no buffer named 'first_moment'; it has: .*momentum"):
        learner_of(optimizer=Adam()).load_state(task_of().topology, learner_of(optimizer=Sgd()).state())


@pytest.mark.parametrize(("rule", "buffers"), [(Sgd(), 1), (Adam(), 2), (AdamW(), 2)])
def test_the_ledger_counts_one_entry_per_weight_for_each_buffer_of_the_rule(rule: Optimizer, buffers: int) -> None:
    learner, task = learner_of("float32", optimizer=rule), task_of("float32")
    learner.train(next(batches(1)), 0.01)
    memory = learner.memory()
    trained = (p for p in task.parameters if p.trained and not p.sparse)
    weights = task.topology.size + sum(math.prod(parameter.shape) for parameter in trained)
    assert memory.values.theoretical == memory.values.measured == 4 * weights
    assert memory.gradients.theoretical == memory.gradients.measured == 4 * weights
    assert memory.optimizer_state.theoretical == memory.optimizer_state.measured == 4 * weights * buffers
    assert memory.indices.theoretical == task.topology.positions.nbytes
    # beside the positions each tensor's own, and for convolutions of stride 1 two further orders
    assert memory.indices.measured > 3 * memory.indices.theoretical
    assert memory.total.measured == sum(
        part.measured for part in (memory.values, memory.indices, memory.gradients, memory.optimizer_state)
    )


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_small_demo_learns_with_another_optimizer(optimizer: str, tmp_path: Path) -> None:
    small = ("--model", "wrn-10-1", "--epochs", "4", "--sparsity", "0.7", "--set", "data.crop=0")
    result = train(*small, "--set", f"training.optimizer={optimizer}", cwd=tmp_path)
    assert result["test_accuracy"] > 0.8
    assert result["reallocations"] > 3
