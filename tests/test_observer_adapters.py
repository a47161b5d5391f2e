"""The adapters to experiment trackers, tested on what the libraries write without a network, and read back by them."""

import csv
import json
import random
import sqlite3
import struct
import time
from collections import defaultdict

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from observer_examples import Recorder, started
from sparsify_examples import train

from sparsecore.errors import InputError
from sparsecore.extras import MissingPackageError
from sparsecore.observers import CsvLog, MlflowLog, TensorBoardLog, TrackioLog, WandbLog


def logged(observer, path, steps=9, crash=5, pause=0.0):
    """Train with the observer, and go on from the middle as after a crash; return what the log must then have.

    Args:
        observer: writes the log.
        path: of the checkpoint.
        steps: of the whole training.
        crash: the steps before the checkpoint.
        pause: seconds between the two.

    Returns:
        The values of all metrics by name and step.
    """
    whole = Recorder()
    parts = started(observer, whole)
    for step in range(steps - 2):
        train(*parts[:2], [step])
        if step == crash - 1:
            torch.save([part.state_dict() for part in parts], path)
    observer.ended()
    time.sleep(pause)
    again = type(observer)(**{field: getattr(observer, field) for field in options_of(observer)})
    resumed = started(again, whole)
    generators = random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002
    for part, state in zip(resumed, torch.load(path), strict=True):
        part.load_state_dict(state)
    train(*resumed[:2], range(crash, steps))
    resumed[2].squash()
    now = random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002
    assert now == generators
    expected = defaultdict(dict)
    for name, value in whole.starts[0].metrics.items():
        expected[name][0] = value
    for update in whole.updates:
        for name, value in update.metrics.items():
            expected[name][update.clock.step] = value
    return dict(expected)


def options_of(observer):
    return [field.alias for field in type(observer).__attrs_attrs__ if field.init]


def test_csv_has_a_line_for_each_value_and_none_of_steps_that_are_taken_again(tmp_path):
    log = tmp_path / "logs" / "log.csv"
    expected = logged(CsvLog(log), tmp_path / "at.pt")
    head, *rows = csv.reader(log.read_text().splitlines())
    assert head == ["step", "metric", "value"]
    read = defaultdict(dict)
    for step, name, value in rows:
        assert int(step) not in read[name]
        read[name][int(step)] = float(value)
    assert read == expected
    assert set(read["pruned"]) == {2, 4, 6, 8}


def test_a_csv_log_that_cannot_be_continued_or_has_no_path_is_refused(tmp_path):
    foreign = tmp_path / "foreign.csv"
    foreign.write_text("a,b\n1,2\n")
    model, optimizer, training = started()
    train(model, optimizer, range(3))
    training.observe(CsvLog(foreign))
    with pytest.raises(InputError, match=r"foreign.csv is no log"):
        train(model, optimizer, [3])
    assert foreign.read_text() == "a,b\n1,2\n"
    training.observe(CsvLog())
    with pytest.raises(InputError, match="needs the path"):
        train(model, optimizer, [3])


def test_tensorboard_reads_the_metrics_and_forgets_steps_that_are_taken_again(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    expected = logged(TensorBoardLog(tmp_path / "logs", prefix="sparse/"), tmp_path / "at.pt")
    events = reader.EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    scalars = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    as_float32 = {
        f"sparse/{name}": {step: np.float32(value) for step, value in values.items()}
        for name, values in expected.items()
    }
    assert scalars == as_float32
    assert all(len(events.Scalars(tag)) == len(values) for tag, values in scalars.items())


def test_mlflow_has_one_run_with_the_metrics_and_the_settings(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "runs").as_uri()
    expected = logged(MlflowLog(tracking_uri=uri, run_name="first"), tmp_path / "at.pt")
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("sparsecore").experiment_id])
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert run.data.params["sparsity"] == "0.75"
    for name, values in expected.items():
        history = client.get_metric_history(run.info.run_id, name)
        assert {metric.step: metric.value for metric in history} == values

    mlflow.set_tracking_uri(uri)
    with mlflow.start_run(run_name="mine") as mine:
        parts = started(MlflowLog(tracking_uri=uri, prefix="sparse/"))
        train(*parts[:2], range(3))
        parts[2].squash()
        assert mlflow.active_run().info.run_id == mine.info.run_id
    assert client.get_run(mine.info.run_id).data.metrics["sparse/grown"] > 0


