"""Torch's layouts and the kernels': (blocks, height + border, channels, width + border, lanes), and back.

One copy each way, and none for a batch of features that lies transposed already and fills its blocks.
"""

from typing import Protocol

import torch
from torch import Tensor

from sparsecore_cpu._kernels import Activation, Kernels
from sparsecore_cpu.layer import buffer_of
from sparsecore_cpu.workspace import Form

_CACHE_LINE = 64


class Layout(Protocol):
    """How a batch lies."""

    def packed(self, x: Tensor, form: Form, kernels: Kernels) -> Tensor:
        """The batch as the kernels read it: zero on the border, and in the lanes beyond the batch."""
        ...

    def unpacked(
        self, buffer: Tensor, form: Form, bias: Tensor | None, order: torch.memory_format, kernels: Kernels
    ) -> Tensor:
        """The batch, plus a bias by channel, in this memory format where it has one."""
        ...


class Images:
    """(images, channels, height, width), contiguous or channels last or however else."""

    def packed(self, x: Tensor, form: Form, kernels: Kernels) -> Tensor:
        """See :class:`Layout`."""
        buffer = _without_border(torch.empty(form.shape(kernels.lanes)), form.border)
        kernels.pack(x.permute(0, 2, 3, 1).numpy(), _handle(form, buffer), torch.get_num_threads())
        return buffer

    def unpacked(
        self, buffer: Tensor, form: Form, bias: Tensor | None, order: torch.memory_format, kernels: Kernels
    ) -> Tensor:
        """See :class:`Layout`."""
        shape = (form.images, form.channels, form.height, form.width)
        images = torch.empty(shape, memory_format=order)
        kernels.unpack(_handle(form, buffer), images.permute(0, 2, 3, 1).numpy(), torch.get_num_threads())
        return images if bias is None else images.add_(bias[:, None, None])


class Features:
    """(batch, features)."""

    def packed(self, x: Tensor, form: Form, kernels: Kernels) -> Tensor:
        """See :class:`Layout`."""
        shape = form.shape(kernels.lanes)
        by_feature = x.t()
        whole = len(x) == shape[3] * shape[4]
        if whole and by_feature.is_contiguous() and x.data_ptr() % _CACHE_LINE == 0:
            return by_feature.view(shape)
        buffer = torch.empty(shape)
        kernels.pack(x[:, None, None].numpy(), _handle(form, buffer), torch.get_num_threads())
        return buffer

    def unpacked(
        self,
        buffer: Tensor,
        form: Form,
        bias: Tensor | None,
        order: torch.memory_format,  # noqa: ARG002
        kernels: Kernels,
    ) -> Tensor:
        """See :class:`Layout`; contiguous, as whoever reshapes the outputs of a linear layer expects."""
        vectors = torch.empty(form.images, form.channels)
        kernels.unpack(_handle(form, buffer), vectors[:, None, None].numpy(), torch.get_num_threads())
        return vectors if bias is None else vectors.add_(bias)


def memory_format(x: Tensor) -> torch.memory_format:
    """Channels last if that is what it lies in, and it is not contiguous as well."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def _without_border(buffer: Tensor, border: int) -> Tensor:
    """The buffer, with zeros on its border."""
    if border:
        for rows in (buffer[:, :border], buffer[:, -border:]):
            rows.zero_()
        for columns in (buffer[:, border:-border, :, :border], buffer[:, border:-border, :, -border:]):
            columns.zero_()
    return buffer


def _handle(form: Form, buffer: Tensor) -> Activation:
    return buffer_of(form, buffer.numpy()).handle
