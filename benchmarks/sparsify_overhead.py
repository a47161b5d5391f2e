"""What ``sparsify`` with masks adds to a training step: processor time beside the same loop without it.

    python benchmarks/sparsify_overhead.py [--rounds 40] [--only NAME ...]

Each pair of models trains in this process on one thread, in turn, a step each. What is measured is the processor time
of the thread, which other programs disturb less than the time of the clock; the ratio is the median of the rounds'
ratios. No update is due meanwhile.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from machine import machine, sentence
from torch import Tensor, nn
from torch.nn import functional
from writing import table, write

from sparsecore_torch import sparsify

VOCABULARY = 1024


class Block(nn.Module):
    """A block of a Llama: attention, and a gated perceptron, each after a norm; without positions."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate_proj, self.up_proj = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of shape (batch, length, width)."""
        batch, length, width = tokens.shape
        given = self.norms[0](tokens)
        query, key, value = (
            projection(given).view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        tokens = tokens + self.o_proj(seen.transpose(1, 2).reshape(batch, length, width))
        given = self.norms[1](tokens)
        return tokens + self.down_proj(functional.silu(self.gate_proj(given)) * self.up_proj(given))


class Llama(nn.Module):
    """Embeddings, blocks, and a head."""

    def __init__(self, width: int = 256, heads: int = 4, hidden: int = 688, blocks: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.Sequential(*(Block(width, heads, hidden) for _ in range(blocks)))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Numbers of tokens, (batch, length), to logits, (batch · length, vocabulary)."""
        return self.head(self.norm(self.blocks(self.embed(tokens)))).flatten(0, 1)


class Basic(nn.Module):
    """Two convolutions and a way past them."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        past = (nn.AvgPool2d(stride), nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside))
        self.past: nn.Module = nn.Identity() if stride == 1 and inside == outside else nn.Sequential(*past)

    def forward(self, images: Tensor) -> Tensor:
        """Images of shape (batch, channels, height, width)."""
        return functional.relu(self.body(images) + self.past(images))


def resnet10t() -> nn.Module:
    """A residual network of ten layers with a stem of three convolutions, as timm's; 5.4 million weights."""
    stem = [
        layer
        for inside, outside, stride in ((3, 24, 2), (24, 32, 1), (32, 64, 1))
        for layer in (nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU())
    ]
    widths = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
    body = [Basic(*sides) for sides in widths]
    return nn.Sequential(
        *stem, nn.MaxPool2d(3, 2, 1), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)
    )


def perceptron(side: int) -> nn.Module:
    """Three hidden layers of one size."""
    return nn.Sequential(*(part for _ in range(3) for part in (nn.Linear(side, side), nn.ReLU())), nn.Linear(side, 10))


@attrs.frozen
class Case:
    """A training loop.

    Attributes:
        make: the model.
        optimizer: of its parameters.
        batch: inputs.
        classes: of the labels.
        goal: what masks may add, as a share of the step; None where there is none.
    """

    make: Callable[[], nn.Module]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    batch: Callable[[], Tensor]
    classes: int
    goal: float | None = None


def adamw(**options: Any) -> Callable[[Any], torch.optim.Optimizer]:
    """AdamW with a usual learning rate."""
    return lambda parameters: torch.optim.AdamW(parameters, lr=3e-4, **options)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    """SGD with momentum and weight decay."""
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4)


def tokens(batch: int, length: int) -> Callable[[], Tensor]:
    """Random numbers of tokens."""
    return lambda: torch.randint(0, VOCABULARY, (batch, length))


