"""By default weight matrices become sparse, of torch's layers and of others'; all else is dense, with its reason."""

import pytest

torch = pytest.importorskip("torch")

from selection_networks import SPARSE_AND_DENSE, Between, Conv1D, Experts
from sparsify_examples import assert_inactive_is_zero, often, sgd
from torch import nn

from sparsecore.errors import InputError
from sparsecore_torch import sparsify
from sparsecore_torch.sparse_training.model.selection import select


@pytest.mark.parametrize("kind", SPARSE_AND_DENSE)
def test_weight_matrices_are_sparse_and_everything_else_is_dense_with_a_reason(kind):
    make, sparse, dense = SPARSE_AND_DENSE[kind]
    model = Between(make())
    selection = select(model)
    assert [one.name for one in selection.sparse] == ["start.weight", *(f"module.{name}" for name in sparse)]
    for name, reason in {"end.weight": "last linear layer", "stem.weight": "first convolution"}.items():
        assert selection.left_out[name] == reason
    for name, word in dense.items():
        assert word in selection.left_out[f"module.{name}"], name
    names = {name for name, _ in model.named_parameters()}
    assert {one.name for one in selection.sparse} | set(selection.left_out) == names


def test_the_summary_lists_tensors_selected_by_their_name():
    model = nn.Sequential(nn.Linear(6, 6), Conv1D(6, 6), Experts(), nn.Linear(6, 3))
    text = str(sparsify(model, sgd(model)).summary())
    lines = text[text.index("sparse by name") : text.index("left dense")].splitlines()
    assert lines[1:] == ["  linear: 1.weight", "  stack of experts: 2.gate_up_proj, 2.down_proj"]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_scripted_model_has_the_same_selection():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 3), nn.Flatten(),
        nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3),
    )  # fmt: skip
    plain, scripted = select(model), select(torch.jit.script(model))
    assert [one.name for one in scripted.sparse] == [one.name for one in plain.sparse] == ["3.weight", "5.weight"]
    assert scripted.left_out == plain.left_out
    layers = torch.jit.script(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3)))
    optimizer = sgd(layers)
    training = sparsify(layers, optimizer, strategy=often(every=1), sparsity=0.5)
    layers(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    assert training.updates == 1
    assert_inactive_is_zero(layers, optimizer, training)


def test_every_output_head_or_its_last_layer_is_dense():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.head_dist = nn.Linear(6, 6), nn.Linear(6, 3), nn.Linear(6, 3)
            self.heads = nn.ModuleDict(
                {"colour": nn.Linear(6, 3), "size": nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 2))}
            )
            self.attention_heads = nn.ModuleList([nn.Linear(6, 2)])
            self.last = nn.Linear(6, 6)

    names = [one.name for one in select(Several()).sparse]
    assert names == ["body.weight", "heads.size.0.weight", "attention_heads.0.weight"]


def test_a_weight_that_is_also_in_a_parameter_list_belongs_to_its_layer():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    model.register_module("all", nn.ParameterList(list(model.parameters())))
    assert [one.name for one in select(model).sparse] == ["0.weight"]


def test_module_classes_select_all_parameters_in_them():
    class Special(nn.Linear):
        pass

    model = nn.ModuleDict(
        {
            "words": nn.Embedding(9, 6),
            "mixes": nn.TransformerEncoderLayer(6, 2, 8),
            "special": Special(6, 6),
            "wrapped": torch.compile(nn.Conv1d(6, 6, 3), backend="eager"),
            "head": nn.Linear(6, 3),
        }
    )

    def names(**options):
        return [one.name for one in select(model, **options).sparse]

    attention = ["mixes.self_attn.in_proj_weight", "mixes.self_attn.out_proj.weight"]
    linear = [
        "mixes.self_attn.out_proj.weight",
        "mixes.linear1.weight",
        "mixes.linear2.weight",
        "special.weight",
        "head.weight",
    ]
    assert names(include=nn.Linear) == linear
    assert names(include=[Special, "words.*"]) == ["words.weight", "special.weight"]
    assert names(include=nn.MultiheadAttention) == attention
    assert names(include=[nn.Conv1d]) == ["wrapped.weight"]
    assert names(exclude=[nn.Embedding, nn.TransformerEncoderLayer, "head.*"], include="*") == [
        "special.weight",
        "wrapped.weight",
    ]
    assert names(include=nn.Module, exclude=(nn.Linear, nn.Embedding)) == [attention[0], "wrapped.weight"]


@pytest.mark.parametrize("argument", ["include", "exclude"])
def test_a_class_that_matches_nothing_is_refused_with_the_existing_ones(argument):
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    for nothing in (nn.Embedding, nn.ReLU, int):
        with pytest.raises(InputError, match=rf"{argument}={nothing.__name__} .*Linear"):
            sparsify(model, sgd(model), **{argument: [nn.Linear, nothing]})
    with pytest.raises(InputError, match=rf"{argument} is .*class"):
        sparsify(model, sgd(model), **{argument: nn.Linear(3, 3)})
