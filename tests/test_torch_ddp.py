"""One network, two processes under DistributedDataParallel: the same topologies, without communication."""

import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import numpy as np
import torch.distributed as dist
from gradient_examples import Seen
from observer_examples import Recorder
from processes import call, start
from rank_examples import (
    BATCH,
    STEPS,
    ByGradient,
    alone,
    batches,
    network,
    optimizer_of,
    share,
    steps,
    trained,
)
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sparsecore import Every, hookimpl
from sparsecore.engine.growth import random_free_positions
from sparsecore.errors import DisagreementError
from sparsecore_strategies.deepr import DeepRewiring
from sparsecore_strategies.set import SparseEvolution
from sparsecore_torch import sparsify


class Elsewhere(ByGradient):
    """Grows by the luck of the rank."""

    @hookimpl
    def grow(self, occupied: Any, counts: Any) -> Any:
        from sparsecore.engine.randomness import Randomness

        return random_free_positions(occupied, counts, Randomness(dist.get_rank()))


class Fails(ByGradient):
    """Fails on rank 1."""

    @hookimpl
    def grow(self, occupied: Any, counts: Any, random: Any) -> Any:
        if dist.get_rank() == 1:
            raise ValueError("no luck today")
        return random_free_positions(occupied, counts, random)


class Late(ByGradient):
    """Updates one step later on rank 1."""

    @hookimpl
    def update_due(self, clock: Any) -> bool:
        return bool(clock.step == 3 + dist.get_rank())


def wrapped_first() -> dict[str, Any]:
    model = DistributedDataParallel(network(dist.get_rank()))
    optimizer = optimizer_of(model)
    sparse = sparsify(model, optimizer, strategy=ByGradient(), sparsity=0.7)
    keys = list(sparse.model.state_dict())
    assert keys == list(network(0).state_dict())
    assert not list(sparse.model.buffers())  # those would be overwritten from rank 0 and hide a disagreement
    observer = Recorder(itop=True)
    sparse.observe(observer)
    return {
        **trained(model, sparse, share(), optimizer),
        "observed": observer.methods,
        "ever active": sparse.metrics()["itop_rate"],
    }


def wrapped_afterwards() -> dict[str, Any]:
    model = network(dist.get_rank())
    optimizer = optimizer_of(model)
    sparse = sparsify(model, optimizer, strategy=ByGradient(), sparsity=0.7)
    return trained(DistributedDataParallel(model), sparse, share(), optimizer)


def compact() -> dict[str, Any]:
    model = network(dist.get_rank()) if dist.is_initialized() else network(0)
    optimizer = optimizer_of(model)
    sparse = sparsify(model, optimizer, strategy=ByGradient(), sparsity=0.7, storage="compact")
    wrapped, part = (DistributedDataParallel(model), share()) if dist.is_initialized() else (model, slice(None))
    topologies = steps(wrapped, sparse, part, optimizer)
    return {"topologies": topologies, "values": sparse.values().tolist()}


def fewer_gradients(storage: str) -> list[dict[str, list[float]]]:
    """What a strategy sees of the gradients of active weights and of candidates."""
    model, strategy = network(0), Seen()
    optimizer = optimizer_of(model)
    sparse = sparsify(model, optimizer, strategy=strategy, sparsity=0.7, storage=storage)
    wrapped, part = (DistributedDataParallel(model), share()) if dist.is_initialized() else (model, slice(None))
    steps(wrapped, sparse, part, optimizer)
    return [{name: entries.tolist() for name, entries in seen.items()} for seen in strategy.seen]


def heard(strategy: object, seed: int = 0) -> tuple[str, str]:
    """The error that a rank comes to with this strategy."""
    model = DistributedDataParallel(network(0))
    optimizer = optimizer_of(model)
    sparse = sparsify(model, optimizer, strategy=strategy, sparsity=0.7, seed=seed)
    try:
        trained(model, sparse, share(), optimizer)
    except Exception as error:
        return type(error).__name__, str(error)
    raise AssertionError("nothing was raised")


ASTRAY = {
    "static": {"strategy": "static"},
    "compact": {"strategy": "static", "storage": "compact"},
    "deepr": {"strategy": DeepRewiring(schedule=Every(steps=100))},
    "after the last update": {"strategy": SparseEvolution(schedule=Every(steps=1, until=0.3)), "total_steps": STEPS},
    "dense": {"strategy": "static", "exclude": "0.weight"},
}
"""Trainings in which one value of one rank goes astray while no update follows that could tell."""


