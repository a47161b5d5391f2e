"""By default weight matrices become sparse, of torch's layers and of others'; all else is dense, with its reason."""

import math

import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import assert_inactive_is_zero, often, sgd
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import register_parametrization

from sparsecore.errors import InputError, LostWeightsWarning
from sparsecore_torch import sparsify
from sparsecore_torch.sparse_training.model.selection import select


def drawn(*shape):
    return nn.Parameter(torch.randn(*shape) / 4)


class Block(nn.Module):
    """ConvNeXt's block, as torchvision has it."""

    def __init__(self, width=6):
        super().__init__()
        self.layer_scale = nn.Parameter(torch.full((width, 1, 1), 0.1))
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.Conv2d(width, 2 * width, 1),
            nn.GELU(),
            nn.Conv2d(2 * width, width, 1),
        )

    def forward(self, x):
        return x + self.layer_scale * self.block(x)


class LayerNorm2d(nn.Module):
    """A norm that is derived from none of torch's."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.ones(width, 2, 2)), nn.Parameter(torch.zeros(width, 2, 2))


class WindowAttention(nn.Module):
    """Swin's, with its table of relative positions and the temperature of its cosines."""

    def __init__(self, width=6, heads=2):
        super().__init__()
        self.relative_position_bias_table = drawn(25, heads)
        self.logit_scale = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, heads))


class RelativeAttention(nn.Module):
    """XLNet's and others': projections that are parameters of its own."""

    def __init__(self, width=6, heads=2):
        super().__init__()
        self.q, self.k, self.W_V = drawn(width, heads, 3), drawn(width, heads, 3), drawn(heads, width, 3)
        self.out_proj_weight = drawn(width, width)
        self.r_w_bias, self.seg_embed = drawn(heads, 3), drawn(2, heads, 3)


class Conv1D(nn.Module):
    """transformers' linear layer of GPT-2: (in, out)."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = drawn(inputs, outputs), nn.Parameter(torch.zeros(outputs))


class Experts(nn.Module):
    """A stack of matrices, as transformers has it."""

    def __init__(self, count=4, width=6):
        super().__init__()
        self.gate_up_proj, self.down_proj = drawn(count, width, 2 * width), drawn(count, width, width)
        self.gate_up_proj_bias = drawn(count, 2 * width)


class TopK(nn.Module):
    """A router whose class and attributes say little: ``gate`` is what the layer calls it."""

    def __init__(self, count=4, width=6):
        super().__init__()
        self.weight = drawn(count, width)


class SparseLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.experts, self.shared_expert_gate = TopK(), Experts(), nn.Linear(6, 1)


class Unspoken(nn.Module):
    """Experts that only the router beside them gives away."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(6, 3, bias=False)
        self.up, self.down, self.mixing = drawn(3, 6, 8), drawn(3, 8, 6), drawn(5, 6, 6)


class MoE(nn.Module):
    """With a list of experts, and the router a matrix of its own."""

    def __init__(self):
        super().__init__()
        self.w_gate, self.w1 = drawn(6, 4), drawn(4, 6, 8)
        self.experts = nn.ModuleList([nn.Linear(6, 6) for _ in range(5)])
        self.score = nn.Linear(6, 5)


class Mixture(nn.Module):
    """Experts in a list that is not called so."""

    def __init__(self):
        super().__init__()
        self.gate, self.branches = nn.Linear(6, 3), nn.ModuleList([nn.Linear(6, 6) for _ in range(3)])


class GatedMlp(nn.Module):
    """No gate of experts."""

    def __init__(self):
        super().__init__()
        self.gate, self.gate_proj, self.up = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(12, 6)


class Bert(nn.Module):
    def __init__(self):
        super().__init__()
        self.word_embeddings = nn.Embedding(9, 6)
        self.position_embeddings, self.token_type_embeddings = nn.Embedding(8, 6), nn.Embedding(2, 6)


class LearnedPositionalEmbedding(nn.Embedding):
    pass


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe, self.table = nn.Embedding(9, 6), nn.Embedding(8, 6), LearnedPositionalEmbedding(8, 6)
        self.pos_tagger = nn.ModuleDict({"word_embedding": nn.Embedding(7, 6)})
        self.query_embed = nn.Embedding(5, 6)
        self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 1, 6)), drawn(1, 8, 6)


