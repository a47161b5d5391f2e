"""Torch's layouts and the kernels': (blocks, height + border, channels, width + border, lanes), and back.

One copy each way, and none for a batch of features that lies transposed already and fills its blocks.
"""

from typing import Protocol

import torch
from torch import Tensor

from sparsecore_cpu.machine import Form

_CACHE_LINE = 64


class Layout(Protocol):
    """How a batch lies."""

    def packed(self, x: Tensor, form: Form, lanes: int) -> Tensor:
        """The batch as the kernels read it: zero on the border, and in the lanes beyond the batch."""
        ...

    def unpacked(self, buffer: Tensor, form: Form, bias: Tensor | None, order: torch.memory_format) -> Tensor:
        """The batch, plus a bias by channel, in this memory format where it has one."""
        ...


class Images:
    """(images, channels, height, width), contiguous or channels last or however else."""

    def packed(self, x: Tensor, form: Form, lanes: int) -> Tensor:
        """See :class:`Layout`."""
        buffer = torch.empty(form.shape(lanes), dtype=x.dtype)
        inside = _inside(_without_border(buffer, form.border), form)
        whole, rest = _blocks(x, lanes)
        inside[: len(whole)].copy_(whole.permute(0, 3, 2, 4, 1))
        if len(rest):
            inside[-1, ..., : len(rest)].copy_(rest.permute(2, 1, 3, 0))
            inside[-1, ..., len(rest) :] = 0
        return buffer

    def unpacked(self, buffer: Tensor, form: Form, bias: Tensor | None, order: torch.memory_format) -> Tensor:
        """See :class:`Layout`."""
        inside, lanes = _inside(buffer, form), buffer.shape[-1]
        shape = (form.images, form.channels, form.height, form.width)
        images = torch.empty(shape, dtype=buffer.dtype, memory_format=order)
        by_channel = None if bias is None else bias[:, None, None]
        whole, rest = _blocks(images, lanes)
        _write(whole, inside[: len(whole)].permute(0, 4, 2, 1, 3), by_channel)
        if len(rest):
            _write(rest, inside[-1, ..., : len(rest)].permute(3, 1, 0, 2), by_channel)
        return images


class Features:
    """(batch, features)."""

    def packed(self, x: Tensor, form: Form, lanes: int) -> Tensor:
        """See :class:`Layout`."""
        shape = form.shape(lanes)
        room = shape[3] * lanes
        by_feature = x.t()
        if room == len(x) and by_feature.is_contiguous() and x.data_ptr() % _CACHE_LINE == 0:
            return by_feature.view(shape)
        buffer = torch.empty(form.channels, room, dtype=x.dtype)
        buffer[:, : len(x)].copy_(by_feature)
        buffer[:, len(x) :] = 0
        return buffer.view(shape)

    def unpacked(
        self,
        buffer: Tensor,
        form: Form,
        bias: Tensor | None,
        order: torch.memory_format,  # noqa: ARG002
    ) -> Tensor:
        """See :class:`Layout`; contiguous, as whoever reshapes the outputs of a linear layer expects."""
        vectors = torch.empty(form.images, form.channels, dtype=buffer.dtype)
        _write(vectors, buffer.view(form.channels, -1)[:, : form.images].t(), bias)
        return vectors


def memory_format(x: Tensor) -> torch.memory_format:
    """Channels last if that is what it lies in, and it is not contiguous as well."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def _blocks(images: Tensor, lanes: int) -> tuple[Tensor, Tensor]:
    """The full blocks, (blocks, lanes, ...), and the images that fill none."""
    whole = len(images) // lanes
    full = images[: whole * lanes]
    return full.view(whole, lanes, *full.shape[1:]), images[whole * lanes :]


def _inside(buffer: Tensor, form: Form) -> Tensor:
    border = form.border
    return buffer[:, border : border + form.height, :, border : border + form.width]


def _without_border(buffer: Tensor, border: int) -> Tensor:
    """The buffer, with zeros on its border."""
    if border:
        for rows in (buffer[:, :border], buffer[:, -border:]):
            rows.zero_()
        for columns in (buffer[:, border:-border, :, :border], buffer[:, border:-border, :, -border:]):
            columns.zero_()
    return buffer


def _write(to: Tensor, entries: Tensor, bias: Tensor | None) -> None:
    if bias is None:
        to.copy_(entries)
    else:
        torch.add(entries, bias, out=to)
