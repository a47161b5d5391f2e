"""The results of a region: tensors of torch's, views of them, or data in the kernels' layout for other regions."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor, fx

from sparsecore_cpu.layer import buffer_of
from sparsecore_cpu.runtime import Buffer
from sparsecore_torch.sparse_training.regions.execution import Execution, KernelTensor
from sparsecore_torch.sparse_training.regions.lowering import LOWERING
from sparsecore_torch.sparse_training.regions.passing import Passed, buffer_with, tensor_of
from sparsecore_torch.sparse_training.regions.views import ChannelSlice, channel_slice, evaluate

Output = Tensor | Passed
"""What a region returns."""


class Result(Protocol):
    """What a region returns of the value of one node, which the kernels compute."""

    @property
    def node(self) -> fx.Node:
        """The node."""
        ...

    @property
    def count(self) -> int:
        """The number of outputs."""
        ...

    def outputs(self, run: Execution, made: KernelTensor) -> list[Output]:
        """Return the outputs.

        Args:
            run: the forward pass.
            made: the value of the node.
        """
        ...

    def start_gradient(self, run: Execution, made: KernelTensor, gradients: Sequence[Tensor | None]) -> None:
        """Begin the backward pass.

        Args:
            run: the forward pass.
            made: the value of the node.
            gradients: of the outputs; None for those that the loss does not depend on.
        """
        ...


def dtype_and_axes(node: fx.Node) -> tuple[torch.dtype, tuple[int, ...]]:
    """Return the dtype of torch's tensor, and its dimensions in the order in which they lie in memory.

    Args:
        node: whose value the tensor is.
    """
    example: Tensor = node.meta["example_value"]
    axes = tuple(range(example.ndim))
    if not example.is_contiguous():
        strides: list[Any] = list(example.stride())
        # sizes that are symbols must not be asked for their numbers, which would compile for these numbers alone
        is_channels_last = example.ndim == 4 and example.is_contiguous(memory_format=torch.channels_last)
        axes = (0, 2, 3, 1) if is_channels_last else tuple(sorted(axes, key=lambda one: (-int(strides[one]), one)))
    return example.dtype, axes


@attrs.frozen(eq=False)
class TorchResult:
    """A tensor of torch's.

    Attributes:
        node: computed by the kernels.
        dtype: of the tensor.
        axes: the dimensions in the order in which they lie in memory, the outermost first.
        is_read: whether the value is read otherwise, too, or may be.
    """

    node: fx.Node
    dtype: torch.dtype
    axes: tuple[int, ...]
    is_read: bool

    count = 1

    @classmethod
    def of(cls, node: fx.Node, *, is_passed: bool) -> "TorchResult":
        """Read what is wanted from the example that the graph was traced with.

        Args:
            node: computed by the kernels; its users are those in the region.
            is_passed: whether the value is passed to another region, too.
        """
        is_read = is_passed or bool(node.users) or node.meta[LOWERING].is_view
        return cls(node, *dtype_and_axes(node), is_read)

    def outputs(self, run: Execution, made: KernelTensor) -> list[Output]:
        """Copy the value out of the kernels' layout."""
        tensor = run.unpack(made.activation.buffer(), made.shape, made.layout, self.axes).to(self.dtype)
        if not self.is_read:
            made.activation.release()
        return [tensor]

    def start_gradient(self, run: Execution, made: KernelTensor, gradients: Sequence[Tensor | None]) -> None:
        """Copy the gradient into the kernels' layout."""
        (gradient,) = gradients
        if gradient is not None:
            made.activation.start_gradient(run.pack(gradient, made.layout, made.activation.form.border))


@attrs.frozen(eq=False)
class PassedResult:
    """Data in the kernels' layout, which other regions read.

    Attributes:
        node: computed by the kernels.
        dtype: of the tensor that torch would have.
        axes: the dimensions of that tensor in the order in which they lie in memory.
    """

    node: fx.Node
    dtype: torch.dtype
    axes: tuple[int, ...]

    count = 1

    @classmethod
    def of(cls, node: fx.Node) -> "PassedResult":
        """Read what torch would have from the example that the graph was traced with."""
        return cls(node, *dtype_and_axes(node))

    def outputs(self, run: Execution, made: KernelTensor) -> list[Output]:  # noqa: ARG002
        """Return the memory of the value itself."""
        buffer = made.activation.buffer()
        return [Passed(tensor_of(buffer), buffer, made.shape, made.layout, self.dtype, self.axes)]

    def start_gradient(self, run: Execution, made: KernelTensor, gradients: Sequence[Tensor | None]) -> None:  # noqa: ARG002
        """Take the memory of the gradient itself."""
        (gradient,) = gradients
        if gradient is not None:
            made.activation.start_gradient(buffer_with(gradient, made.activation.form))


