"""Ranks agree, or all of them say in one sentence why not; here each rank is a thread, with a store in memory."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from engine_examples import TWO_TENSORS
from torch.distributed import FileStore, HashStore

from sparsecore.engine.engine import Engine
from sparsecore.engine.hooks import hookimpl
from sparsecore.engine.schedules import Clock
from sparsecore.engine.state import State
from sparsecore.engine.step import Advance
from sparsecore.engine.topology import Topology
from sparsecore.errors import DisagreementError, InputError, InvariantError
from sparsecore.learning.ranks import SingleProcess
from sparsecore_torch.arrays import TorchArrays
from sparsecore_torch.distributed.digests import (
    Pace,
    digests,
    fingerprint,
)
from sparsecore_torch.distributed.ranks import Patience, TorchRanks, launched_ranks, present_ranks

ARRAYS = TorchArrays()


def on_ranks(act: Callable[[TorchRanks], Any], size: int = 2, seconds: float = 0.3) -> list[Any]:
    """What each rank's thread returned, or raised."""
    store, results = HashStore(), [None] * size
    patience = Patience(seconds, seconds, seconds)

    def run(rank: int) -> None:
        try:
            results[rank] = act(TorchRanks(rank, size, lambda: store, patience))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return results


class Drop:
    """Drops a weight of each tensor at every step; grows where the rank says."""

    def __init__(self, luck: int = 0) -> None:
        self._luck = luck

    @hookimpl
    def update_due(self) -> bool:
        return True

    @hookimpl
    def prune(self, topology: Topology) -> Any:
        return topology.all_but(torch.tensor([topology.slots(name).start for name in topology.layout.names]))

    @hookimpl
    def grow(self, occupied: Topology, counts: Any, random: Any) -> Any:
        from sparsecore.engine.growth import random_free_positions

        return random_free_positions(occupied, counts, random.child("luck", self._luck))


class Broken(Drop):
    """Grows where weights are."""

    @hookimpl
    def grow(self, occupied: Topology) -> Any:
        return occupied.positions[:1]


def advance(strategy: object, value: float = 1.0) -> Advance:
    engine = Engine(TWO_TENSORS, {"strategy": strategy}, arrays=ARRAYS)
    state = engine.start(0.8, clock=Clock(step=4))
    return engine.advance(state, torch.full((state.topology.size,), value))


def sentences(results: list[Any], kind: type[Exception] = DisagreementError) -> set[str]:
    assert all(type(result) is kind for result in results), results
    return {str(result) for result in results}


def test_ranks_that_agree_continue_unchanged() -> None:
    alone = advance(Drop())
    for result in on_ranks(lambda ranks: ranks.together(lambda: advance(Drop())), size=3):
        assert torch.equal(result.state.topology.positions, alone.state.topology.positions)
        assert torch.equal(result.values, alone.values)


def test_ranks_that_grow_different_positions_get_an_error_naming_ranks_and_tensor() -> None:
    results = on_ranks(lambda ranks: ranks.together(lambda: advance(Drop(luck=ranks.rank % 2))), size=4)
    (sentence,) = sentences(results)
    assert "update 1 (step 5)" in sentence
    assert "the positions of 'first' (and on 3 more): ranks 1 and 3 differ from rank 0" in sentence


def test_ranks_with_different_tensors_get_an_error() -> None:
    def act(ranks: TorchRanks) -> Any:
        return ranks.jointly(
            lambda: 0, lambda _: {"data": "same"} if ranks.rank else {"data": "same", "plugin": "mine"}
        )

    (sentence,) = sentences(on_ranks(act))
    assert "on what there is: rank 1 differs from rank 0" in sentence


def test_ranks_with_different_values_get_an_error() -> None:
    (sentence,) = sentences(on_ranks(lambda ranks: ranks.together(lambda: advance(Drop(), 1.0 + ranks.rank))))
    assert "the values of 'first'" in sentence
    assert "positions" not in sentence


def test_a_rank_that_fails_raises_its_own_error_and_the_others_name_it() -> None:
    results = on_ranks(lambda ranks: ranks.together(lambda: advance((Drop, Broken)[ranks.rank]())))
    assert isinstance(results[1], InvariantError)
    assert type(results[0]) is DisagreementError
    assert str(results[0]) == f"rank 1 failed: {results[1]}"
    assert results[0].reported_by == results[1].reported_by == 0


def test_an_error_of_any_type_is_reported_with_its_name() -> None:
    def act(ranks: TorchRanks) -> Advance:
        return ranks.together(lambda: advance(Drop() if ranks.rank else 1 / 0))

    results = on_ranks(act)
    assert isinstance(results[0], ZeroDivisionError)
    assert str(results[1]) == "rank 0 failed: ZeroDivisionError: division by zero"


