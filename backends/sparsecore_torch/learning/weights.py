"""Handles of a model's parameters: what an operation may do with a weight, dense, sparse or tied."""

from typing import Protocol

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from sparsecore_torch.learning import tied_layers
from sparsecore_torch.learning.layers import DIRECT, Layers
from sparsecore_torch.learning.tied_layers import TiedLayers


class Weight(Protocol):
    """A parameter of the model, of whose entries all exist or some."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The dense shape."""
        ...

    def tensor(self) -> Tensor:
        """The dense tensor, for operations on small ones."""
        ...

    def conv2d(self, x: Tensor, stride: int, padding: int) -> Tensor:
        """The cross-correlation of images with it."""
        ...

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x·weightᵀ + bias."""
        ...


@attrs.define(eq=False, slots=False)  # torch.compile cannot make frozen ones
class DenseWeight:
    """A parameter of which all entries exist."""

    _tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """See :class:`Weight`."""
        return tuple(self._tensor.shape)

    def tensor(self) -> Tensor:
        """See :class:`Weight`."""
        return self._tensor

    def conv2d(self, x: Tensor, stride: int, padding: int) -> Tensor:
        """See :class:`Weight`."""
        return functional.conv2d(x, self._tensor, None, stride, padding)

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """See :class:`Weight`."""
        return functional.linear(x, self._tensor, bias)


@attrs.define(eq=False, slots=False)  # torch.compile cannot make frozen ones
class SparseWeight:
    """A parameter of which N_i entries exist.

    Attributes:
        values: the entries, (N_i,).
        positions: where they are in the layout, (N_i,), ascending.
        offset: the tensor's first position.
        shape: its dense shape.
        layers: what computes with it.
    """

    values: Tensor
    positions: Tensor
    offset: int
    shape: tuple[int, ...]
    layers: Layers = DIRECT

    def tensor(self) -> Tensor:
        """See :class:`Weight`."""
        dense: Tensor = self.layers.dense(self.values, self.positions, self.offset, self.shape)
        return dense

    def conv2d(self, x: Tensor, stride: int, padding: int) -> Tensor:
        """See :class:`Weight`."""
        images: Tensor = self.layers.conv2d(
            _cast(x), self.values, self.positions, self.offset, self.shape, stride, padding
        )
        return images

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """See :class:`Weight`."""
        product: Tensor = self.layers.linear(_cast(x), self.values, self.positions, self.offset, self.shape)
        return product if bias is None else product + bias.to(product.dtype)


@attrs.define(eq=False, slots=False)  # torch.compile cannot make frozen ones
class TiedWeight:
    """A parameter whose entries are those of a shorter vector, by a hash.

    Attributes:
        values: the vector.
        shape: the dense shape.
        key: of the hash.
        layers: what computes with it.
    """

    values: Weight
    shape: tuple[int, ...]
    key: int
    layers: TiedLayers = tied_layers.DIRECT

    def tensor(self) -> Tensor:
        """See :class:`Weight`."""
        dense: Tensor = self.layers.dense(self.values.tensor(), self.shape, self.key)
        return dense

    def conv2d(self, x: Tensor, stride: int, padding: int) -> Tensor:
        """See :class:`Weight`."""
        images: Tensor = self.layers.conv2d(_cast(x), self.values.tensor(), self.shape, self.key, stride, padding)
        return images

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """See :class:`Weight`."""
        product: Tensor = self.layers.linear(_cast(x), self.values.tensor(), self.shape, self.key)
        return product if bias is None else product + bias.to(product.dtype)


def _cast(x: Tensor) -> Tensor:
    # autocast does not know operators of ours
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