def test_mlflow_gets_names_that_it_accepts_and_no_two_that_become_one():
    pytest.importorskip("mlflow")
    log = MlflowLog()
    assert log._name("density/a.b") == "density/a.b"
    assert log._name("mine.py:Mine.height") == "mine.py_Mine.height"
    with pytest.raises(InputError, match="same name in MLflow"):
        log._name("mine.py+Mine.height")


def test_trackio_has_one_run_with_the_metrics(tmp_path, monkeypatch, capsys):
    trackio = pytest.importorskip("trackio")
    from trackio import sqlite_storage

    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path)
    expected = logged(TrackioLog("mine", "first"), tmp_path / "at.pt")
    with sqlite3.connect(tmp_path / "mine.db") as database:
        database.row_factory = sqlite3.Row
        rows = [dict(row) for row in database.execute("select * from metrics order by id")]
    database.close()
    assert {row["run_name"] for row in rows} == {"first"}
    assert len({row.get("run_id") for row in rows}) == 1  # a column that old versions do not have
    read = defaultdict(dict)
    for row in rows:
        for name, value in json.loads(row["metrics"]).items():
            read[name][row["step"]] = value
    assert read == expected

    parts = started(TrackioLog("unnamed"))
    train(*parts[:2], range(1))
    parts[2].squash()
    with sqlite3.connect(tmp_path / "unnamed.db") as database:
        assert database.execute("select run_name from metrics").fetchone()[0]
    database.close()

    mine = trackio.init("mine", name="second", embed=False)
    parts = started(TrackioLog("other", prefix="sparse/"))
    train(*parts[:2], range(3))
    parts[2].squash()
    mine.log({"loss": 1.0})
    trackio.finish()
    assert not (tmp_path / "other.db").exists()
    assert "second" in capsys.readouterr().out


def records(path):
    """The records of a .wandb file: a log as LevelDB has it, with seven bytes in front."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, record = path.read_bytes(), b""
    assert content[:4] in {b"", b":W&B"}  # empty as long as nothing is written
    place = 7
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:  # the rest of a block that is too short for a header
            place += left
            continue
        size, kind = struct.unpack_from("<HB", content, place + 4)
        record += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in {1, 4}:  # a whole record, or the last part of one
            yield Record.FromString(record)
            record = b""


def finished_records(folder):
    """The records of all offline runs, once wandb's own process has written the last ones."""
    for _ in range(300):
        runs = [list(records(path)) for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]
        if all(run and run[-1].HasField("exit") for run in runs):
            return [record for run in runs for record in run]
        time.sleep(0.1)
    raise AssertionError("wandb has not finished its files")


def test_wandb_has_the_metrics_over_the_optimizers_steps(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    for name, value in {"WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true", "WANDB_MODE": "offline"}.items():
        monkeypatch.setenv(name, value)
    # wandb names the folder of an offline run by its id and the second in which it begins
    expected = logged(WandbLog(run_name="first", prefix="sparse/"), tmp_path / "at.pt", pause=1.1)
    assert wandb.run is None
    read, runs, axes = defaultdict(dict), set(), {}
    for record in finished_records(tmp_path):
        if record.HasField("run"):
            runs.add((record.run.run_id, record.run.display_name))
        if record.HasField("metric"):
            axes[record.metric.name] = record.metric.step_metric
        if record.HasField("history"):
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for name in items.keys() - {"sparse/step"}:
                read[name][items["sparse/step"]] = items[name]
    assert [name for _, name in runs] == ["first"]
    values = {name.removeprefix("sparse/"): of for name, of in read.items() if name.startswith("sparse/")}
    assert values == expected
    assert {axes[f"sparse/{name}"] for name in expected} == {"sparse/step"}

    mine = wandb.init(project="p")
    parts = started(WandbLog())
    train(*parts[:2], range(3))
    parts[2].squash()
    assert wandb.run is mine
    mine.finish()


@pytest.mark.parametrize(
    ("log", "package"),
    [(TensorBoardLog, "tensorboard"), (WandbLog, "wandb"), (MlflowLog, "mlflow"), (TrackioLog, "trackio")],
)
def test_a_missing_library_is_named_with_the_extra_that_installs_it(log, package, monkeypatch):
    monkeypatch.setattr("sparsecore.extras._is_installed", lambda name: name != package)
    with pytest.raises(MissingPackageError, match=rf"{package}.*not installed.*\[{package}\]"):
        log()
