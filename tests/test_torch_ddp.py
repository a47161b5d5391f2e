"""One network, two processes under DistributedDataParallel: the same topologies, without communication."""

import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
import torch.distributed as dist  # noqa: E402
from processes import call, start  # noqa: E402
from rank_examples import BATCH, STEPS, ByGradient, alone, network, optimizer_of, share, steps, trained  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

from sparsecore import hookimpl  # noqa: E402
from sparsecore.errors import DisagreementError  # noqa: E402
from sparsecore.growth import random_free_positions  # noqa: E402
from sparsecore_torch import sparsify  # noqa: E402


class Elsewhere(ByGradient):
    """Grows by the luck of the rank."""

    @hookimpl
    def grow(self, occupied: Any, counts: Any) -> Any:
        from sparsecore.randomness import Randomness

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
    return trained(model, sparse, share(), optimizer)


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


def on_two_ranks() -> dict[str, Any]:
    """All that is tested here, in one start of two processes."""
    from datetime import timedelta

    from sparsecore_torch.distributed.ranks import present_ranks
    from sparsecore_torch.sparsifying import sparsification

    dist.init_process_group("gloo")
    told = {"first": wrapped_first(), "afterwards": wrapped_afterwards(), "compact": compact()}
    errors = {"elsewhere": heard(Elsewhere()), "fails": heard(Fails()), "apart": heard("static", dist.get_rank())}
    sparsification.present_ranks = lambda: present_ranks(timedelta(seconds=1))
    errors["late"] = heard(Late())
    dist.destroy_process_group()
    return {**told, **errors}


@pytest.fixture(scope="module")
def answers() -> list[dict[str, Any]]:
    return [ended.answer for ended in call(on_two_ranks)]


@pytest.mark.parametrize("when", ["first", "afterwards"])
def test_two_ranks_take_the_decisions_of_one(answers: list[dict[str, Any]], when: str) -> None:
    expected = alone()
    for answer in answers:
        assert answer[when]["topologies"] == expected["topologies"]
        assert answer[when]["updates"] == STEPS // 3
        assert answer[when]["inactive"] == [0.0] * len(expected["inactive"])
        np.testing.assert_allclose(answer[when]["weights"], expected["weights"], rtol=0, atol=1e-12)
    # bit for bit between ranks, whatever the rounding
    assert answers[0][when]["weights"] == answers[1][when]["weights"]


def test_compact_storage_takes_the_decisions_of_one_process_too(answers: list[dict[str, Any]]) -> None:
    expected = compact()
    for answer in answers:
        assert answer["compact"]["topologies"] == expected["topologies"]
        np.testing.assert_allclose(answer["compact"]["values"], expected["values"], rtol=0, atol=1e-12)


def test_decisions_come_from_the_gradients_of_all_ranks(answers: list[dict[str, Any]]) -> None:
    # half of each batch leads elsewhere, so that a rank that saw only its own gradient would be found out above
    model = network(0)
    optimizer = optimizer_of(model)
    sparse = sparsify(model, optimizer, strategy=ByGradient(), sparsity=0.7)
    half = trained(model, sparse, slice(0, BATCH // 2), optimizer)
    assert half["topologies"][2] != answers[0]["first"]["topologies"][2]


def test_ranks_that_grow_elsewhere_stop_with_the_same_sentence(answers: list[dict[str, Any]]) -> None:
    first, second = (answer["elsewhere"] for answer in answers)
    assert first == second
    assert first[0] == DisagreementError.__name__
    assert "update 1 (step 3) on the positions of '0.weight'" in first[1]
    assert "rank 1 differs from rank 0" in first[1]


def test_ranks_that_begin_apart_stop_at_the_first_step(answers: list[dict[str, Any]]) -> None:
    first, second = (answer["apart"] for answer in answers)
    assert first == second
    assert first[0] == DisagreementError.__name__
    assert "the ranks disagree at the start on the topology: rank 1 differs from rank 0" in first[1]


def test_a_plugin_that_fails_on_one_rank_stops_all(answers: list[dict[str, Any]]) -> None:
    first, second = (answer["fails"] for answer in answers)
    assert second == ["ValueError", "no luck today"]
    assert first[0] == DisagreementError.__name__
    assert first[1] == "rank 1 failed: ValueError: no luck today (raised in the hook 'grow' of plugin 'Fails')"


def test_a_rank_whose_update_comes_later_does_not_keep_the_others_waiting(answers: list[dict[str, Any]]) -> None:
    first, second = (answer["late"] for answer in answers)
    assert first[0] == DisagreementError.__name__
    assert "rank 1 did not come to update 1 (step 3) in 1 s" in first[1]
    assert second[0] != DisagreementError.__name__ or second[1] == first[1]


def test_the_example_of_the_page_trains_on_two_ranks() -> None:
    page = (Path(__file__).parent.parent / "docs/several-devices.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    first, second = start(["-c", code])
    assert (first.status, first.stderr) == (0, "")
    assert first.stdout == second.stdout
    assert first.stdout.startswith("3 ")