CASES: Mapping[str, Case] = {
    "Llama of 3.4 M, 512 tokens, AdamW": Case(Llama, adamw(), tokens(4, 128), VOCABULARY, 0.02),
    "Llama of 3.4 M, 512 tokens, AdamW foreach": Case(Llama, adamw(foreach=True), tokens(4, 128), VOCABULARY, 0.02),
    "Llama of 3.4 M, 512 tokens, AdamW fused": Case(Llama, adamw(fused=True), tokens(4, 128), VOCABULARY, 0.02),
    "Llama of 3.4 M, 64 tokens, AdamW": Case(Llama, adamw(), tokens(1, 64), VOCABULARY, 0.04),
    "Llama of 3.4 M, 64 tokens, AdamW fused": Case(Llama, adamw(fused=True), tokens(1, 64), VOCABULARY, 0.04),
    "resnet10t, batch 16, SGD": Case(resnet10t, sgd, lambda: torch.randn(16, 3, 64, 64), 1000, 0.02),
    "perceptron of 3 x 256, batch 64, SGD": Case(lambda: perceptron(256), sgd, lambda: torch.randn(64, 256), 10),
    "perceptron of 3 x 2048, batch 64, SGD": Case(lambda: perceptron(2048), sgd, lambda: torch.randn(64, 2048), 10),
    "Llama of 26 M, 256 tokens, AdamW fused": Case(
        lambda: Llama(512, 8, 1376, 8), adamw(fused=True), tokens(2, 128), VOCABULARY
    ),
}


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    rows = {name: _measure(CASES[name], options) for name in options.only or CASES}
    report = {"machine": machine(), "load": os.getloadavg()[0], "settings": vars(options), "cases": rows}
    write("sparsify_overhead", report, page(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40, help="steps of each (default: 40)")
    parser.add_argument("--sparsity", type=float, default=0.9, help="of the sparse tensors (default: 0.9)")
    parser.add_argument("--only", nargs="*", choices=CASES, help="some of the cases")
    return parser.parse_args()


def _measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of processor time of each loop, and the median of the ratios of neighbouring steps."""
    steps = {"dense": _loop(case, None), "masks": _loop(case, options.sparsity)}
    for step in steps.values():
        for _ in range(3):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(options.rounds):
        # each goes first in every other round
        for name, step in sorted(steps.items(), reverse=number % 2 == 1):
            start = time.thread_time()
            step()
            seconds[name].append(time.thread_time() - start)
    ratios = [masks / dense for dense, masks in zip(seconds["dense"], seconds["masks"], strict=True)]
    return {
        "step_ms": {name: round(1e3 * statistics.median(taken), 3) for name, taken in seconds.items()},
        "overhead": round(statistics.median(ratios) - 1, 4),
        "quartiles": [round(one - 1, 4) for one in statistics.quantiles(ratios, n=4)[::2]],
        "goal": case.goal,
    }


def _loop(case: Case, sparsity: float | None) -> Callable[[], None]:
    torch.manual_seed(0)
    model = case.make()
    optimizer = case.optimizer(model.parameters())
    if sparsity is not None:
        sparsify(model, optimizer, strategy="static", sparsity=sparsity)
    given = case.batch()
    labels = torch.randint(0, case.classes, (given.numel() if case.classes == VOCABULARY else len(given),))

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(given), labels).backward()
        optimizer.step()

    return step


def page(report: dict[str, Any]) -> str:
    settings = report["settings"]
    rows = [
        [
            name,
            f"{case['step_ms']['dense']:.1f}",
            f"{case['step_ms']['masks']:.1f}",
            f"{100 * case['overhead']:.1f}",
            " to ".join(f"{100 * one:.1f}" for one in case["quartiles"]),
            "" if case["goal"] is None else f"{100 * case['goal']:.0f}",
        ]
        for name, case in report["cases"].items()
    ]
    return f"""# What masks add to a training step

Processor time of one thread, of the same loop with `sparsify(..., sparsity={settings["sparsity"]})` and without it, in
turn in one process, {settings["rounds"]} steps of each; no update is due. What is added is the median over rounds of
the ratio within a round, with its quartiles. Other programs disturb processor time as well, as they share caches and
memory, if less than the time of the clock; the load of the machine was {report["load"]:.1f}.

What is added is, in the first place, one pass over the gradients of the sparse tensors, which reads them, their masks,
and writes them: 9 bytes a weight, whatever the batch, so that its share is the larger the less a step computes. The
second moments of an AdamW that is not fused take two more passes, as torch's square root (MKL's) takes six times as
long of zeros as of other numbers: those of inactive weights are one while the optimizer steps.

{table(("loop", "dense, ms", "masks, ms", "added, %", "quartiles, %", "goal, %"), rows)}

{sentence(report["machine"])}
"""


if __name__ == "__main__":
    main()
