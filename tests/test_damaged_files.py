"""A file that is truncated, or has a changed byte or an entry of another type, is refused in a sentence or the same.

The files are those that 0.2.0 has written.
"""

import copy
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import run_in_process
from sealed_content import rewrite
from test_written_before import DATA, writer

from sparsecore.errors import InputError
from sparsecore.experiment.assembly import experiment_fingerprint
from sparsecore.report import read_run
from sparsecore.run.checkpoint import read_checkpoint

pytestmark = pytest.mark.usefixtures("quick_runs")

WRITTEN = DATA / "0.2.0"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the examples of a test write to, one after another."""
    return tmp_path_factory.mktemp("damaged")


def damaged(data: st.DataObject, original: Path, folder: Path) -> Path:
    """A copy that is truncated or has one byte changed; the beginning, which says most, is hit as often as the rest."""
    content = original.read_bytes()
    where = data.draw(st.integers(0, min(1500, len(content) - 1)) | st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[where] ^= data.draw(st.integers(1, 255))
    is_cut = data.draw(st.integers(0, 3)) == 0
    path = folder / original.name
    path.write_bytes(content[:where] if is_cut else changed)
    return path


def check_sentence(error: InputError, path: Path | None = None) -> None:
    assert path is None or path.name in str(error) or str(path.parent) in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["finished/checkpoint.safetensors", "cpu/start.safetensors"])
@given(data=st.data())
def test_a_damaged_checkpoint_is_refused_or_the_same(name: str, place: Path, data: st.DataObject) -> None:
    path = damaged(data, WRITTEN / name, place)
    try:
        found = read_checkpoint(path)
    except InputError as error:
        check_sentence(error, path)
    else:
        assert found.content() == read_checkpoint(WRITTEN / name).content()


@given(data=st.data())
def test_a_damaged_small_file_is_refused_or_the_same(place: Path, data: st.DataObject) -> None:
    torch = pytest.importorskip("torch")
    from sparsecore_torch import export

    path = damaged(data, WRITTEN / "sparse.safetensors", place)
    before, model, whole = (writer().network() for _ in range(3))
    export.load_sparse(whole, WRITTEN / "sparse.safetensors")
    try:
        export.load_sparse(model, path)
        expected = whole
    except InputError as error:
        check_sentence(error, path)
        expected = before
    pairs = zip(model.parameters(), expected.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("name", ["network.safetensors", "model.safetensors"])
@given(data=st.data())
def test_a_damaged_file_for_predictions_is_refused_or_the_same(name: str, place: Path, data: st.DataObject) -> None:
    pytest.importorskip("sparsecore_cpu._kernels")
    from sparsecore_cpu.inference import Predictor

    path = damaged(data, WRITTEN / name, place)
    try:
        found = Predictor.load(path, threads=1)
    except InputError as error:
        check_sentence(error, path)
    else:
        found.save(place / "again")
        Predictor.load(WRITTEN / name, threads=1).save(place / "whole")
        assert (place / "again").read_bytes() == (place / "whole").read_bytes()


TEXTS = ("experiment.toml", "tensors.json", "metrics.jsonl", "reallocations.jsonl", "result.json")


@pytest.mark.parametrize("name", TEXTS)
@given(data=st.data())
@settings(max_examples=25)
def test_a_damaged_text_of_a_run_is_refused_or_the_same(name: str, place: Path, data: st.DataObject) -> None:
    folder = place / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(WRITTEN / "finished", folder)
    path = damaged(data, WRITTEN / "finished" / name, folder)
    whole = read_run(WRITTEN / "finished")
    try:
        found = read_run(folder)
    except InputError as error:
        check_sentence(error, path)
        return
    assert (found.tensors, found.epochs, found.updates) == (whole.tensors, whole.epochs, whole.updates)
    assert found.result == whole.result
    # the paths of images and of other runs may be others, as folders move
    assert experiment_fingerprint(found.experiment) == experiment_fingerprint(whole.experiment)


STRANGE = st.sampled_from(
    [None, True, -1, 0, 7, 10**30, 0.5, float("nan"), float("-inf"), "", "x", "\0", [], [[]], [None], {}, {"x": {}}]
)
"""What JSON may have in the place of an entry."""


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all entries of nested dicts and lists."""
    inner = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        yield (*path, key)
        yield from places(value, (*path, key))


def replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.copy(tree)
    changed[path[0]] = value if len(path) == 1 else replaced(tree[path[0]], path[1:], value)
    return changed


@given(data=st.data())
@settings(max_examples=30)
def test_a_checkpoint_with_an_entry_of_another_type_is_refused_or_resumed_from(
    place: Path, data: st.DataObject
) -> None:
    folder = place / "resumed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(WRITTEN / "numpy", folder)

    def change(arrays: Any, facts: Any) -> Any:
        found = data.draw(st.sampled_from(sorted(places(facts), key=repr)))
        return arrays, replaced(facts, found, data.draw(STRANGE))

    rewrite(folder / "checkpoint.safetensors", change)
    before = (folder / "checkpoint.safetensors").read_bytes()
    done = run_in_process("train", "--resume", "--out", folder, "--data-dir", WRITTEN / "images.npz")
    assert done.status in (0, 2), done.stderr
    if done.status == 2:
        assert "Traceback" not in done.sentence
        assert (folder / "checkpoint.safetensors").read_bytes() == before


