"""Training on torch: NumPy's steps, resuming bit for bit, and as many values, gradients and moments as weights."""

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import pytest
from test_numpy_learner import Deep, batch_of, batches, images_of
from test_numpy_learner import task_of as task_on_numpy

torch = pytest.importorskip("torch")

from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch_devices import DEVICES
from torch_learner_examples import (
    RULES,
    assert_equal_states,
    learner_of,
    on_devices,
    reallocation_of,
    running,
    task_of,
    with_rules,
)

from sparsecore.data.images import (
    Batch,
)
from sparsecore.errors import InputError
from sparsecore.learning.protocols import Adam, AdamW, Sgd
from sparsecore_numpy import NumpyBackend
from sparsecore_torch import TorchBackend


@on_devices
@with_rules
@pytest.mark.parametrize("options", [{}, {"channels_last": False}], ids=["channels last", "channels first"])
def test_steps_and_updates_equal_numpy_s(device: str, rule: Any, options: Mapping[str, Any]) -> None:
    oracle = NumpyBackend("float64").learner(task_on_numpy(optimizer=rule))
    learner = learner_of(device=device, options=options, optimizer=rule)
    plan = list(batches(6))
    for number, batch in enumerate(plan):
        if number == 3:
            on_numpy, on_torch = reallocation_of(learner, device, optimizer=rule)
            on_numpy = attrs.evolve(on_numpy, values=on_numpy.carry(oracle.values))
            oracle.reallocate(on_numpy)
            learner.reallocate(on_torch)
        oracle.train(batch, 0.05)
        learner.train(batch, 0.05)
    expected, state = oracle.state(), learner.state()
    close = {"rtol": 1e-8, "atol": 1e-10}
    np.testing.assert_allclose(state["values"], expected["values"], **close)
    np.testing.assert_allclose(state["dense"], expected["dense"], **close)
    np.testing.assert_allclose(running(state), expected["running"], **close)
    assert learner.totals().loss == pytest.approx(oracle.totals().loss, rel=1e-9)
    assert learner.totals().correct == oracle.totals().correct
    assert learner.totals().examples == 96
    test = images_of().test
    assert learner.evaluate(test).loss == pytest.approx(oracle.evaluate(test).loss, rel=1e-9)
    assert learner.evaluate(test).correct == oracle.evaluate(test).correct


@on_devices
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_lower_precision_follows_double_precision(device: str, dtype: str, tolerance: float) -> None:
    lower, double = learner_of(dtype, device), learner_of("float64", device)
    for batch in batches(4):
        lower.train(batch, 0.05)
        double.train(batch, 0.05)
    assert {buffer.dtype for name, buffer in lower.state().items() if name != "totals"} == {np.dtype(np.float32)}
    np.testing.assert_allclose(lower.values.cpu(), double.values.cpu(), atol=tolerance)
    assert lower.totals().loss == pytest.approx(double.totals().loss, rel=tolerance)


@on_devices
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@with_rules
def test_a_learner_that_loads_a_state_resumes_bit_for_bit(device: str, dtype: str, rule: Any) -> None:
    learner = learner_of(dtype, device, optimizer=rule)
    for batch in batches(3):
        learner.train(batch, 0.1)
    other = learner_of(dtype, device, optimizer=rule)
    other.train(batch_of(range(30)), 0.5)
    other.load_state(task_of(device=device).topology, learner.state())
    assert_equal_states(other.state(), learner.state())
    for size in 16, 5:
        for batch in batches(2, size):
            learner.train(batch, 0.1)
            other.train(batch, 0.1)
    assert_equal_states(other.state(), learner.state())
    assert other.totals() == learner.totals()


@with_rules
def test_a_learner_that_loads_a_state_from_before_the_first_step_starts_over(rule: Any) -> None:
    learner, fresh = (learner_of(optimizer=rule) for _ in range(2))
    start = learner.state()
    learner.train(batch_of(range(30)), 0.5)
    learner.load_state(task_of().topology, start)
    for batch in batches(2):
        learner.train(batch, 0.1)
        fresh.train(batch, 0.1)
    assert_equal_states(learner.state(), fresh.state())


