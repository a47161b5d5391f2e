"""Causal attention of compiled models: the kernels compute what torch computes, and leave other attention to it."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sparsecore_cpu._kernels")

from region_examples import sparse
from torch import fx, nn
from torch.nn import functional

from sparsecore.errors import InputError
from sparsecore_torch.sparse_training.regions.attention import replace_attention
from sparsecore_torch.sparse_training.regions.decisions import Decisions


def replaced(attention, choice="sparse"):
    """The function with attention replaced, and how many nodes are."""
    decisions = Decisions()
    decisions.use(choice, "*")
    traced = fx.symbolic_trace(attention)
    nodes = replace_attention(traced.graph, decisions)
    return fx.GraphModule(traced, traced.graph), len(nodes)


def attention(query, key, value):
    return functional.scaled_dot_product_attention(query, key, value, None, 0.0, True)


def scaled(query, key, value):
    return functional.scaled_dot_product_attention(query, key, value, scale=0.3, is_causal=True)


def given(queries=70, keys=70, features=24, dtype=torch.float32):
    torch.manual_seed(0)
    query = torch.randn(2, queries, 3, features, dtype=dtype).transpose(1, 2)
    key = torch.randn(2, 3, features, keys, dtype=dtype).transpose(2, 3)  # the tokens of a feature in one piece
    value = torch.randn(1, 3, keys, features, dtype=dtype).expand(2, -1, -1, -1)
    return [one.requires_grad_() if one.is_leaf else one.detach().requires_grad_() for one in (query, key, value)]


@pytest.mark.parametrize("function", [attention, scaled])
@pytest.mark.parametrize(("queries", "keys"), [(70, 70), (3, 130), (130, 3)])
def test_outputs_and_gradients_are_those_of_torch_in_double_precision(function, queries, keys):
    kernels, count = replaced(function)
    assert count == 1
    inputs = given(queries, keys)
    exact = [one.detach().double().requires_grad_() for one in inputs]
    out, expected = kernels(*inputs), function(*exact)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    assert out.transpose(1, 2).is_contiguous()  # as torch's, so that joining the heads of a token copies nothing
    weights = torch.randn_like(expected)
    found = torch.autograd.grad(out, inputs, weights.float().movedim(2, 3).contiguous().movedim(3, 2))
    for one, other in zip(found, torch.autograd.grad(expected, exact, weights), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)
    query, key, value = (one.detach() for one in inputs)
    torch.testing.assert_close(kernels(query, key, value), out)
    (of_key,) = torch.autograd.grad(kernels(query, inputs[1], value).sum(), inputs[1])
    assert of_key.shape == key.shape


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": False},
        {"is_causal": True, "dropout_p": 0.1},
        {"is_causal": True, "enable_gqa": True},
    ],
    ids=str,
)
def test_attention_without_a_causal_mask_or_with_more_than_that_is_left_to_torch(options):
    def function(query, key, value):
        return functional.scaled_dot_product_attention(query, key, value, **options)

    assert replaced(function)[1] == 0


def masked(query, key, value, mask):
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def test_masks_that_are_causal_are_found_and_others_are_left_to_torch():
    kernels, count = replaced(masked)
    assert count == 1
    causal = torch.ones(70, 130, dtype=torch.bool).tril()
    other = causal.clone()
    other[5, 5] = False
    added = torch.zeros(2, 1, 70, 130).masked_fill(~causal, torch.finfo(torch.float32).min)
    weak = torch.zeros(70, 130).masked_fill(~causal, -3.0)
    learned = added.clone().requires_grad_()
    found = {"causal": causal, "of examples": causal.expand(2, 1, -1, -1), "added": added, "infinite": added * 2}
    for name, mask in {**found, "other": other, "weak": weak, "learned": learned, "row": causal[:1]}.items():
        out, expected = kernels(*given(70, 130), mask), masked(*given(70, 130), mask)
        torch.testing.assert_close(out, expected, msg=name, rtol=1e-4, atol=1e-5)
        assert ("_Attention" in str(out.grad_fn)) == (name in found), name
    with pytest.raises(RuntimeError, match="mask"):
        kernels(*given(70, 130), causal.int())


def test_what_the_kernels_cannot_read_is_computed_by_torch():
    kernels, _ = replaced(attention)
    for inputs in (given(dtype=torch.float64), given(dtype=torch.bfloat16), [one[0] for one in given()]):
        torch.testing.assert_close(kernels(*inputs), attention(*inputs), rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert kernels(*given()).dtype is torch.bfloat16
    query, key, value = given()
    with pytest.raises(RuntimeError, match="size"):
        kernels(query, key[..., :8], value)
    empty = [one[:, :, :0] for one in (query, key, value)]
    assert kernels(*empty).shape == empty[0].shape


def test_second_derivatives_are_refused():
    kernels, _ = replaced(attention)
    query, key, value = given()
    with pytest.raises(InputError, match="create_graph=True"):
        torch.autograd.grad(kernels(query, key, value).sum(), query, create_graph=True)


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.project, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x):
        query, key, value = self.project(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        return self.out(attention(query, key, value).transpose(1, 2).flatten(2))


def test_a_training_measures_attention_and_keeps_the_choice_with_its_state():
    torch.manual_seed(0)
    model, x = Attending(), torch.randn(2, 10, 32)
    training = sparse(model)
    out = model(x)
    training.use_kernels("dense")
    torch.testing.assert_close(model(x), out, rtol=1e-4, atol=1e-5)
    training.routes.decisions.rules.clear()
    model(x)
    (case,) = (case for case in training.routes.decisions.made if case.startswith("causal attention"))
    assert case in training.state_dict()["kernels"]["measured"]
    assert "causal_attention: by itself" in str(training.routes)