def astray(chosen: dict[str, Any], dtype: Any, step: int = 7) -> tuple[str, str, int]:
    """The error that a rank comes to, and after which step, where one value of rank 1 is the next number's."""
    model = network(0).to(dtype)
    optimizer = optimizer_of(model)
    sparse = sparsify(model, optimizer, sparsity=0.7, **chosen)
    wrapped = DistributedDataParallel(model)
    try:
        for number, (inputs, labels) in enumerate(batches(), 1):
            optimizer.zero_grad()
            nn.functional.cross_entropy(wrapped(inputs[share()].to(dtype)), labels[share()]).backward()
            optimizer.step()
            if number == step and dist.get_rank() == 1:
                a_value_goes_astray(next(iter(model.parameters())))
    except DisagreementError as error:
        return type(error).__name__, str(error), sparse.step
    raise AssertionError("nothing was raised")


@torch.no_grad()
def a_value_goes_astray(parameter: Any) -> None:
    flat = parameter.view(-1)
    active = int(flat.nonzero()[0])
    flat[active] = torch.nextafter(flat[active], flat.new_tensor(9.0))


def saved_alone() -> int:
    """Rank 0 alone saves, twice; the training goes on."""
    model = network(0)
    optimizer = optimizer_of(model)
    sparse = sparsify(model, optimizer, strategy="static", sparsity=0.7)
    wrapped = DistributedDataParallel(model)
    for inputs, labels in batches():
        optimizer.zero_grad()
        nn.functional.cross_entropy(wrapped(inputs[share()]), labels[share()]).backward()
        optimizer.step()
        if dist.get_rank() == 0 and sparse.step % 6 == 0:
            sparse.state_dict()
    return sparse.step


def saved_astray() -> tuple[str, str]:
    """What a rank hears where both save, and one value of rank 1 has gone astray since the last step."""
    model = network(0)
    optimizer = optimizer_of(model)
    sparse = sparsify(model, optimizer, strategy="static", sparsity=0.7)
    steps(DistributedDataParallel(model), sparse, share(), optimizer)
    sparse.state_dict()
    if dist.get_rank() == 1:
        a_value_goes_astray(next(iter(model.parameters())))
    try:
        sparse.state_dict()
    except DisagreementError as error:
        return type(error).__name__, str(error)
    raise AssertionError("nothing was raised")


def on_two_ranks() -> dict[str, Any]:
    """All that is tested here, in one start of two processes."""
    from sparsecore_torch.distributed.ranks import Patience, present_ranks
    from sparsecore_torch.sparse_training import sparsify as sparsify_module

    dist.init_process_group("gloo")
    results = {"first": wrapped_first(), "afterwards": wrapped_afterwards(), "compact": compact()}
    results |= {f"fewer, {storage}": fewer_gradients(storage) for storage in ("masked", "compact")}
    results["alone"] = saved_alone()
    for dtype in (torch.float64, torch.float32):
        results |= {f"{name} {dtype}": astray(chosen, dtype) for name, chosen in ASTRAY.items()}
    sparsify_module.present_ranks = lambda: present_ranks(Patience(saving=30.0))
    results["saved"] = saved_astray()
    errors = {"elsewhere": heard(Elsewhere()), "fails": heard(Fails()), "apart": heard("static", dist.get_rank())}
    sparsify_module.present_ranks = lambda: present_ranks(Patience(1.0, 1.0))
    errors["late"] = heard(Late())
    dist.destroy_process_group()
    return {**results, **errors}


@pytest.fixture(scope="module")
def answers() -> list[dict[str, Any]]:
    return [ended.answer for ended in call(on_two_ranks)]


@pytest.mark.integration
@pytest.mark.parametrize("when", ["first", "afterwards"])
def test_two_ranks_make_the_decisions_of_one_process(answers: list[dict[str, Any]], when: str) -> None:
    expected = alone()
    for answer in answers:
        assert answer[when]["topologies"] == expected["topologies"]
        assert answer[when]["updates"] == STEPS // 3
        assert answer[when]["inactive"] == [0.0] * len(expected["inactive"])
        np.testing.assert_allclose(answer[when]["weights"], expected["weights"], rtol=0, atol=1e-12)
    # bit for bit between ranks, whatever the rounding
    assert answers[0][when]["weights"] == answers[1][when]["weights"]


