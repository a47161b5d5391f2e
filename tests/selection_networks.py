"""Networks as people write them, with the tensors of each that become sparse and the reasons of the others."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn.utils import parametrizations


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