@pytest.mark.parametrize("updates", [0, 3])
def test_a_checkpoint_after_more_or_fewer_updates_than_its_run_has_logged_is_refused(place: Path, updates: int) -> None:
    folder = place / "resumed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(WRITTEN / "numpy", folder)
    rewrite(
        folder / "checkpoint.safetensors",
        lambda arrays, facts: (arrays, replaced(facts, ("clock", "updates"), updates)),
    )
    done = run_in_process("train", "--resume", "--out", folder, "--data-dir", WRITTEN / "images.npz")
    assert done.status == 2
    assert f"it was made after {updates} updates, and the run's log of them has 2" in done.sentence


STACKS = ("dpr", "snfs", "topkast", "density-schedule")


def trainings() -> dict[str, Any]:
    """A training of each stack, which has read its state dict of 0.2.0, and the one that it writes itself."""
    torch = pytest.importorskip("torch")
    written, made = writer(), {}
    for name in STACKS:
        model, optimizer, training = written.training_of(name)
        saved = torch.load(WRITTEN / f"{name}.pt", weights_only=True)
        for key, part in (("model", model), ("optimizer", optimizer), ("training", training)):
            part.load_state_dict(saved[key])
        made[name] = (training, training.state_dict(), optimizer)
    return made


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    return trainings()


def strange_tensors() -> st.SearchStrategy[Any]:
    import torch

    return st.sampled_from(
        [
            torch.tensor(3),
            torch.zeros(0),
            torch.zeros(2, 2, dtype=torch.int32),
            torch.tensor([float("nan")] * 4),
            torch.tensor([1j]),
            torch.zeros(3, dtype=torch.bool),
            torch.tensor([2**62]),
            torch.empty(3, device="meta"),
            torch.zeros(3, dtype=torch.bfloat16),
        ]
    )


@pytest.mark.parametrize("stack", STACKS)
@given(data=st.data())
def test_a_state_dict_with_an_entry_of_another_type_is_refused_and_changes_nothing(
    stack: str, loaded: dict[str, Any], data: st.DataObject
) -> None:
    training, saved, _ = loaded[stack]
    given_ = {key: value for key, value in saved.items() if key != "checksums" or data.draw(st.booleans())}
    path = data.draw(st.sampled_from(sorted(places(given_), key=repr)))
    if data.draw(st.integers(0, 5)) == 0:
        changed = replaced(given_, path[:1], None)
        del changed[path[0]]
    else:
        changed = replaced(given_, path, data.draw(STRANGE | strange_tensors()))
    before = json.dumps(training.state_dict()["checksums"])
    try:
        training.load_state_dict(changed)
    except InputError as error:
        check_sentence(error)
        assert json.dumps(training.state_dict()["checksums"]) == before
    else:
        training.state_dict()
        training.load_state_dict(saved)


def test_checksums_of_another_type_are_refused_by_one_sentence(loaded: dict[str, Any]) -> None:
    import torch

    training, saved, _ = next(iter(loaded.values()))
    with pytest.raises(InputError) as caught:
        training.load_state_dict({**saved, "checksums": torch.zeros(2, 2, dtype=torch.int32)})
    check_sentence(caught.value)


@pytest.mark.parametrize("name", ["flops", "memories", "checksums"])
def test_a_state_dict_with_another_name_of_an_entry_is_refused_or_the_same(loaded: dict[str, Any], name: str) -> None:
    """Pickles have a name once, for the entry and for its checksum."""
    training, saved, _ = next(iter(loaded.values()))
    renamed = {f"x{key}" if key == name else key: content for key, content in saved.items()}
    if name != "checksums":
        renamed["checksums"] = {f"x{key}" if key == name else key: one for key, one in saved["checksums"].items()}
    before = training.state_dict()["checksums"]
    if name == "checksums":
        training.load_state_dict(renamed)
    else:
        with pytest.raises(InputError, match="damaged"):
            training.load_state_dict(renamed)
    assert training.state_dict()["checksums"] == before


@pytest.mark.parametrize("stack", STACKS)
@given(data=st.data())
def test_a_state_dict_in_a_damaged_file_is_refused_or_the_same(
    stack: str, loaded: dict[str, Any], data: st.DataObject
) -> None:
    import torch

    training, saved, _ = loaded[stack]
    stream = io.BytesIO()
    torch.save(saved, stream)
    content = bytearray(stream.getvalue())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = torch.load(io.BytesIO(bytes(content)), weights_only=True)
    except Exception:  # of PyTorch, pickle or the system
        return
    training.load_state_dict(saved)
    before = training.state_dict()["checksums"]
    try:
        training.load_state_dict(found)
    except InputError as error:
        check_sentence(error)
    assert training.state_dict()["checksums"] == before