@pytest.mark.integration
def test_only_the_first_rank_calls_observers_and_all_know_which_positions_were_active(
    answers: list[dict[str, Any]],
) -> None:
    assert answers[0]["first"]["observed"] == ["started", *["reallocated"] * (STEPS // 3)]
    assert answers[1]["first"]["observed"] == []
    assert answers[0]["first"]["ever active"] == answers[1]["first"]["ever active"] > 0.3


@pytest.mark.integration
def test_compact_storage_on_two_ranks_makes_the_decisions_of_one_process(answers: list[dict[str, Any]]) -> None:
    expected = compact()
    for answer in answers:
        assert answer["compact"]["topologies"] == expected["topologies"]
        np.testing.assert_allclose(answer["compact"]["values"], expected["values"], rtol=0, atol=1e-12)


@pytest.mark.integration
@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_gradients_of_weights_and_candidates_are_means_over_ranks(answers: list[dict[str, Any]], storage: str) -> None:
    expected = fewer_gradients(storage)
    assert len(expected) == STEPS // 2
    for answer in answers:
        for found, alone_seen in zip(answer[f"fewer, {storage}"], expected, strict=True):
            assert found["positions"] == alone_seen["positions"]
            assert found["candidates"] == alone_seen["candidates"]
            for name in ("active", "of candidates"):
                np.testing.assert_allclose(found[name], alone_seen[name], rtol=0, atol=1e-12)


@pytest.mark.integration
def test_decisions_come_from_the_gradients_of_all_ranks(answers: list[dict[str, Any]]) -> None:
    # half of each batch leads elsewhere, so that a rank that saw only its own gradient would be found out above
    model = network(0)
    optimizer = optimizer_of(model)
    sparse = sparsify(model, optimizer, strategy=ByGradient(), sparsity=0.7)
    half = trained(model, sparse, slice(0, BATCH // 2), optimizer)
    assert half["topologies"][2] != answers[0]["first"]["topologies"][2]


@pytest.mark.integration
def test_ranks_that_grow_different_positions_stop_with_the_same_error(answers: list[dict[str, Any]]) -> None:
    first, second = (answer["elsewhere"] for answer in answers)
    assert first == second
    assert first[0] == DisagreementError.__name__
    assert "update 1 (step 3) on the positions of '0.weight'" in first[1]
    assert "rank 1 differs from rank 0" in first[1]


@pytest.mark.integration
def test_ranks_with_different_start_values_stop_at_the_first_step(answers: list[dict[str, Any]]) -> None:
    first, second = (answer["apart"] for answer in answers)
    assert first == second
    assert first[0] == DisagreementError.__name__
    assert "the ranks disagree at the start on the topology: rank 1 differs from rank 0" in first[1]


@pytest.mark.integration
def test_a_plugin_that_fails_on_one_rank_stops_all(answers: list[dict[str, Any]]) -> None:
    first, second = (answer["fails"] for answer in answers)
    assert second == ["ValueError", "no luck today"]
    assert first[0] == DisagreementError.__name__
    assert first[1] == "rank 1 failed: ValueError: no luck today (raised in the hook 'grow' of plugin 'Fails')"


@pytest.mark.integration
def test_a_rank_whose_update_is_late_gets_an_error_with_the_steps_of_the_others(answers: list[dict[str, Any]]) -> None:
    first, second = (answer["late"] for answer in answers)
    assert first == second
    assert first[0] == DisagreementError.__name__
    assert "rank 0 is at update 1 (step 3), rank 1 at the comparison after step 3" in first[1]


@pytest.mark.integration
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ASTRAY)
def test_one_different_value_on_one_rank_stops_both_even_without_an_update(
    answers: list[dict[str, Any]], name: str, dtype: Any
) -> None:
    first, second = (answer[f"{name} {dtype}"] for answer in answers)
    assert first == second
    parameter = "sparse_values" if name == "compact" else "0.weight"
    assert f"on the values of '{parameter}': rank 1 differs from rank 0" in first[1]


@pytest.mark.integration
def test_rank_0_may_save_alone(answers: list[dict[str, Any]]) -> None:
    assert [answer["alone"] for answer in answers] == [STEPS, STEPS]


@pytest.mark.integration
def test_ranks_that_save_different_values_stop(answers: list[dict[str, Any]]) -> None:
    for answer in answers:
        assert answer["saved"][0] == DisagreementError.__name__
        assert f"after step {STEPS}" in answer["saved"][1]


@pytest.mark.integration
def test_the_example_of_the_page_trains_on_two_ranks() -> None:
    page = (Path(__file__).parent.parent / "docs/several-devices.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    first, second = start(["-c", code])
    assert (first.status, first.stderr) == (0, "")
    assert first.stdout == second.stdout
    assert first.stdout.startswith("3 ")
