"""How topologies moved: what the logs of runs tell, against Python's sets."""

import base64
import json
import struct
import zlib
from itertools import accumulate, pairwise

import pytest
from in_process import no_waiting_for_the_disk
from study_examples import ARMS, small_study

from sparsecore.errors import InputError
from sparsecore.experiment.experiment import Experiment
from sparsecore.run.replay import first_topology
from sparsecore.run.setup import set_up
from sparsecore.study.folder import TrialResult
from sparsecore.study.topology_history import topology_history_of
from sparsecore.study.trials import trials_of


@pytest.fixture(autouse=True, scope="module")
def hurry():
    with no_waiting_for_the_disk():
        yield


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory, hurry):  # noqa: ARG001
    by_values = {"name": "topkast", "strategy": ["topkast"], "settings": {"strategy.topkast.schedule": {"steps": 2}}}
    return small_study(tmp_path_factory.mktemp("small"), sparsities=[0.8], trials=1, arm=[*ARMS, by_values])


def positions(text):
    """The positions that a log has as text, by another way than the package's."""
    raw = zlib.decompress(base64.b64decode(text))
    found, last = [], 0
    for difference in struct.unpack(f"<{len(raw) // 8}q", raw):
        last += difference
        found.append(last)
    return set(found)


def history_of(folder, trial):
    """The topology history of a trial that has finished."""
    return topology_history_of(folder, trial, folder.result(trial))


def sets_of(folder, trial):
    """The topology at the start and after each update, as sets; the start is drawn again from the seed."""
    topologies = [set(map(int, first_topology(folder.run(trial)).positions))]
    for line in folder.run(trial).reallocations.read_text().splitlines():
        record = json.loads(line)
        topologies.append(topologies[-1] - positions(record["pruned_positions"]) | positions(record["grown_positions"]))
    return topologies


def test_a_start_that_is_chosen_by_the_initial_values_is_found_from_the_log(carried_out):
    trial = next(trial for trial in trials_of(carried_out.read()) if trial.arm == "topkast")
    begun = set_up(Experiment.of(carried_out.tables(trial))).start.topology
    assert (first_topology(carried_out.run(trial)).positions == begun.positions).all()
    assert history_of(carried_out, trial).updates > 3


@pytest.mark.parametrize("arm", ["dpr", "set", "again", "topkast"])
def test_topology_histories_are_those_of_python_sets(carried_out, arm):
    trial = next(trial for trial in trials_of(carried_out.read()) if trial.arm == arm)
    history, topologies = history_of(carried_out, trial), sets_of(carried_out, trial)
    assert len(history.snapshots) == len(topologies) == history.updates + 1
    assert history.updates >= (0 if arm == "again" else 4)
    bounds, size, ever = [0, *accumulate(history.sizes)], sum(history.sizes), set()
    for snapshot, topology in zip(history.snapshots, topologies, strict=True):
        ever |= topology
        assert snapshot.overlap == len(topology & topologies[-1]) / len(topology | topologies[-1])
        assert snapshot.explored == len(ever) / size
        inside = [sum(low <= position < high for position in topology) for low, high in pairwise(bounds)]
        assert list(snapshot.active) == inside
    steps = [json.loads(line)["step"] for line in carried_out.run(trial).reallocations.read_text().splitlines()]
    active_in_step = [len(topologies[sum(update <= step for update in steps)]) for step in range(14)]
    assert history.mean_density == pytest.approx(sum(active_in_step) / 14 / size)
    assert history.snapshots[-1].overlap == 1
    assert [snapshot.epoch for snapshot in history.snapshots[1:]] == [step / 7 for step in steps]


def test_a_topology_history_is_replayed_once_and_refused_if_it_ends_elsewhere_than_the_result(carried_out):
    trial = trials_of(carried_out.read())[0]
    expected = history_of(carried_out, trial)
    kept = carried_out.topology_history(trial).stat().st_mtime_ns
    assert history_of(carried_out, trial) == expected
    assert carried_out.topology_history(trial).stat().st_mtime_ns == kept
    other = TrialResult(test_accuracy=0.5, seconds=1.0, topology_sha256="another")
    with pytest.raises(InputError, match="does not end at the topology of its result"):
        topology_history_of(carried_out, trial, other)