def test_identical_failures_are_reported_by_one_rank() -> None:
    results = on_ranks(lambda ranks: ranks.together(lambda: advance(Broken())), size=3)
    assert len(sentences(results, InvariantError)) == 1
    assert [error.reported_by for error in results] == [0, 0, 0]


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_a_missing_rank_is_named_and_no_rank_waits_forever(absent: int) -> None:
    def act(ranks: TorchRanks) -> Any:
        return "absent" if ranks.rank == absent else ranks.together(lambda: advance(Drop()))

    results = on_ranks(act, size=3)
    (sentence,) = sentences([result for result in results if result != "absent"])
    assert f"rank {absent} did not come to update 1 (step 5)" in sentence
    present = [rank for rank in range(3) if rank != absent]
    assert {results[rank].reported_by for rank in present} == {present[0]}


def test_ranks_at_different_updates_get_an_error_with_the_update_of_each() -> None:
    def act(ranks: TorchRanks) -> Advance:
        late = advance(Drop())
        state = State(late.state.topology, late.state.strategy_states, Clock(step=5 + ranks.rank, updates=1))
        return ranks.together(lambda: Advance(state, late.values, late.reallocation))

    (sentence,) = sentences(on_ranks(act))
    assert "rank 0 is at update 1 (step 5), rank 1 at update 1 (step 6)" in sentence


def test_a_rank_with_a_broken_connection_reports_the_errors_of_the_others() -> None:
    heard = threading.Event()

    def act(ranks: TorchRanks) -> Any:
        if ranks.rank == 1:
            with ranks.communicating():
                heard.wait(30)
                raise RuntimeError("Connection closed by peer")
        try:
            return ranks.together(lambda: advance(Drop()))
        finally:
            heard.set()

    (sentence,) = sentences(on_ranks(act))
    assert "rank 1 did not come" in sentence


def test_an_unexplained_communication_error_is_raised_unchanged() -> None:
    def act(ranks: TorchRanks) -> Any:
        with ranks.communicating():
            raise RuntimeError("out of memory")

    assert [str(error) for error in on_ranks(act)] == ["out of memory"] * 2


def test_many_updates_leave_nothing_in_the_store() -> None:
    store = HashStore()

    def run(rank: int) -> None:
        ranks = TorchRanks(rank, 2, lambda: store)
        for _ in range(5):
            ranks.together(lambda: advance(Drop()))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.num_keys() <= 4


def test_a_file_store_works_too(tmp_path: Path) -> None:
    def act(ranks: TorchRanks) -> Any:
        own = TorchRanks(ranks.rank, 2, lambda: FileStore(str(tmp_path / "store"), 2))
        return [own.together(lambda: advance(Drop())).reallocation.pruned_count for _ in range(3)]

    first, second = on_ranks(act)
    assert first == second == [2, 2, 2]


def nothing(_: Any) -> Mapping[str, str]:
    return {}


def test_a_joint_action_returns_each_ranks_own_result() -> None:
    assert on_ranks(lambda ranks: ranks.jointly(lambda: ranks.rank, nothing)) == [0, 1]


def test_differing_facts_are_named() -> None:
    def act(ranks: TorchRanks) -> Any:
        return ranks.jointly(lambda: ranks.rank, lambda rank: {"data": "same", "plugin code": str(rank)})

    (sentence,) = sentences(on_ranks(act))
    assert "at the start on the plugin code: rank 1 differs from rank 0" in sentence


@pytest.mark.parametrize(("wrong", "expected"), [(0, "no such file"), (1, "rank 1 failed: no such file")])
def test_a_user_error_is_an_input_error_on_all_ranks(wrong: int, expected: str) -> None:
    def read(rank: int) -> int:
        if rank == wrong:
            raise InputError("no such file")
        return rank

    results = on_ranks(lambda ranks: ranks.jointly(lambda: read(ranks.rank), nothing))
    assert str(results[wrong]) == "no such file"
    assert str(results[1 - wrong]) == expected
    assert all(type(error) is InputError and error.reported_by == 0 for error in results)


def test_without_a_launcher_or_a_process_group_a_process_is_alone() -> None:
    assert isinstance(launched_ranks(torch.device("cpu")), SingleProcess)
    assert isinstance(present_ranks(), SingleProcess)


def digests_of(positions: list[int], values: Any) -> tuple[list[int], list[int]]:
    topology = Topology.of(TWO_TENSORS, torch.tensor(positions, dtype=torch.int32), ARRAYS)
    return digests(topology, values)


