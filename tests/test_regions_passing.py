"""Regions hand results to each other in the kernels' layout, and return views such as queries, keys and values."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sparsecore_cpu._kernels")

from hypothesis import given, settings
from hypothesis import strategies as st
from region_examples import sparse
from torch import nn
from torch.nn import functional

from sparsecore_torch.sparse_training.regions.execution import Execution
from sparsecore_torch.sparse_training.regions.results import PassedResult, TorchResult, ViewResult
from sparsecore_torch.sparse_training.regions.views import channel_slice

FEATURES, HEADS, LENGTH = 8, 2, 5


def by_index(x):
    q, k, v = x.reshape(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    return q, k, v


def by_unbind(x):
    return x.view(*x.shape[:2], 3, HEADS, FEATURES // HEADS).permute(2, 0, 3, 1, 4).unbind(0)


def by_select(x):
    parts = x.unflatten(2, (3, HEADS, -1)).movedim(2, 0)
    return tuple(parts.select(0, number).transpose(1, 2) for number in range(3))


def _heads(x):
    return x.view(*x.shape[:2], HEADS, -1).transpose(1, 2)


def by_chunk(x):
    return tuple(map(_heads, x.chunk(3, -1)))


def by_split(x):
    return tuple(map(_heads, x.split(FEATURES, dim=2)))


def by_slices(x):
    return _heads(x[..., :FEATURES]), _heads(x[..., FEATURES : 2 * FEATURES]), _heads(x[..., 2 * FEATURES :])


def of_interleaved_heads(x):
    return x.view(*x.shape[:2], HEADS, 3, -1).permute(3, 0, 2, 1, 4).unbind(0)


def without_keys(x):
    q, _, v = by_index(x)
    return q, q, v


def overlapping(x):
    return _heads(x[..., :FEATURES]), _heads(x[..., 3 : 3 + FEATURES]), _heads(x[..., -FEATURES:])


def of_shifted_vectors(x):
    q, k, v = by_index(x)
    return q[:, :, 1:], k[:, :, :-1], v[:, :, :-1]


def behind_no_grad(x):
    with torch.no_grad():
        k = _heads(x[..., FEATURES : 2 * FEATURES])
    return _heads(x[..., :FEATURES]), k, _heads(x[..., 2 * FEATURES :])


SLICED = [by_index, by_unbind, by_select, by_chunk, by_split, by_slices]
SPELLINGS = [by_unbind, by_select, by_split]
"""Other spellings of those before, which are the same views: slow tests."""
SPLITS = [*SLICED, of_interleaved_heads, without_keys, overlapping, of_shifted_vectors, behind_no_grad]


class Block(nn.Module):
    def __init__(self, split):
        super().__init__()
        self.split = split
        self.norm1, self.norm2 = nn.LayerNorm(FEATURES), nn.LayerNorm(FEATURES)
        self.qkv, self.proj = nn.Linear(FEATURES, 3 * FEATURES), nn.Linear(FEATURES, FEATURES)
        self.up, self.down = nn.Linear(FEATURES, 12), nn.Linear(12, FEATURES)

    def forward(self, x):
        q, k, v = self.split(self.qkv(self.norm1(x)))
        out = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = (x if out.shape == x.shape else x[:, : out.shape[1]]) + self.proj(out)
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Two blocks, between which the residual stream goes from region to region."""

    def __init__(self, split=by_index):
        super().__init__()
        self.blocks = nn.Sequential(Block(split), Block(split))
        self.head = nn.Linear(FEATURES, 3)

    def forward(self, x):
        return self.head(self.blocks(x))


class Images(nn.Module):
    """Images that a later region reads, too, beside a function of torch's."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = functional.relu(self.first(x))
        pooled = functional.adaptive_avg_pool2d(x, 1)
        x = x * pooled + self.second(torch.sin(x))
        return self.head(torch.flatten(functional.adaptive_avg_pool2d(x, 1) + pooled, 1))


class Twice(nn.Module):
    """Two results of a region that another one adds, so that they have the same gradient."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (nn.Linear(FEATURES, FEATURES) for _ in range(3))

    def forward(self, x):
        y, z = self.one(x), self.two(x)
        return self.three(torch.sin(y)) + (y + z) + z


