"""A network as a program: operations in order, with their attributes, and the tensors that they read.

Nothing here depends on PyTorch. Attributes are values that JSON represents, so that a program can be written to a file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore_cpu.inference.network import FixedTensor

Shape = tuple[int, ...]
"""The shape of a value. A negative size −k stands for k times the number of examples."""

Operand = int | str | None
"""The number of a value, the name of a tensor, or None for an operand that is left out."""


_ON_IMAGES = frozenset(
    {
        "conv2d",
        "max_pool2d",
        "avg_pool2d",
        "adaptive_avg_pool2d",
        "adaptive_max_pool2d",
        "upsample_nearest2d",
        "pad",
    }
)
"""Operations on images."""


def sized(shape: Sequence[int], examples: int) -> tuple[int, ...]:
    """The shape for so many examples.

    Args:
        shape: sizes, of which negative ones are multiples of the number of examples.
        examples: the number of examples.
    """
    return tuple(-size * examples if size < 0 else size for size in shape)


@attrs.frozen(eq=False)
class Call:
    """One operation of a program.

    Attributes:
        operation: its name, a key of ``definitions.DEFINITIONS``.
        operands: what it reads.
        attributes: its settings, by name.
        shape: the shape of its output.
        source: where it comes from, for error messages.
    """

    operation: str
    operands: tuple[Operand, ...]
    attributes: Mapping[str, Any]
    shape: Shape
    source: str = ""


@attrs.frozen(eq=False)
class ModelProgram:
    """A network as a program; value 0 is the input, and value i the output of the i-th call, counted from 1.

    Attributes:
        shape: the shape of the input; the first size is that of the batch.
        dtype: the NumPy dtype of the input: float32 or int64.
        calls: the operations, each after those that it reads.
        output: the number of the value that is predicted.
        weights: tensors of float32 with at least two dimensions, by name: their nonzero entries.
        constants: all other tensors, by name.

    Raises:
        InputError: a call reads a value that is not there before, or a tensor that is not there.
    """

    shape: Shape
    dtype: str
    calls: tuple[Call, ...]
    output: int
    weights: Mapping[str, FixedTensor]
    constants: Mapping[str, NDArray[Any]]

    def __attrs_post_init__(self) -> None:
        for number, call in enumerate(self.calls, 1):
            for operand in call.operands:
                if not self._exists(operand, number):
                    raise InputError(
                        f"operation {number}, {call.operation}, reads {operand!r}, which is no value before it and no "
                        "tensor of the network"
                    )
        if not 0 <= self.output <= len(self.calls):
            raise InputError(f"the output is value {self.output}; there are {len(self.calls)} operations")
        for shape in (self.shape, self.output_shape):
            if not shape or shape[0] >= 0 or min(shape[1:], default=1) < 1:
                raise InputError(f"the first dimension of input and output is that of the batch; given {shape}")

    @property
    def has_images(self) -> bool:
        """Whether it computes on images, of which one is computed at a time."""
        return len(self.shape) == 4 or any(call.operation in _ON_IMAGES for call in self.calls)

    @property
    def output_shape(self) -> Shape:
        """The shape of what is predicted."""
        return self.shape_of(self.output)

    @property
    def density(self) -> float:
        """The share of the weights' entries that is not zero; 1 where there are no weights."""
        entries = sum(int(np.prod(weight.shape)) for weight in self.weights.values())
        return sum(len(weight.values) for weight in self.weights.values()) / entries if entries else 1.0

    def shape_of(self, operand: Operand) -> Shape:
        """The shape of a value or a tensor.

        Args:
            operand: one that exists, not None.
        """
        if isinstance(operand, int):
            return self.calls[operand - 1].shape if operand else self.shape
        name = str(operand)
        return self.weights[name].shape if name in self.weights else self.constants[name].shape

    def array(self, name: str) -> NDArray[Any]:
        """A tensor as an array in its shape: float32 for weights, else as it is.

        Args:
            name: of the tensor.
        """
        return self.weights[name].to_array().astype(np.float32) if name in self.weights else self.constants[name]

    def _exists(self, operand: Operand, number: int) -> bool:
        if isinstance(operand, int):
            return 0 <= operand < number
        return operand is None or operand in self.weights or operand in self.constants