@given(
    st.sets(st.integers(0, 99), min_size=2, max_size=20),
    st.sets(st.integers(100, 199), min_size=2, max_size=20),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    st.data(),
)
def test_one_changed_position_or_bit_changes_the_fingerprint_of_its_tensor_alone(
    first: set[int], second: set[int], dtype: Any, data: Any
) -> None:
    positions = sorted(first) + sorted(second)
    values = torch.from_numpy(np.random.default_rng(len(positions)).standard_normal(len(positions))).to(dtype)
    here = digests_of(positions, values)
    assert digests_of(positions, values.clone()) == here

    other = data.draw(st.sampled_from(sorted(set(range(100, 200)) - second)))
    moved = sorted(first) + sorted((second - {max(second)}) | {other})
    there = digests_of(moved, values)
    assert there[0][0] == here[0][0]
    assert there[0][1] != here[0][1]

    changed = values.clone()
    changed[0] = -changed[0]
    there = digests_of(positions, changed)
    assert there[0] == here[0]
    assert (there[1][0] != here[1][0], there[1][1] != here[1][1]) == (True, False)


def test_swapped_values_are_detected() -> None:
    assert digests_of([1, 2, 150], torch.tensor([1.0, 2.0, 3.0])) != digests_of(
        [1, 2, 150], torch.tensor([2.0, 1.0, 3.0])
    )


def paced(step_seconds: float, cost: float, steps: int) -> list[int]:
    """After which steps ranks compare, where a step and a comparison take so long."""
    time = [0.0]
    pace = Pace(lambda: time[0], lambda: time[0])
    compared, due = [], 0
    for step in range(1, steps + 1):
        time[0] += step_seconds
        if step >= due:
            due = step + pace.pause(step)
            compared.append(step)
            with pace.spending():
                time[0] += cost
    return compared


@given(st.floats(0.002, 2.0), st.floats(1e-4, 3.0))
def test_comparisons_take_a_small_share_of_the_time_and_never_block_long(step_seconds: float, cost: float) -> None:
    compared = paced(step_seconds, cost, 2000)
    assert max(np.diff(compared)) <= 100
    whole = 2000 * step_seconds
    # unless a comparison takes so long that even every hundredth step is too often
    assert len(compared) * cost <= max(0.005 * whole + 0.025 + 2 * cost, 2000 / 100 * cost + 0.025 + 2 * cost)


def test_the_first_steps_are_compared_one_by_one() -> None:
    assert paced(0.01, 0.0005, 1000)[:40] == list(range(1, 41))


@given(st.integers(1, 3000), st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.int8]), st.data())
def test_one_changed_bit_or_two_swapped_values_change_the_fingerprint(count: int, dtype: Any, data: Any) -> None:
    values = torch.from_numpy(np.random.default_rng(count).standard_normal(count) * 50).to(dtype)
    own = fingerprint([torch.ones(3), values])
    assert fingerprint([torch.ones(3), values.clone()]) == own
    other = values.clone()
    place = data.draw(st.integers(0, count - 1))
    raw = other.view(torch.uint8)
    raw[place * other.element_size()] ^= 1 << data.draw(st.integers(0, 7))
    assert fingerprint([torch.ones(3), other]) != own
    if count > 1 and not torch.equal(values[:1], values[-1:]):
        assert fingerprint([torch.ones(3), torch.cat([values[-1:], values[1:-1], values[:1]])]) != own
    assert fingerprint([values, torch.ones(3)]) != own


def test_the_fingerprint_of_large_tensors_and_unusual_views_covers_every_bit() -> None:
    flat = torch.randn(200_003)
    for view in (flat, flat[1:], flat[3:-2].view(-1, 2).T):
        changed = view.clone()
        own = fingerprint([view])
        assert fingerprint([view.clone()]) == own
        index = (0,) * (view.ndim - 1) + (view.shape[-1] - 1,)
        changed[index] = torch.nextafter(changed[index], torch.tensor(9.0))
        assert fingerprint([changed]) != own


def test_a_comparison_names_the_tensor_and_the_rank() -> None:
    def act(ranks: TorchRanks) -> Any:
        values = {"the values of 'a'": torch.zeros(5), "the values of 'b'": torch.full((7,), float(ranks.rank == 2))}
        return ranks.compare(Clock(step=5), lambda: values)

    (sentence,) = sentences(on_ranks(act, size=3))
    assert "after step 5 on the values of 'b': rank 2 differs from rank 0" in sentence


def test_an_epoch_and_a_run_end_with_a_comparison() -> None:
    def act(ranks: TorchRanks) -> Any:
        ranks._next_comparison = 1000
        compared = []
        for step in range(1, 26):
            if ranks.compare(Clock(step, 10, 25), lambda: {"x": torch.zeros(2)}):
                compared.append(step)
                ranks._next_comparison = 1000
        return compared

    assert on_ranks(act) == [[10, 20, 25]] * 2
