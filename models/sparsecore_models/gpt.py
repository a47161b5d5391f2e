"""A small GPT of characters, as a module of PyTorch: for the torch backend, and for loops of one's own."""

import math

import torch
from torch import Tensor, nn

_HEAD_FEATURES = 32


class Attention(nn.Module):
    """Causal self-attention, with heads of 32 features."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.heads = features // _HEAD_FEATURES
        self.query_key_value = nn.Linear(features, 3 * features)
        self.projection = nn.Linear(features, features)

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute (batch, characters, features) from the same shape."""
        split = self.query_key_value(hidden).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = split
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        projected: Tensor = self.projection(mixed.transpose(1, 2).flatten(2))
        return projected


class Block(nn.Module):
    """Attention and a perceptron, each after a layer norm and beside an identity."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(features), Attention(features))
        self.perceptron = nn.Sequential(
            nn.LayerNorm(features), nn.Linear(features, 4 * features), nn.GELU(), nn.Linear(4 * features, features)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute (batch, characters, features) from the same shape."""
        hidden = hidden + self.attention(hidden)
        computed: Tensor = hidden + self.perceptron(hidden)
        return computed


class CharacterGPT(nn.Module):
    """A GPT with learned positions; embeddings and head are not tied.

    Args:
        num_classes: the number of different characters.
        layers: the number of blocks.
        features: the width of the network, a multiple of 32, the features of a head.
        characters: the length of the longest sequence.

    Raises:
        ValueError: the features are no multiple of 32.
    """

    def __init__(self, num_classes: int, layers: int = 4, features: int = 128, characters: int = 64) -> None:
        super().__init__()
        if features < 1 or features % _HEAD_FEATURES:
            raise ValueError(f"the features are a multiple of {_HEAD_FEATURES}; given {features}")
        self.embedding = nn.Embedding(num_classes, features)
        self.positions = nn.Parameter(torch.zeros(characters, features))
        self.blocks = nn.Sequential(*(Block(features) for _ in range(layers)))
        self.norm = nn.LayerNorm(features)
        self.head = nn.Linear(features, num_classes)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                residual = name.endswith(("projection.weight", "perceptron.3.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers if residual else 1))

    def forward(self, codes: Tensor) -> Tensor:
        """Compute logits.

        Args:
            codes: of the characters, (batch, characters), or (batch, 1, 1, characters) as a data set of tokens has
                them; whole numbers of any dtype.

        Returns:
            (batch, characters, number of different characters).
        """
        numbers = codes.flatten(1).long()
        hidden = self.embedding(numbers) + self.positions[: numbers.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(hidden)))
        return logits
