"""The layers of WRN-28-2 by themselves in torch: ``kernels="sparse"`` against dense ones, conversions included.

    python benchmarks/kernels_torch.py [--rounds 15] [--threads 1]

Forward and backward pass, with the gradients of input and weight; all kinds of one layer in turn in one process.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import attrs
import quiet_machine
import torch
from machine import machine, sentence
from torch import Tensor, nn
from writing import table, write

from sparsecore_torch import sparsify

SPARSITIES = (0.8, 0.9, 0.95, 0.98)
ORDERS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


@attrs.frozen
class Shape:
    """Of a convolution with a border of zeros, and of its images."""

    inputs: int
    outputs: int
    side: int
    stride: int = 1
    kernel: int = 3

    def __str__(self) -> str:
        stride = "" if self.stride == 1 else f", stride {self.stride}"
        return f"{self.inputs}→{self.outputs}, {self.kernel}×{self.kernel}, on {self.side}×{self.side}{stride}"

    def layer(self) -> nn.Conv2d:
        """As the network has it."""
        return nn.Conv2d(self.inputs, self.outputs, self.kernel, self.stride, self.kernel // 2, bias=False)


SHAPES = (
    Shape(16, 32, 32),
    Shape(32, 32, 32),
    Shape(32, 64, 32, stride=2),
    Shape(64, 64, 16),
    Shape(64, 128, 16, stride=2),
    Shape(128, 128, 8),
    Shape(64, 128, 16, stride=2, kernel=1),
)


def main() -> None:
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = [row for shape in SHAPES for row in _rows(shape, options)]
    report = {"machine": machine(), "settings": vars(options), "layers": rows}
    write("kernels_torch", report, page(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    quiet_machine.add_options(parser, rounds=15)
    parser.add_argument("--batch", type=int, default=100, help="images (default: 100)")
    parser.add_argument("--threads", type=int, default=0, help="of torch; by default as torch has it")
    return parser.parse_args()


def _rows(shape: Shape, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Of one layer: each sparsity in each memory format, in milliseconds and of the faster dense one."""
    dense = {(0.0, order): _passes(_dense(shape, order), shape, order, options) for order in ORDERS}
    sparse = {
        (sparsity, order): _passes(_sparse(shape, order, sparsity), shape, order, options)
        for sparsity in SPARSITIES
        for order in ORDERS
    }
    seconds = quiet_machine.in_turn({str(key): step for key, step in (dense | sparse).items()}, options)
    rival = min((seconds[str(key)] for key in dense), key=statistics.median)
    return [
        {
            "layer": str(shape),
            "sparsity": sparsity,
            "order": order,
            "ms": round(1e3 * statistics.median(seconds[str((sparsity, order))]), 3),
            "times_dense": round(quiet_machine.ratio(seconds[str((sparsity, order))], rival), 4),
        }
        for sparsity, order in (dense | sparse)
    ]


def _dense(shape: Shape, order: str) -> nn.Module:
    return nn.Sequential(shape.layer()).to(memory_format=ORDERS[order])


def _sparse(shape: Shape, order: str, sparsity: float) -> nn.Module:
    """In training."""
    model = _dense(shape, order)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsify(model, optimizer, strategy="static", sparsity=sparsity, include="*", kernels="sparse")
    return model


def _passes(model: nn.Module, shape: Shape, order: str, options: argparse.Namespace) -> Callable[[], None]:
    side = (shape.side - 1) // shape.stride + 1
    images = _noise((options.batch, shape.inputs, shape.side, shape.side), order).requires_grad_()
    gradient = _noise((options.batch, shape.outputs, side, side), order)

    def forward_and_backward() -> None:
        images.grad = None
        model.zero_grad()
        model(images).backward(gradient)

    return forward_and_backward


def _noise(shape: tuple[int, ...], order: str) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=ORDERS[order])


def page(report: dict[str, Any]) -> str:
    settings = report["settings"]
    layers = dict.fromkeys(row["layer"] for row in report["layers"])
    lines = [_line(name, order, report["layers"]) for name in layers for order in ORDERS]
    head = ("layer", "in", "dense, ms", *(f"at {sparsity}" for sparsity in SPARSITIES))
    return f"""# Layers of WRN-28-2 in torch through the sparse kernels

Batch {settings["batch"]}, float32, {report["machine"]["threads of torch"]} threads: forward and backward pass of each
layer by itself, from torch's memory formats into the kernels' and back each time. Times are medians over
{settings["rounds"]} rounds, in each of which every kind of a layer was taken once. Beside the milliseconds of the dense
layer stand ratios to the dense one in the faster of the two formats: the medians of the rounds' ratios.

{table(head, lines)}

{sentence(report["machine"])}
"""


def _line(layer: str, order: str, rows: list[dict[str, Any]]) -> list[str]:
    own = {row["sparsity"]: row for row in rows if (row["layer"], row["order"]) == (layer, order)}
    return [layer, order, f"{own[0.0]['ms']:.2f}", *(f"{own[sparsity]['times_dense']:.3f}" for sparsity in SPARSITIES)]


if __name__ == "__main__":
    main()
