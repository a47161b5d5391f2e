"""Files of sparse models: how small they are, that nothing is lost, and that what does not fit is refused."""

import json
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from sparsify_examples import convnet, mlp, often, sgd, train
from torch import nn

from sparsecore.errors import InputError
from sparsecore_torch import export, sparsify
from sparsecore_torch.sparse_training.export.position_codes import POSITION_CODES


class Residual(nn.Module):
    """ResNet-18's proportions: almost all parameters are in 3×3 convolutions between many channels."""

    def __init__(self, width=24):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 7, bias=False), nn.BatchNorm2d(width))
        sides = [(width, width), (width, 2 * width), (2 * width, 4 * width), (4 * width, 8 * width)]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, bias=False), nn.BatchNorm2d(after)) for before, after in sides
        )
        self.fc = nn.Linear(8 * width, 10)


class Transformer(nn.Module):
    """A GPT's proportions, with a head that is tied to the embedding."""

    def __init__(self, features=192):
        super().__init__()
        self.embedding = nn.Embedding(64, features)
        self.positions = nn.Parameter(torch.randn(32, features))
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(features, 4, 4 * features) for _ in range(2))
        self.head = nn.Linear(features, 64, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("mask", torch.full((32, 32), -torch.inf).triu(1))


def bytes_of(model):
    return {name: (one.dtype, one.shape, one.detach().numpy().tobytes()) for name, one in model.state_dict().items()}


def sparse(make, dtype=torch.float32, storage="masked", **options):
    torch.manual_seed(0)
    model = make().to(dtype)
    return model, sparsify(model, sgd(model), sparsity=0.9, storage=storage, **options)


@pytest.mark.parametrize("make", [Residual, Transformer])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 0.16), (torch.bfloat16, 0.21)])
def test_at_sparsity_09_the_file_is_a_seventh_of_the_dense_one_or_in_bfloat16_a_fifth(make, dtype, most, tmp_path):
    model, training = sparse(make, dtype)
    export.save_sparse(training, tmp_path / "sparse.safetensors")
    dense = {name: one.clone() for name, one in model.state_dict().items()}
    tied = {"head.weight"} if make is Transformer else set()
    save_file({name: one for name, one in dense.items() if name not in tied}, tmp_path / "dense.safetensors")
    sizes = [(tmp_path / f"{kind}.safetensors").stat().st_size for kind in ("sparse", "dense")]
    assert sizes[0] / sizes[1] < most
    with safe_open(tmp_path / "sparse.safetensors", "pt") as file:
        positions = sum(len(file.get_tensor(name)) for name in file.keys() if name.endswith(":positions"))  # noqa: SIM118
    assert positions / training.topology.size < 0.8


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_a_plain_model_that_loads_the_file_is_the_trained_one_bit_for_bit(storage, tmp_path):
    model = convnet()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=often(), sparsity=0.8, storage=storage)
    train(model, optimizer, range(5), shape=(2, 6, 6))
    path, again = tmp_path / "model.safetensors", tmp_path / "again.safetensors"
    export.save_sparse(training, path)
    expected = bytes_of(export.squashed_copy(training))
    loaded = convnet(seed=1)
    export.load_sparse(loaded, path)
    assert bytes_of(loaded) == expected
    train(model, optimizer, range(5, 7), shape=(2, 6, 6))  # the training has gone on
    training.squash()
    export.save_sparse(model, again)
    export.load_sparse(loaded, again)
    assert bytes_of(loaded) == bytes_of(model) != expected


def test_active_weights_that_are_zero_are_stored_with_their_positions(tmp_path):
    model, training = sparse(mlp)
    with torch.no_grad():
        model[0].weight.zero_()
    export.save_sparse(training, tmp_path / "model.safetensors")
    stored = load_file(tmp_path / "model.safetensors")
    assert len(stored["0.weight:values"]) == training.masks()["0.weight"].sum()


def test_ties_buffers_infinities_in_buffers_and_negative_zeros_are_kept(tmp_path):
    model, training = sparse(Transformer)
    with torch.no_grad():
        model.positions[0] = -0.0
    export.save_sparse(training, tmp_path / "model.safetensors")
    loaded = Transformer()
    export.load_sparse(loaded, tmp_path / "model.safetensors")
    assert bytes_of(loaded) == bytes_of(model)
    assert loaded.head.weight is loaded.embedding.weight
    assert "head.weight" not in load_file(tmp_path / "model.safetensors")
    untied = Transformer()
    untied.head.weight = nn.Parameter(torch.zeros(64, 192))
    export.load_sparse(untied, tmp_path / "model.safetensors")
    assert bytes_of(untied) == bytes_of(model)


