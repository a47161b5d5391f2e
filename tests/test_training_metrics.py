"""Metrics of a sparse training, and the history of its updates: what they count, how small they stay, and resuming."""

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from observer_examples import started
from sparsify_examples import often, train

from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError
from sparsecore.observers import Observer
from sparsecore.observers.history import MOST_ENTRIES, History
from sparsecore.observers.metrics import overlap
from sparsecore_numpy import NumpyArrays

TENSORS = ("0.weight", "2.weight", "4.weight")


@attrs.define(eq=False)
class Masks(Observer):
    """Keeps the active positions before and after each update."""

    seen: list = attrs.field(factory=list)

    def reallocated(self, update):
        both = update.reallocation.before, update.reallocation.after
        self.seen.append([topology.arrays.to_numpy(topology.positions) for topology in both])


@pytest.mark.parametrize("options", [{}, {"regrow_pruned": True}, {"units": "2x2", "include": "[02].weight"}], ids=str)
def test_metrics_are_those_of_the_masks_and_of_the_last_update(options):
    masks = Masks()
    model, optimizer, training = started(**options)
    training.observe(masks)
    before = training.metrics()
    assert [before[name] for name in ("pruned", "grown", "overlap", "sparsity")] == [0, 0, 1, training.sparsity]
    assert before["DynamicReallocation.threshold"] == 0.05

    train(model, optimizer, range(7))
    metrics, (old, new) = training.metrics(), map(set, masks.seen[-1])
    assert metrics["overlap"] == pytest.approx(len(old & new) / len(old | new), abs=1e-15)
    assert metrics["pruned"] == metrics["grown"] >= len(old - new) > 0
    assert metrics["DynamicReallocation.threshold"] > 0
    weights = {name: tensor for name, tensor in model.state_dict().items() if name in TENSORS}
    for name, mask in training.masks().items():
        assert metrics[f"density/{name}"] == mask.sum().item() / weights[name].numel()
    assert list(metrics) == list(before)
    assert all(type(number) is float for number in metrics.values())


def test_a_resumed_training_has_the_history_and_the_metrics_of_the_uninterrupted_one(tmp_path):
    whole, optimizer, training = started()
    train(whole, optimizer, range(9))
    first, its_optimizer, interrupted = started()
    train(first, its_optimizer, range(5))
    torch.save([part.state_dict() for part in (first, its_optimizer, interrupted)], tmp_path / "at.pt")
    model, optimizer, resumed = started()
    for part, saved in zip((model, optimizer, resumed), torch.load(tmp_path / "at.pt"), strict=True):
        part.load_state_dict(saved)
    assert resumed.metrics() == interrupted.metrics()
    train(model, optimizer, range(5, 9))
    assert resumed.metrics() == training.metrics()
    ours, theirs = resumed.state_dict()["history"], training.state_dict()["history"]
    assert len(ours["step"]) == training.updates == 4
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs if name != "latest")


def test_metrics_do_not_depend_on_the_storage_and_name_the_groups_of_strategies():
    results = []
    for options in ({}, {"storage": "compact"}, {"strategy": {"*": often(), "0.*": often()}}):
        model, optimizer, training = started(**options)
        train(model, optimizer, range(5))
        results.append(training.metrics())
    masked, compact, groups = results
    assert masked == compact
    assert {name for name in groups if "threshold" in name} == {
        "DynamicReallocation.threshold/0.*",
        "DynamicReallocation.threshold/*",
    }


def test_state_dicts_without_a_history_still_load_and_damaged_histories_do_not():
    model, optimizer, training = started()
    assert "history" not in training.state_dict()
    train(model, optimizer, range(5))
    saved = training.state_dict()
    history = saved.pop("history")
    del saved["checksums"]  # which older ones lack, too
    for damaged in ({**history, "grown": history["grown"][:, :1]}, {**history, "step": history["step"].flip(0)}, 3, {}):
        with pytest.raises(InputError, match="damaged"):
            training.load_state_dict({**saved, "history": damaged})
    assert training.metrics()["pruned"] > 0
    training.load_state_dict(saved)
    assert training.metrics()["pruned"] == 0


def update(pruned, grown, counts):
    """An update of two tensors with these numbers, as far as a history looks at it."""
    layout = Layout.of({"a": (1000,), "b": (1000,)})
    positions = np.concatenate([np.arange(counts[0]), 1000 + np.arange(counts[1])])
    after = Topology.of(layout, positions.astype(np.int32), NumpyArrays())
    nothing = np.zeros(0, np.int64)
    return Reallocation(after, after, nothing, nothing, nothing, np.asarray(pruned), np.asarray(grown))


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3 * MOST_ENTRIES), st.integers(0, 2**32 - 1))
def test_a_history_stays_short_and_loses_no_weight_that_moved(updates, seed):
    random = np.random.default_rng(seed)
    history, moved = History(2), np.zeros((2, 2), np.int64)
    for step in range(1, updates + 1):
        pruned, grown = random.integers(0, 9, 2), random.integers(0, 9, 2)
        moved += [pruned, grown]
        metrics = {"pruned": 1.0, "grown": float(step), "overlap": 0.5}
        history = history.after(update(pruned, grown, (step % 7, step % 5)), step, metrics)
    assert len(history.entries) <= MOST_ENTRIES
    assert sum(entry.updates for entry in history.entries) == updates
    assert np.array_equal(sum(np.stack([entry.pruned, entry.grown]) for entry in history.entries), moved)
    assert history.entries[-1].step == history.latest["grown"] == updates
    assert list(history.entries[-1].active) == [updates % 7, updates % 5]
    assert {entry.updates for entry in history.entries[:-1]} <= {history.stride}
    assert {entry.overlap for entry in history.entries} == {0.5}
    again = History.load(history.dump(), 2)
    assert repr(again) == repr(history)


def test_overlap_counts_what_regrows_in_its_place_as_never_moved():
    layout, arrays = Layout.of({"a": (10,)}), NumpyArrays()
    before = Topology.of(layout, np.asarray([1, 3, 5, 7], np.int32), arrays)
    after = Topology.of(layout, np.asarray([1, 2, 5, 7], np.int32), arrays)
    survives, sources = np.asarray([True, False, False, True]), np.asarray([0, 4, 4, 3])
    counts = np.asarray([2])
    one = Reallocation(before, after, survives, sources, np.zeros(4), counts, counts)
    assert overlap(one, regrow_pruned=True) == 3 / 5