@attrs.frozen(eq=False)
class ViewResult:
    """Views of vectors, in place of the vectors themselves.

    Attributes:
        node: computed by the kernels; torch's tensor would be contiguous.
        dtype: of that tensor.
        views: the nodes of the views, in order.
        leaves: those of them that are returned.
        numbers: what the views read but the vectors: arguments of the region that are no tensors.
        is_read: whether the value is read otherwise, too, or may be.
    """

    node: fx.Node
    dtype: torch.dtype
    views: tuple[fx.Node, ...]
    leaves: tuple[fx.Node, ...]
    numbers: tuple[fx.Node, ...]
    is_read: bool
    _known: dict[tuple[Any, ...], "_Slices | None"] = attrs.field(factory=dict)

    @classmethod
    def of(cls, node: fx.Node, views: Sequence[fx.Node], leaves: Sequence[fx.Node]) -> "ViewResult":
        """Make one of a node, the views of it, and those of them that are returned."""
        read = dict.fromkeys(one for view in views for one in view.all_input_nodes)
        numbers = tuple(one for one in read if one is not node and one not in views)
        is_read = any(user not in views for user in node.users) or node.meta[LOWERING].is_view
        return cls(node, node.meta["example_value"].dtype, tuple(views), tuple(leaves), numbers, is_read)

    @property
    def count(self) -> int:
        """The number of views that are returned."""
        return len(self.leaves)

    def outputs(self, run: Execution, made: KernelTensor) -> list[Output]:
        """Copy each view out of the kernels' layout, into memory of its own."""
        buffer = made.activation.buffer()
        slices = self._slices(run, made)
        if slices is None:
            whole = run.unpack(buffer, made.shape, made.layout).to(self.dtype)
            return [one.clone() for one in self._views(run, whole)]
        outputs: list[Output] = []
        for part, shape in slices:
            view = part.empty(shape)
            run.runtime.kernels.unpack(
                _features_of(buffer, part).handle, part.matrix(view)[:, None, None].numpy(), run.threads
            )
            outputs.append(view.to(self.dtype))
        if not self.is_read:
            made.activation.release()
        return outputs

    def start_gradient(self, run: Execution, made: KernelTensor, gradients: Sequence[Tensor | None]) -> None:
        """Copy the gradients of the views into one buffer."""
        if all(gradient is None for gradient in gradients):
            return
        slices = self._slices(run, made)
        if slices is None:
            whole = torch.zeros(made.shape, dtype=torch.float32)
            for view, gradient in zip(self._views(run, whole), gradients, strict=True):
                if gradient is not None:
                    view.add_(gradient)
            made.activation.start_gradient(run.pack(whole, made.layout, 0))
            return
        buffer = run.runtime.buffers.take(made.activation.form)
        if sum(part.count for part, _ in slices) < buffer.form.channels:
            buffer.array[:] = 0
        for (part, _), gradient in zip(slices, gradients, strict=True):
            features = _features_of(buffer, part)
            if gradient is None:
                features.array[:] = 0
            else:
                matrix = part.matrix(gradient.detach().float())
                run.runtime.kernels.pack(matrix[:, None, None].numpy(), features.handle, run.threads)
        made.activation.start_gradient(buffer)

    def _views(self, run: Execution, whole: Tensor) -> list[Tensor]:
        """The views of a tensor of the shape of the vectors, which share its memory."""
        values = evaluate(self.views, {self.node: whole, **run.numbers})
        found: list[Tensor] = [values[leaf] for leaf in self.leaves]
        if any(one.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr() for one in found):
            raise RuntimeError(f"{self.leaves} were expected to be views of {self.node}, and are copies")
        return found

    def _slices(self, run: Execution, made: KernelTensor) -> "_Slices | None":
        """The views as slices of the features; None where one is none, or two overlap."""
        key = (made.shape, *(run.numbers[one] for one in self.numbers))
        if key not in self._known:
            values = evaluate(self.views, {self.node: torch.empty(made.shape, device="meta"), **run.numbers})
            self._known[key] = _sliced(made.shape, [values[leaf] for leaf in self.leaves])
        return self._known[key]


_Slices = list[tuple[ChannelSlice, tuple[int, ...]]]
"""Slices of the features, each with the shape of the view."""


def _sliced(shape: tuple[int, ...], views: Sequence[Tensor]) -> _Slices | None:
    found = []
    for view in views:
        part = channel_slice(tuple(shape), tuple(view.shape), view.stride(), int(view.storage_offset()))
        if part is None:
            return None
        found.append((part, tuple(view.shape)))
    ends = sorted((part.first, part.first + part.count) for part, _ in found)
    return None if any(end > first for (_, end), (first, _) in pairwise(ends)) else found


def _features_of(buffer: Buffer, part: ChannelSlice) -> Buffer:
    """Some features of a buffer of vectors, in its memory."""
    form = attrs.evolve(buffer.form, channels=part.count)
    return buffer_of(form, buffer.array[:, :, part.first : part.first + part.count])