class Lora(nn.Module):
    def __init__(self):
        super().__init__()
        self.base_layer = nn.Linear(6, 6)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(6, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 6, bias=False)})


class Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.A_log, self.gamma, self.temperature = drawn(6, 4), drawn(6, 6), nn.Parameter(torch.ones(1, 1))
        self.weight_scale = drawn(6, 6)


class OwnCell(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight_ih, self.weight_hh = drawn(24, 6), drawn(24, 6)


OwnCell.__name__ = "LayerNormLSTMCell"

SPARSE_AND_DENSE = {
    "layer scale and depthwise": (Block, ["block.1.weight", "block.3.weight"],
                                  {"layer_scale": "vector", "block.0.weight": "depthwise"}),
    "grouped": (lambda: nn.Conv2d(6, 6, 3, groups=2), ["weight"], {}),
    "transposed depthwise": (lambda: nn.ConvTranspose1d(6, 6, 3, groups=6), [], {"weight": "depthwise"}),
    "norm": (lambda: LayerNorm2d(6), [], {"weight": "norm", "shift": "norm"}),
    "window attention": (WindowAttention, ["qkv.weight", "proj.weight"],
                         {"relative_position_bias_table": "positions", "logit_scale": "vector",
                          "cpb_mlp.0.weight": "positions", "cpb_mlp.2.weight": "positions"}),
    "own attention": (RelativeAttention, ["q", "k", "W_V", "out_proj_weight"],
                      {"r_w_bias": "bias", "seg_embed": "types"}),
    "torch attention": (lambda: nn.MultiheadAttention(6, 2, kdim=4, vdim=3, add_bias_kv=True),
                        ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"],
                        {"bias_k": "bias", "bias_v": "bias"}),
    "recurrent with projections": (lambda: nn.LSTM(6, 5, proj_size=3),
                                   ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"], {"bias_ih_l0": "bias"}),
    "own cell": (OwnCell, ["weight_ih", "weight_hh"], {}),
    "transformers' Conv1D": (lambda: Conv1D(6, 8), ["weight"], {"bias": "bias"}),
    "experts": (SparseLayer, ["experts.gate_up_proj", "experts.down_proj"],
                {"gate.weight": "router", "experts.gate_up_proj_bias": "bias", "shared_expert_gate.weight": "vector"}),
    "experts beside a router": (Unspoken, ["up", "down"], {"router.weight": "router", "mixing": "Unspoken"}),
    "experts in a list": (MoE, ["w1", *(f"experts.{index}.weight" for index in range(5))],
                          {"w_gate": "router", "score.weight": "router"}),
    "a gate beside a list": (Mixture, [f"branches.{index}.weight" for index in range(3)], {"gate.weight": "router"}),
    "gated": (GatedMlp, ["gate.weight", "gate_proj.weight", "up.weight"], {}),
    "BERT's embeddings": (Bert, ["word_embeddings.weight"],
                          {"position_embeddings.weight": "positions", "token_type_embeddings.weight": "types"}),
    "GPT's embeddings": (Gpt, ["wte.weight", "pos_tagger.word_embedding.weight"],
                         {"wpe.weight": "positions", "table.weight": "positions", "query_embed.weight": "tokens",
                          "cls_token": "vector", "pos_embed": "positions"}),
    "LoRA": (Lora, ["base_layer.weight"],
             {"lora_A.default.weight": "low-rank", "lora_B.default.weight": "low-rank"}),
    "unknown": (Unknown, [], {"A_log": "Unknown", "gamma": "Unknown", "temperature": "vector",
                              "weight_scale": "Unknown"}),
    "parameters in a list": (lambda: nn.ParameterList([torch.eye(6), torch.ones(6)]), [],
                             {"0": "Between", "1": "two dimensions"}),
    "normalized by rows": (lambda: parametrizations.weight_norm(nn.Linear(6, 6)), [],
                           {"parametrizations.weight.original0": "magnitude",
                            "parametrizations.weight.original1": "0/0"}),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Linear(6, 2)),
                      ["parametrizations.weight.original"], {}),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(6, 6)), [],
                   {"parametrizations.weight.original": "not zero"}),
}  # fmt: skip