MODELS = {
    "transformer": (Transformer, (3, LENGTH, FEATURES)),
    "images": (Images, (5, 3, 6, 7)),
    "twice": (Twice, (18, FEATURES)),
}


def gradients(model, shape, lowered=None, passes=1):
    x = torch.linspace(-3, 5, torch.Size(shape).numel()).sin().reshape(shape).to(next(model.parameters()).dtype)
    x.requires_grad_()
    with torch.autocast("cpu", lowered, enabled=lowered is not None):
        out = model(x)
    loss = (out.to(x.dtype) * torch.linspace(-1, 2, out.numel(), dtype=x.dtype).reshape(out.shape)).sum()
    for number in range(passes):
        model.zero_grad()
        x.grad = None
        loss.backward(retain_graph=number + 1 < passes)
    return {"out": out.detach(), "x": x.grad, **{name: one.grad for name, one in model.named_parameters()}}


def prepared(make, storage="masked", **options):
    torch.manual_seed(0)
    model = make()
    return model, sparse(model, storage, sparsity=0.4, **options)


def oracle(make, shape):
    """What plain torch computes in double precision with the same masks."""
    model, training = prepared(make, kernels="dense")
    plain = make().double()
    plain.load_state_dict(model.state_dict())
    masks = training.masks()
    return {name: one * masks.get(name, 1) for name, one in gradients(plain, shape).items()}


def check(found, expected, **tolerances):
    assert found.keys() == expected.keys()
    tolerances = {"rtol": 1e-4, "atol": 1e-4, **tolerances}
    for name, one in expected.items():
        torch.testing.assert_close(found[name].double(), one.double(), msg=lambda text: f"{name}: {text}", **tolerances)  # noqa: B023


def results_of(training):
    (cut,) = training.routes.cuts
    return [type(result) for region in cut.regions for result in region.results]


@pytest.mark.parametrize(
    "split", [pytest.param(one, marks=[pytest.mark.slow] if one in SPELLINGS else []) for one in SPLITS]
)
def test_splits_of_a_projection_have_the_results_and_gradients_of_torch(split):
    model, training = prepared(lambda: Transformer(split))
    check(gradients(model, MODELS["transformer"][1]), oracle(lambda: Transformer(split), MODELS["transformer"][1]))
    if split in SLICED:
        assert results_of(training) == [ViewResult, PassedResult, ViewResult, TorchResult], str(training.routes)


@pytest.mark.parametrize("name", MODELS)
def test_results_that_are_passed_on_have_the_gradients_of_torch_in_each_of_two_passes(name):
    make, shape = MODELS[name]
    model, training = prepared(make)
    expected = oracle(make, shape)
    check(gradients(model, shape), expected)
    check(gradients(model, shape, passes=2), expected)
    assert PassedResult in results_of(training)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("number", [0, 1])
def test_regions_that_torch_computes_take_and_return_what_is_passed_on(name, number):
    make, shape = MODELS[name]
    model, training = prepared(make)
    with torch.no_grad():
        model(torch.zeros(shape))
    region = training.routes.cuts[0].regions[number]
    for tensor in region.tensors:
        training.use_kernels("dense", tensor)
    check(gradients(model, shape), oracle(make, shape))


@pytest.mark.parametrize("name", MODELS)
def test_what_is_passed_on_under_autocast_is_as_precise_as_bfloat16(name):
    make, shape = MODELS[name]
    model, _ = prepared(make)
    check(gradients(model, shape, torch.bfloat16), oracle(make, shape), rtol=0.05, atol=0.5)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_passed_on_in_compact_storage_is_that_of_masks(name):
    make, shape = MODELS[name]
    masked, compact = prepared(make)[0], prepared(make, "compact")[0]
    found, expected = gradients(compact, shape), gradients(masked, shape)
    for each in ("out", "x"):
        torch.testing.assert_close(found[each], expected[each], rtol=1e-4, atol=1e-5)