@on_devices
@with_rules
def test_reallocation_carries_all_that_the_optimizer_keeps_for_each_weight(device: str, rule: Any) -> None:
    learner = learner_of(device=device, optimizer=rule)
    for batch in batches(2):
        learner.train(batch, 0.1)
    before = learner.state()
    on_numpy, reallocation = reallocation_of(learner, device, optimizer=rule)
    learner.reallocate(reallocation)
    after, size = learner.state(), len(before["values"])
    kept = [name for name, buffer in before.items() if name.startswith("values.") and len(buffer) == size]
    assert len(kept) == {Sgd: int(getattr(rule, "momentum", 0) > 0), Adam: 2, AdamW: 2}[type(rule)]
    np.testing.assert_array_equal(after["values"], on_numpy.values)
    for name in kept:
        np.testing.assert_array_equal(after[name], on_numpy.carry(before[name]))
        assert 0 < np.count_nonzero(after[name]) < np.count_nonzero(before[name])
    for name in before.keys() - {"values", *kept}:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)


def test_buffers_that_do_not_fit_are_refused_and_change_nothing() -> None:
    learner = learner_of(optimizer=RULES["momentum"])
    learner.train(batch_of(range(9)), 0.1)
    before, topology = learner.state(), task_of().topology
    with pytest.raises(InputError, match=r"values must have the shape \(\d+,\); given \(3,\)"):
        learner.set_values(torch.zeros(3))
    wrong = {name: buffer + 1 for name, buffer in before.items()} | {"dense.momentum_buffer": np.zeros(3)}
    with pytest.raises(InputError, match=r"dense\.momentum_buffer must have the shape"):
        learner.load_state(topology, wrong)
    with pytest.raises(InputError, match="no buffer named 'values'; it has: momentum"):
        learner.load_state(topology, {"momentum": np.zeros(3)})
    assert_equal_states(learner.state(), before)


@on_devices
@pytest.mark.parametrize(("rule", "vectors"), [("momentum", 1), ("Adam", 2), ("plain", 0)])
def test_the_ledger_counts_one_entry_per_weight_and_measurements_match_the_formula(
    device: str, rule: str, vectors: int
) -> None:
    learner, task = learner_of("float32", device, optimizer=RULES[rule]), task_of()
    names = {parameter.name for parameter in task.parameters if parameter.trained}
    weights = task.topology.size + sum(start.size for name, start in task.other_parameters.items() if name in names)
    assert learner.memory().gradients.measured == 0
    learner.train(batch_of(range(9)), 0.1)
    ledger = learner.memory()
    assert ledger.values.theoretical == ledger.gradients.theoretical == 4 * weights
    assert ledger.indices.theoretical == 4 * task.topology.size
    assert ledger.optimizer_state.theoretical == vectors * 4 * weights
    spare = 2 * 512 if device == "cuda" else 8  # Adam counts its steps
    for part in (ledger.values, ledger.indices, ledger.gradients, ledger.optimizer_state):
        assert 0 <= part.measured - part.theoretical <= spare


class Living(TorchDispatchMode):
    """Notes what the tensors take that outlive the operation that made them."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._storages: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        for output in outputs if isinstance(outputs, tuple | list) else (outputs,):
            if isinstance(output, torch.Tensor):
                storage = output.untyped_storage()
                self._storages[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        self._storages = {place: entry for place, entry in self._storages.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._storages.values()))
        return outputs


def test_training_never_holds_more_than_a_fraction_of_the_dense_parameters() -> None:
    images = images_of(side=16, channels=1)
    task = task_of("float32", model=Deep(layers=24, units=256), images=images, density=0.01)
    dense_bytes = 4 * task.topology.layout.size
    learner = TorchBackend(device="cpu").learner(task)
    with Living() as living:
        for _ in range(2):
            learner.train(batch_of(range(4)), 0.1)
            learner.evaluate(images.test)
    assert 0 < living.peak < dense_bytes / 4


@pytest.mark.skipif("cuda" not in DEVICES, reason="there is no CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_step_waits_for_the_device(dtype: str) -> None:
    learner = learner_of(dtype, "cuda", optimizer=RULES["Adam"])
    plan = Batch(np.arange(9), np.ones((9, 2), np.int64), np.arange(9) % 2 == 0, 1)
    learner.train(plan, 0.1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            learner.train(plan, 0.1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "gpu"}, "a device is auto, cpu, cuda or a numbered one such as cuda:1; given 'gpu'"),
        ({"device": "cuda:99"}, "no CUDA device 'cuda:99'; PyTorch finds: "),
        ({"dtype": "float16"}, "the torch backend computes in float32, float64, bfloat16; given 'float16'"),
    ],
)
def test_impossible_options_raise_one_error_sentence(options: Mapping[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        TorchBackend(**options)


def test_the_dtype_of_a_backend_is_the_dtype_of_values() -> None:
    assert [TorchBackend(dtype=dtype).dtype for dtype in ("float32", "float64", "bfloat16")] == [
        "float32",
        "float64",
        "float32",
    ]