class Between(nn.Module):
    """A module between a linear layer and the last one."""

    def __init__(self, module):
        super().__init__()
        self.start, self.stem, self.module, self.end = nn.Linear(6, 6), nn.Conv2d(3, 2, 1), module, nn.Linear(6, 3)


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


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, nn.utils.weight_norm])
def test_networks_under_weight_norm_learn_without_a_nan(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), norm(nn.Linear(20, 20)), nn.ReLU(), norm(nn.Linear(20, 3)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    training = sparsify(model, optimizer, strategy=often(), sparsity=0.9)
    assert training.topology.layout.names == ("0.weight",)
    inputs, labels = torch.randn(32, 6), torch.arange(32) % 3
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert_inactive_is_zero(model, optimizer, training)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    ("norm", "include"),
    [
        (parametrizations.weight_norm, "*"),
        (parametrizations.weight_norm, "*original1"),
        (nn.utils.weight_norm, "*weight_g"),
        (nn.utils.weight_norm, "*weight_v"),
        (parametrizations.orthogonal, "*original"),
    ],
)
def test_weights_that_do_not_keep_zeros_are_refused_when_requested(norm, include):
    model = nn.Sequential(norm(nn.Linear(6, 6)), nn.Linear(6, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=r"0\..*(magnitude|0/0|not zero).*exclude="):
        sparsify(model, sgd(model), include=include)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_parametrization_that_keeps_zeros_is_trained_sparsely():
    class Halved(nn.Module):
        def forward(self, weight):
            return weight / 2

    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    register_parametrization(model[0], "weight", Halved())
    training = sparsify(model, sgd(model), sparsity=0.5)
    assert training.topology.layout.names == ("0.parametrizations.weight.original",)
    assert int((model[0].weight != 0).sum()) == 18


def test_probing_a_random_parametrization_restores_the_random_generator():
    class Noisy(nn.Module):
        def forward(self, weight):
            return weight * torch.rand(())

    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    register_parametrization(model[0], "weight", Noisy())
    before = torch.get_rng_state()
    select(model)
    assert torch.equal(torch.get_rng_state(), before)


class _Mask(nn.Module):
    """As torch.ao.pruning has it."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("mask", (torch.rand_like(weight) > 0.8).float())

    def forward(self, weight):
        return weight * self.mask


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_weights_masked_by_torch_prune_are_refused_with_the_remedy(name):
    from torch.nn.utils import prune

    model = nn.Sequential(nn.Linear(6, 40), nn.Linear(40, 40), nn.Linear(40, 3))
    prune.l1_unstructured(model[1], "weight", 0.8)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError, match=r"1\.weight_orig.*prune\.remove.*exclude="):
        sparsify(model, sgd(model), sparsity=0.8)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [one.name for one in select(model, exclude="1.*").sparse] == ["0.weight"]
    prune.remove(model[1], "weight")
    if name == "bias":  # a mask on what stays dense is no second one
        prune.random_unstructured(model[1], "bias", 0.5)
    with pytest.warns(LostWeightsWarning):  # the zeros of the first mask are values now
        training = sparsify(model, sgd(model), sparsity=0.8)
    assert math.isclose(training.sparsity, 0.8, abs_tol=0.01)
    assert training.topology.layout.names == ("0.weight", "1.weight")


def test_pruning_by_torch_prune_during_sparse_training_is_refused_at_the_next_step():
    from torch.nn.utils import prune

    model = nn.Sequential(nn.Linear(6, 40), nn.Linear(40, 3))
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy="static", sparsity=0.8)

    def step():
        optimizer.zero_grad()
        model(torch.ones(2, 6)).sum().backward()
        optimizer.step()

    step()
    prune.random_structured(model[0], "weight", 0.5, dim=0)
    with pytest.raises(InputError, match=r"0\.weight .*prune\.remove"):
        step()
    prune.remove(model[0], "weight")
    step()
    assert training.step == 2


def test_a_mask_in_a_parametrization_is_refused_too():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    register_parametrization(model[0], "weight", _Mask(model[0].weight))
    with pytest.raises(InputError, match="has a mask already"):
        sparsify(model, sgd(model), sparsity=0.8)


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