def test_measuring_takes_both_ways_of_what_is_passed_on():
    for make, shape in MODELS.values():
        torch.manual_seed(0)
        model = make()
        training = sparse(model, sparsity=0.4)
        training.routes.decisions.rules.clear()
        check(gradients(model, shape), oracle(make, shape))
        assert len(training.routes.decisions.made) == len(training.routes.cuts[0].regions)


def test_neighbours_in_the_layout_of_torch_cost_one_conversion_each(monkeypatch):
    entries = {"pack": 0, "unpack": 0}

    def counting(name, inner):
        def counted(run, tensor, *rest, **options):
            entries[name] += 1
            return inner(run, tensor, *rest, **options)

        return counted

    for name in entries:
        monkeypatch.setattr(Execution, name, counting(name, getattr(Execution, name)))
    model, _ = prepared(Transformer)
    gradients(model, MODELS["transformer"][1])
    # the input, which two regions read; what attention returns in each block; and the gradient of the model's output
    assert entries["pack"] == 2 + 2 + 1
    # the output; the gradients of what attention returns; and that of the input, which has two parts
    assert entries["unpack"] == 1 + 2 + 2


def test_sequences_of_other_lengths_are_split_too():
    model, training = prepared(Transformer)
    for length in (5, 7, 9, 1):
        shape = (3, length, FEATURES)
        check(gradients(model, shape), oracle(Transformer, shape))
    assert all(cut.regions for cut in training.routes.cuts)


def test_views_that_a_model_returns_share_memory_as_torch_s_do():
    class Returning(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(FEATURES, FEATURES)

        def forward(self, x):
            y = self.one(x)
            return y, y.view(2, -1)

    model, _ = prepared(Returning)
    with torch.no_grad():
        y, view = model(torch.ones(4, FEATURES))
        view[0, 0] = 7
        assert y[0, 0] == 7


def test_views_of_the_memory_as_another_dtype_are_torch_s():
    class Bits(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(FEATURES, FEATURES)

        def forward(self, x):
            return torch.bitwise_right_shift(self.one(x).view(dtype=torch.int32), 31)  # the sign

    model, _ = prepared(Bits)
    with torch.no_grad():
        x = torch.linspace(-1, 1, 4 * FEATURES).reshape(4, FEATURES)
        assert torch.equal(model(x) == -1, model.one(x) < 0)


STEPS = st.lists(
    st.sampled_from(
        [
            lambda x: x.transpose(0, -1),
            lambda x: x.unflatten(0, (2, -1)) if x.shape[0] % 2 == 0 else x,
            lambda x: x.unflatten(-1, (-1, 2)) if x.shape[-1] % 2 == 0 else x,
            lambda x: x[..., 1:],
            lambda x: x[0],
            lambda x: x[1:] if len(x) > 1 else x,
            lambda x: x.unsqueeze(1),
            lambda x: x[..., ::2],
        ]
    ),
    max_size=4,
)


@settings(deadline=None)
@given(vectors=st.integers(1, 5), features=st.integers(1, 12), steps=STEPS)
def test_a_view_is_a_slice_of_features_exactly_if_each_vector_has_these(vectors, features, steps):
    base = torch.arange(vectors * features).reshape(vectors, features)
    view = base
    for step in steps:
        if view.ndim and view.shape[0] and view.shape[-1]:
            view = step(view)
    if not view.numel():
        return
    part = channel_slice((vectors, features), tuple(view.shape), view.stride(), view.storage_offset())
    entries = set(view.flatten().tolist())
    columns = sorted({entry % features for entry in entries})
    is_slice = len(entries) == vectors * len(columns) and columns == list(range(columns[0], columns[-1] + 1))
    if part is None:
        # with one vector or one feature, other strides may describe a slice too
        assert not is_slice or min(vectors, len(columns)) == 1
    else:
        assert torch.equal(part.matrix(view), base[:, part.first : part.first + part.count])
        assert part.empty(view.shape).shape == view.shape
