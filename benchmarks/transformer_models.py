"""Transformers in plain torch: ViT-Tiny, a small GPT, and a model like Llama of 97 million parameters."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Self-attention of several heads over (N, length, features)."""

    def __init__(self, features: int, heads: int, *, is_causal: bool) -> None:
        super().__init__()
        self.heads, self.is_causal = heads, is_causal
        self.qkv = nn.Linear(features, 3 * features)
        self.proj = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors, (N, length, features), of vectors of that shape."""
        count, length, features = x.shape
        q, k, v = self.qkv(x).reshape(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal)
        return self.proj(out.transpose(1, 2).reshape(count, length, features))


class Block(nn.Module):
    """A layer of a transformer with layer norms before attention and feed-forward."""

    def __init__(self, features: int, heads: int, *, is_causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(features), nn.LayerNorm(features)
        self.attn = Attention(features, heads, is_causal=is_causal)
        self.mlp = nn.Sequential(nn.Linear(features, 4 * features), nn.GELU(), nn.Linear(4 * features, features))

    def forward(self, x: Tensor) -> Tensor:
        """Vectors, (N, length, features), of vectors of that shape."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """ViT-Tiny with patches of 16×16 on images of 224×224, for ImageNet."""

    def __init__(self, features: int = 192, layers: int = 12, heads: int = 3, classes: int = 1000) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, features, 16, 16)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, features))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 14 * 14 + 1, features))
        self.blocks = nn.Sequential(*(Block(features, heads, is_causal=False) for _ in range(layers)))
        self.norm = nn.LayerNorm(features)
        self.head = nn.Linear(features, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (N, classes), of images, (N, 3, 224, 224)."""
        x = self.patch_embed(images).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class GPT(nn.Module):
    """A language model of bytes."""

    def __init__(self, features: int = 256, layers: int = 4, heads: int = 4, length: int = 128) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(256, features), nn.Embedding(length, features)
        self.blocks = nn.Sequential(*(Block(features, heads, is_causal=True) for _ in range(layers)))
        self.norm = nn.LayerNorm(features)
        self.lm_head = nn.Linear(features, 256, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits, (N·length, 256), of tokens, (N, length)."""
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        return self.lm_head(self.norm(self.blocks(x))).flatten(0, 1)


class Llama(nn.Module):
    """A language model with RMS norms, rotary positions and gated feed-forward layers: 97 million parameters."""

    def __init__(
        self, features: int = 768, layers: int = 12, heads: int = 12, hidden: int = 2048, vocabulary: int = 8000
    ) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, features)
        self.layers = nn.ModuleList(_LlamaLayer(features, heads, hidden) for _ in range(layers))
        self.norm = nn.RMSNorm(features)
        self.lm_head = nn.Linear(features, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits, (N·length, vocabulary), of tokens, (N, length)."""
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x)).flatten(0, 1)


class _LlamaLayer(nn.Module):
    def __init__(self, features: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(features), nn.RMSNorm(features)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(features, features, bias=False) for _ in range(4)
        )
        self.gate_proj, self.up_proj = (nn.Linear(features, hidden, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(hidden, features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(self.input_layernorm(x))
        inner = self.post_attention_layernorm(x)
        return x + self.down_proj(functional.silu(self.gate_proj(inner)) * self.up_proj(inner))

    def _attend(self, x: Tensor) -> Tensor:
        count, length, features = x.shape
        q, k, v = (
            project(x).reshape(count, length, self.heads, -1).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = functional.scaled_dot_product_attention(_rotated(q), _rotated(k), v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(count, length, features))


def _rotated(x: Tensor) -> Tensor:
    """Rotary position embedding of (N, heads, length, features of a head)."""
    half = x.shape[-1] // 2
    frequencies = 10000.0 ** (-torch.arange(half) / half)
    angles = torch.arange(x.shape[-2])[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