def test_what_the_format_says_is_enough_to_read_a_file_by_hand(tmp_path):
    model, training = sparse(mlp)
    export.save_sparse(training, tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        entry = json.loads(file.metadata()["sparsecore"])
        facts = json.loads(entry["facts"])
        values, coded = (file.get_tensor(f"0.weight:{part}") for part in ("values", "positions"))
    assert entry["format"] == "sparsecore sparse model 1"
    shape = facts["sparse"]["0.weight"]["shape"]
    assert facts["sparse"]["0.weight"]["code"] == "gaps"
    dense, position, gap, factor = [0.0] * math.prod(shape), -1, 0, 1
    left = iter(values.tolist())
    for digit in (half for byte in coded.tolist() for half in (byte % 16, byte // 16)):
        gap += digit % 8 * factor
        factor *= 8
        if digit < 8:
            position += gap + 1
            dense[position] = next(left)
            gap, factor = 0, 1
    assert np.array_equal(np.array(dense, np.float32).reshape(shape), model[0].weight.detach().numpy())


@given(st.sets(st.integers(0, 40_000), max_size=30), st.integers(0, 5))
def test_both_codes_give_back_any_positions(positions, beyond):
    indices, size = np.array(sorted(positions), np.int64), max(positions, default=-1) + 1 + beyond
    for code in POSITION_CODES.values():
        assert code.decode(code.encode(indices, size), size).tolist() == sorted(positions)


@given(st.binary(max_size=12), st.integers(0, 60))
def test_bytes_that_no_positions_have_are_refused_and_others_are_ascending_positions(content, size):
    coded = np.frombuffer(content, np.uint8)
    for code in POSITION_CODES.values():
        try:
            indices = code.decode(coded, size)
        except InputError:
            continue
        assert (np.diff(indices) > 0).all()
        assert not len(indices) or (indices[0] >= 0 and indices[-1] < size)
        assert code.encode(indices, size).tobytes() == content


def crafted(path, change):
    """A file with other content, and the checksum of that."""
    from sparsecore_torch.sparse_training.export.sparse_files import _digest

    with safe_open(path, "pt") as file:
        facts = json.loads(json.loads(file.metadata()["sparsecore"])["facts"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    changed = change(facts, tensors)
    text = changed if isinstance(changed, str) else json.dumps(facts)
    entry = {"format": "sparsecore sparse model 1", "facts": text, "sha256": _digest(text, tensors)}
    path.write_bytes(save(tensors, {"sparsecore": json.dumps(entry)}))


def bytes_(*numbers):
    return torch.tensor(numbers, dtype=torch.uint8)


CRAFTED = {
    "a tensor is missing": (lambda _, tensors: tensors.pop("0.bias"), "no 0.bias"),
    "a tensor too many": (lambda _, tensors: tensors.update(other=torch.ones(1)), "other"),
    "a wrong shape": (lambda facts, _: facts["sparse"]["0.weight"].update(shape=[6, 12]), r"\(6, 12\).*\(12, 6\)"),
    "a shape that fits nowhere": (lambda facts, _: facts["sparse"]["0.weight"].update(shape=[10**9, 10**9]), "shape"),
    "a negative side": (lambda facts, _: facts["sparse"]["0.weight"].update(shape=[-12, -6]), "header"),
    "a wrong dtype": (lambda _, tensors: tensors.update({"0.bias": torch.ones(12).half()}), "float16.*float32"),
    "integers as values": (lambda _, tensors: tensors.update({"0.weight:values": torch.ones(7).int()}), "header"),
    "too few values": (lambda _, tensors: tensors.update({"0.weight:values": torch.ones(1)}), "1 values"),
    "positions beyond the end": (
        lambda _, tensors: tensors.update({"0.weight:positions": bytes_(7 + 8 + 16 * 8, 3)}),
        "beyond",
    ),
    "positions whose sum overflows": (
        lambda _, tensors: tensors.update({"0.weight:positions": bytes_(*[255] * 10, 0xF7, *[255] * 9, 0x7F)}),
        "beyond",
    ),
    "an incomplete position": (
        lambda _, tensors: tensors.update({"0.weight:positions": bytes_(3, 0xAA)}),
        "incomplete",
    ),
    "a wasteful position": (lambda _, tensors: tensors.update({"0.weight:positions": bytes_(0x0B)}), "more digits"),
    "bits of another size": (lambda facts, _: facts["sparse"]["0.weight"].update(code="bits"), "bits"),
    "an unknown code": (lambda facts, _: facts["sparse"]["0.weight"].update(code="zip"), "zip"),
    "positions of another dtype": (
        lambda _, tensors: tensors.update({"0.weight:positions": torch.arange(7)}),
        "bytes of positions",
    ),
    "NaN": (lambda _, tensors: tensors["0.weight:values"].fill_(torch.nan), "NaN"),
    "infinity in a dense tensor": (lambda _, tensors: tensors["0.bias"].fill_(torch.inf), "infinite"),
    "a tie to nothing": (lambda facts, _: facts["tied"].update({"4.weight": "nothing"}), "tied"),
    "a tie of what is stored": (lambda facts, _: facts["tied"].update({"0.bias": "2.bias"}), "tied"),
    "no table": (lambda *_: "[]", "header"),
    "a list for a table": (lambda *_: '{"sparse": [], "tied": {}}', "header"),
    "no JSON": (lambda *_: "{", "header"),
    "deep JSON": (lambda *_: "[" * 100_000, "header"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.safetensors"
    export.save_sparse(sparse(mlp)[1], path)
    return path


def assert_refused(path, match, model=None):
    model = mlp(seed=1) if model is None else model
    before = bytes_of(model)
    with pytest.raises(InputError, match=match) as refused:
        export.load_sparse(model, path)
    assert path.name in str(refused.value)
    assert bytes_of(model) == before


@pytest.mark.parametrize("case", CRAFTED)
def test_a_file_that_was_made_by_hand_is_refused_and_nothing_is_loaded(case, saved, tmp_path):
    change, match = CRAFTED[case]
    path = tmp_path / "crafted.safetensors"
    path.write_bytes(saved.read_bytes())
    crafted(path, change)
    assert_refused(path, match)


def test_a_damaged_or_truncated_file_is_refused_wherever_the_damage_is(saved, tmp_path):
    content, path = saved.read_bytes(), tmp_path / "damaged.safetensors"
    for length in (0, 4, 8, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert_refused(path, "cannot be read|damaged|no file of save_sparse")
    for place in range(8, len(content), 37):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert_refused(path, "cannot be read|damaged|no file of save_sparse|not of this model")
    save_file(mlp().state_dict(), path)
    assert_refused(path, "no file of save_sparse")
    assert_refused(tmp_path / "nothing.safetensors", "no file")
    assert_refused(tmp_path, "no file")


def test_models_that_the_file_is_not_of_are_refused(saved):
    assert_refused(saved, "float32.*float64", mlp(dtype=torch.float64))
    assert_refused(saved, "0.running_mean|1.running_mean|no 1", convnet())
    with pytest.raises(InputError, match="meta"):
        export.load_sparse(mlp().to("meta"), saved)
    lazy = nn.Sequential(nn.LazyLinear(12), nn.Linear(12, 10))
    for use in (lambda: export.load_sparse(lazy, saved), lambda: export.save_sparse(lazy, saved.with_name("lazy"))):
        with pytest.raises(InputError, match="no shape yet"):
            use()
    model, training = sparse(mlp)
    with pytest.raises(InputError, match="sparse training"):
        export.load_sparse(model, saved)
    training.squash()
    export.load_sparse(model, saved)


def test_what_cannot_be_saved_is_refused_and_the_old_file_stays(saved, tmp_path):
    class WithState(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

        def set_extra_state(self, _):
            pass

    path = tmp_path / "model.safetensors"
    path.write_bytes(saved.read_bytes())
    broken = mlp()
    with torch.no_grad():
        broken[2].weight[0, 0] = torch.nan
    for model, match in [(broken, "NaN"), (WithState(2, 2), "extra_state"), (mlp().to("meta"), "meta")]:
        with pytest.raises(InputError, match=match):
            export.save_sparse(model, path)
    with pytest.raises(InputError, match="no folder"):
        export.save_sparse(mlp(), tmp_path / "nowhere" / "model.safetensors")
    with pytest.raises(InputError, match="is a folder; the path of a file"):
        export.save_sparse(mlp(), tmp_path)
    assert path.read_bytes() == saved.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_tensor_that_two_names_share_must_be_one_in_the_file(tmp_path):
    square = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    export.save_sparse(square, tmp_path / "model.safetensors")
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    assert_refused(tmp_path / "model.safetensors", "one tensor", tied)
