"""Observers of a sparse training: what they are called with, that they change nothing, resuming, and their errors."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from observer_examples import Recorder, started
from sparsify_examples import train

from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError, ObserverWarning
from sparsecore.observers import CsvLog
from sparsecore.observers.coverage import Coverage
from sparsecore.observers.observation import flat_settings
from sparsecore_numpy import NumpyArrays
from sparsecore_strategies.static import Static


def everything(model, optimizer, training):
    parts = (model.state_dict(), optimizer.state_dict()["state"], training.state_dict()["positions"])
    return str([part.items() if isinstance(part, dict) else part.tolist() for part in parts])


def test_an_observer_is_told_of_the_start_and_of_each_update_with_the_metrics_of_the_training():
    observer = Recorder()
    model, optimizer, training = started(observer)
    topology, before = training.topology, training.metrics()
    assert observer.calls == []
    for step in range(7):
        train(model, optimizer, [step])
        if step % 2:
            update = observer.updates[-1]
            assert update.metrics == training.metrics()
            assert (update.clock.step, update.clock.updates) == (step + 1, training.updates)
            assert update.reallocation.after is training.topology
    training.squash()
    assert observer.methods == ["started", *["reallocated"] * 3, "ended"]
    (start,) = observer.starts
    assert start.topology is topology
    assert start.metrics == {name: before[name] for name in start.metrics}
    assert {"sparsity", "density/0.weight"} <= start.metrics.keys()
    assert (start.is_resumed, start.folder, dict(start.saved)) == (False, None, {})
    assert start.settings["seed"] == 3
    assert start.settings["strategies.0.target.given"] == "20%"


def test_an_observer_of_a_training_without_updates_still_has_its_start():
    observer = Recorder()
    model, optimizer, _ = started(observer, strategy=Static())
    train(model, optimizer, range(2))
    assert observer.methods == ["started"]


def test_observers_change_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ObserverWarning)
        observed = started(Recorder(itop=True), CsvLog(tmp_path / "log.csv"), Recorder(failing=("reallocated",)))
        alone = started()
        for model, optimizer, _ in (observed, alone):
            train(model, optimizer, range(7))
    assert everything(*observed) == everything(*alone)


def ever_active(observer):
    """The share of positions that were active at the start or after an update."""
    topologies = [observer.starts[0].topology, *(update.reallocation.after for update in observer.updates)]
    union = {int(position) for topology in topologies for position in topology.positions}
    return len(union) / topologies[0].layout.size


@pytest.mark.parametrize("observes_after_loading", [False, True])
def test_the_itop_rate_is_the_share_of_positions_ever_active_also_across_checkpoints(observes_after_loading, tmp_path):
    whole = Recorder(itop=True)
    model, optimizer, _ = started(whole)
    train(model, optimizer, range(9))
    assert whole.updates[-1].metrics["itop_rate"] == ever_active(whole) > whole.starts[0].metrics["itop_rate"] > 0

    first = started(Recorder(itop=True))
    train(*first[:2], range(5))
    torch.save([part.state_dict() for part in first], tmp_path / "at.pt")
    saved = torch.load(tmp_path / "at.pt")
    assert saved[2]["ever_active"].numel() == -(-first[2].topology.layout.size // 8)
    observer = Recorder(itop=True)
    resumed = started(*([] if observes_after_loading else [observer]))
    for part, state in zip(resumed, saved, strict=True):
        part.load_state_dict(state)
    if observes_after_loading:
        resumed[2].observe(observer)
    train(*resumed[:2], range(5, 9))
    assert [update.metrics for update in observer.updates] == [update.metrics for update in whole.updates[2:]]
    assert resumed[2].metrics()["itop_rate"] == ever_active(whole)


def test_positions_that_are_adopted_were_active_too():
    model, optimizer, training = started(Recorder(itop=True))
    train(model, optimizer, range(1))
    before = training.metrics()["itop_rate"]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight"):
                parameter.copy_(parameter.flip(0))
    training.adopt()
    both = training.metrics()["itop_rate"]
    assert before < both <= 2 * before


def test_the_itop_rate_is_not_measured_unless_an_observer_asks():
    observer = Recorder()
    model, optimizer, training = started(observer)
    train(model, optimizer, range(3))
    assert "itop_rate" not in observer.updates[-1].metrics
    assert "ever_active" not in training.state_dict()


def test_an_observer_is_started_again_with_its_own_state_after_loading():
    first, second = Recorder(saved={"id": "a"}), Recorder(saved={"id": "b"})
    model, optimizer, training = started(first, second)
    train(model, optimizer, range(3))
    parts = [part.state_dict() for part in (model, optimizer, training)]
    assert parts[2]["observers"] == {"Recorder": {"id": "a"}, "Recorder 2": {"id": "b"}}
    third, fourth = Recorder(), Recorder()
    other = started(third)
    for part, state in zip(other, parts, strict=True):
        part.load_state_dict(state)
    other[2].observe(fourth)
    train(*other[:2], range(3, 5))
    assert [dict(one.starts[0].saved) for one in (third, fourth)] == [{"id": "a"}, {"id": "b"}]
    assert third.starts[0].is_resumed
    assert third.starts[0].clock.step == 3

    training.load_state_dict(parts[2])  # back to it, in the same process
    train(model, optimizer, range(3, 4))
    assert first.methods == ["started", "reallocated", "started", "reallocated"]
    assert dict(first.starts[1].saved) == {"id": "a"}


def test_an_observer_that_cannot_be_started_stops_the_step_before_it_does_anything():
    broken, sound = Recorder(failing=("started",)), Recorder()
    model, optimizer, training = started(broken, sound)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match="Recorder cannot be started: RuntimeError: no started today"):
        train(model, optimizer, [0])
    assert training.step == 0
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    train(model, optimizer, range(2))
    assert (broken.methods, sound.methods) == (["started"], ["started", "reallocated"])


def test_an_observer_that_fails_later_is_left_out_with_one_warning_and_training_goes_on():
    broken, sound = Recorder(failing=("reallocated",)), Recorder()
    model, optimizer, training = started(broken, sound)
    with pytest.warns(ObserverWarning, match="Recorder has failed.*RuntimeError: no reallocated today") as caught:
        train(model, optimizer, range(7))
    assert len(caught) == 1
    assert training.updates == 3
    assert broken.methods == ["started", "reallocated", "ended"]
    assert sound.methods == ["started", *["reallocated"] * 3]


def test_what_is_no_observer_and_an_observer_given_twice_are_refused():
    observer = Recorder()
    _, _, training = started(observer)
    with pytest.raises(InputError, match=r"derived from .*Observer; given 3"):
        training.observe(3)
    with pytest.raises(InputError, match="Recorder observes this training already"):
        training.observe(observer)
    training.squash()
    with pytest.raises(InputError, match="ended"):
        training.observe(Recorder())


def test_a_damaged_record_is_refused_and_changes_nothing():
    model, optimizer, training = started(Recorder(itop=True))
    train(model, optimizer, range(5))
    saved, metrics = training.state_dict(), training.metrics()
    bits = saved["ever_active"]
    for damaged in ({"ever_active": bits[:-1]}, {"ever_active": bits.int()}, {"observers": 3}, {"ever_active": 3}):
        with pytest.raises(InputError, match=r"bitmap|damaged"):
            training.load_state_dict({**saved, **damaged})
    assert training.metrics() == metrics


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 70), st.data())
def test_coverage_counts_each_position_once(size, data):
    coverage, seen = Coverage(size), set()
    for some in data.draw(st.lists(st.sets(st.integers(0, size - 1)), max_size=5)):
        coverage.add(np.asarray(sorted(some), np.int32))
        seen |= some
        assert (coverage.count, coverage.rate) == (len(seen), len(seen) / size)
    again = Coverage.load(coverage.dump(), size)
    assert again.count == len(seen)
    again.add_topology(Topology.of(Layout.of({"all": (size,)}), np.arange(size, dtype=np.int32), NumpyArrays()))
    assert (again.rate, coverage.count) == (1.0, len(seen))


def test_settings_are_flat_and_have_plain_values():
    nested = {"sparsity": 0.9, "data": {"dir": None, "flip": True}, "hidden": [3, 4], "strategy": [{"name": "dpr"}]}
    expected = {"sparsity": 0.9, "data.flip": True, "hidden": "[3, 4]", "strategy.0.name": "dpr"}
    assert flat_settings(nested) == expected


def test_trackers_and_trainers_are_imported_by_nothing_but_their_use():
    code = """
import sys
import sparsecore, sparsecore.observers, sparsecore_torch
from sparsecore.cli.command_line import run
run(["plugins"])
from sparsecore.observers import MlflowLog, TensorBoardLog, TrackioLog, WandbLog
trackers = {"tensorboard", "wandb", "mlflow", "trackio", "matplotlib", "IPython"}
trainers = {"lightning", "transformers", "accelerate", "timm", "torchvision"}
loaded = (trackers | trainers) & set(sys.modules)
assert not loaded, loaded
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "TensorBoard" in result.stdout
