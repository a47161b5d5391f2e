"""Array operations on torch tensors, on CPU and CUDA devices, with the same results as NumPy's."""

from collections.abc import Sequence
from typing import Any, Literal, cast

import attrs
import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from sparsecore.engine.arrays import Array
from sparsecore.engine.selection import smallest_indices
from sparsecore.engine.topology import Topology
from sparsecore.host.arrays import NumpyArrays
from sparsecore_torch.tensors import is_non_overlapping_and_dense


def as_tensor(array: Array) -> Tensor:
    """Return an array of this backend itself, typed as the tensor that it is."""
    return cast("Tensor", array)


def local_indices(positions: Tensor, offset: int) -> Tensor:
    """Convert the positions of one tensor's weights in the layout to indices within the flat tensor.

    Args:
        positions: (N_i,), of the layout's position dtype.
        offset: the tensor's first position in the layout.

    Returns:
        Row-major indices, (N_i,), int64; a new tensor.
    """
    return positions.long().sub_(offset) if positions.dtype is not torch.int64 else positions - offset


def _narrow_indices(topology: Topology, tensor: int) -> Tensor:
    """Return :func:`active_indices` in the dtype of the positions, which takes half the memory where that is int32."""
    first, last = topology.bounds[tensor : tensor + 2]
    return as_tensor(topology.positions[first:last] - topology.layout.offsets[tensor])


def gather_active(dense: Tensor, topology: Topology, tensor: int) -> Tensor:
    """Return the active entries of a dense tensor.

    Args:
        dense: of the tensor's shape, with any strides.
        topology: the active positions.
        tensor: the tensor's index in the layout.

    Returns:
        (N_i,).
    """
    return gather(dense, _narrow_indices(topology, tensor))


def active_indices(topology: Topology, tensor: int) -> Tensor:
    """Return the indices of a tensor's active weights within the flat tensor.

    Args:
        topology: the active positions.
        tensor: the tensor's index in the layout.

    Returns:
        Row-major indices, (N_i,), int64, on the topology's device.
    """
    first, last = topology.bounds[tensor : tensor + 2]
    return local_indices(as_tensor(topology.positions[first:last]), topology.layout.offsets[tensor])


def shortened(indices: Tensor) -> Tensor:
    """Return ascending indices as int32 where that holds them, which takes half the memory of int64.

    Args:
        indices: (N_i,), int64.
    """
    fits = not len(indices) or int(indices[-1]) <= torch.iinfo(torch.int32).max
    return indices.int() if fits else indices


def scatter(values: Tensor, indices: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a dense tensor with these entries, and zero elsewhere.

    Args:
        values: (N_i,).
        indices: row-major indices of the values in the flat result, (N_i,), int64.
        shape: of the result.

    Returns:
        The tensor, in the dtype of the values, detached.
    """
    dense = values.new_zeros(tuple(shape))
    dense.view(-1).index_copy_(0, indices, values.detach())
    return dense


def gather(dense: Tensor, indices: Tensor) -> Tensor:
    """Return entries of a dense tensor.

    Args:
        dense: of any shape and strides.
        indices: row-major indices in the flat tensor, (N_i,), int32 or int64.

    Returns:
        (N_i,).
    """
    return dense.reshape(-1).index_select(0, indices)


def memory_offsets(indices: Tensor, like: Tensor) -> Tensor:
    """Return where entries of a tensor lie in its memory, counted in entries from its first one.

    Args:
        indices: row-major indices in the flat tensor, (N_i,), int32 or int64.
        like: the tensor, of any shape; its entries fill one stretch of memory in whatever order, as in channels last.

    Returns:
        (N_i,), of the dtype of the indices where that holds them; the indices themselves if the tensor is contiguous.
    """
    if like.is_contiguous():
        return indices
    rest = indices if like.numel() <= torch.iinfo(torch.int32).max else indices.long()
    offsets = torch.zeros_like(rest)
    for side, stride in zip(reversed(like.shape), reversed(like.stride()), strict=True):
        outer = rest.div(side, rounding_mode="floor")
        offsets += (rest - outer * side).mul_(stride)
        rest = outer
    return offsets


def flat_memory(tensor: Tensor) -> Tensor:
    """Return the entries of a tensor in the order of its memory.

    Args:
        tensor: one whose entries fill one stretch of memory.

    Returns:
        (D_i,), detached; it shares the memory.
    """
    return tensor.detach().as_strided((tensor.numel(),), (1,), tensor.storage_offset())


def put_entries(dense: Tensor, indices: Tensor, entries: Tensor | float) -> None:
    """Write entries of a dense tensor in place, unseen by autograd.

    Args:
        dense: of any shape and strides.
        indices: distinct row-major indices in the flat tensor, (N_i,), int64.
        entries: (N_i,), or one number; they are converted to the tensor's dtype.
    """
    plain = dense.detach()
    if isinstance(entries, Tensor):
        entries = entries.to(plain.dtype)
    if not is_non_overlapping_and_dense(plain):
        given = torch.as_tensor(entries, dtype=plain.dtype, device=plain.device)
        plain.index_put_(torch.unravel_index(indices, plain.shape), given)
    elif isinstance(entries, Tensor):
        flat_memory(plain).index_copy_(0, memory_offsets(indices, plain), entries)
    else:
        flat_memory(plain).index_fill_(0, memory_offsets(indices, plain), entries)


@attrs.frozen
class TorchArrays:
    """Array operations on torch tensors; implements :class:`sparsecore.engine.arrays.Arrays`.

    Attributes:
        device: where :meth:`from_numpy` and :meth:`arange` put their tensors.
    """

    device: torch.device = attrs.field(default=torch.device("cpu"), converter=torch.device)

    def from_numpy(self, array: NDArray[Any]) -> Tensor:
        """Return a tensor with these entries on the device, which shares no memory with the array.

        Returns:
            On a CUDA device the copy is only queued: the host does not wait for it.
        """
        # a copy: torch warns of read-only arrays, and would share the memory of others
        host = torch.from_numpy(np.array(array))
        if self.device.type != "cuda":
            return host.to(self.device)
        # from pinned memory the copy is only queued on the device
        return host.pin_memory().to(self.device, non_blocking=True)

    def to_numpy(self, array: Tensor) -> NDArray[Any]:
        """Return the entries on the host, which waits for the device.

        Returns:
            An array that on the CPU shares the tensor's memory.
        """
        host: NDArray[Any] = array.detach().cpu().numpy()
        return host

    def readonly(self, array: Tensor) -> Tensor:
        """Return the tensor itself: torch has no read-only views."""
        return array

    def arange(self, count: int, dtype: DTypeLike | torch.dtype) -> Tensor:
        """Return 0, 1, ..., count-1."""
        return torch.arange(count, dtype=torch_dtype(dtype), device=self.device)

    def zeros_like(self, array: Tensor, count: int) -> Tensor:
        """Return ``count`` zeros of the dtype and the trailing shape of ``array``, on its device."""
        return array.new_zeros((count, *array.shape[1:]))

    def cast(self, array: Tensor, dtype: DTypeLike | torch.dtype) -> Tensor:
        """Return the same entries in another dtype."""
        return array.to(torch_dtype(dtype))

    def take(self, array: Tensor, indices: Tensor) -> Tensor:
        """Return ``array[indices]`` along the first axis."""
        return array.index_select(0, indices)

    def put(self, array: Tensor, indices: Tensor, entries: Any) -> Tensor:
        """Return a copy of ``array`` with ``entries`` at ``indices``."""
        copy = array.clone()
        copy[indices] = entries
        return copy

    def where(self, condition: Tensor, yes: Any, no: Any) -> Tensor:
        """Return ``yes`` where the condition is true, else ``no``, entry by entry."""
        return torch.where(condition, yes, no)

    def nonzero(self, mask: Tensor) -> Tensor:
        """Return the indices of the true entries, ascending."""
        if mask.device.type == "cpu":  # NumPy's takes a fraction of the time of torch's own, which makes a matrix
            return torch.from_numpy(np.flatnonzero(self.to_numpy(mask)))
        return mask.nonzero().view(-1)

    def concatenate(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the parts end to end."""
        return torch.cat(list(parts))

    def sort(self, array: Tensor) -> Tensor:
        """Return the entries in ascending order."""
        if _is_known_to_numpy(array):
            return torch.from_numpy(np.sort(array.detach().numpy(), kind="stable"))
        return array.sort().values

    def argsort(self, array: Tensor) -> Tensor:
        """Return indices that sort ascending; equal entries keep their order."""
        if _is_known_to_numpy(array):  # NumPy's merges the ascending runs that the engine concatenates
            return torch.from_numpy(np.argsort(array.detach().numpy(), kind="stable"))
        return array.argsort(stable=True)

    def smallest_indices(self, array: Tensor, count: int) -> Tensor:
        """Return the indices of the ``count`` smallest entries, ascending; of equal entries the lowest."""
        if array.dtype is torch.bfloat16:  # unknown to NumPy
            array = array.float()
        if array.device.type == "cpu":  # torch's own selection has an index for each entry, and takes ten times as long
            return torch.from_numpy(smallest_indices(array.detach().numpy(), count))
        if not 0 < count < len(array):
            return torch.arange(min(max(count, 0), len(array)), device=array.device)
        chosen = _smallest(array.byte() if array.dtype is torch.bool else array, count)
        return TorchCounting().nonzero(chosen, count)

    def searchsorted(self, sorted_array: Tensor, queries: Tensor, side: Literal["left", "right"]) -> Tensor:
        """Return the index at which each query would be inserted into the ascending ``sorted_array``."""
        if _is_known_to_numpy(sorted_array):  # NumPy's begins each search where that of a smaller query before it ended
            return torch.from_numpy(np.searchsorted(self.to_numpy(sorted_array), self.to_numpy(queries), side))
        return torch.searchsorted(sorted_array.contiguous(), queries.contiguous(), side=side)

    def all_finite(self, array: Tensor) -> bool:
        """Return whether no entry is NaN or infinite."""
        if _is_known_to_numpy(array):  # NumPy's takes one pass in place of three
            return bool(np.isfinite(self.to_numpy(array)).all())
        return bool(array.isfinite().all())

    @property
    def host(self) -> "TorchHost | None":
        """Memory of the host, which NumPy shares; None on other devices."""
        return TorchHost(torch.get_num_threads()) if self.device.type == "cpu" else None

    @property
    def counting(self) -> "TorchCounting | None":
        """Operations that do not wait for the device; None on the CPU, where there is nothing to wait for."""
        return None if self.device.type == "cpu" else TorchCounting()


@attrs.frozen
class TorchHost:
    """Tensors in the memory of the host; implements :class:`sparsecore.engine.arrays.Host`.

    Attributes:
        threads: as many as torch has.
    """

    threads: int

    @property
    def arrays(self) -> NumpyArrays:
        """NumPy's operations."""
        return NumpyArrays()

    def share(self, array: NDArray[Any]) -> Tensor:
        """Return a tensor that shares the memory of an array."""
        return torch.from_numpy(array)


@attrs.frozen
class TorchCounting:
    """Operations that do not wait for the device; implements :class:`sparsecore.engine.arrays.Counting`."""

    def count(self, mask: Tensor) -> Tensor:
        """Count the true entries: one int64, (1,), on the device."""
        return mask.sum(dtype=torch.int64).view(1)

    def count_not_finite(self, array: Tensor) -> Tensor:
        """Count the entries that are NaN or infinite: one int64, (1,)."""
        return self.count(~array.isfinite())

    def count_each(self, mask: Tensor, bounds: Sequence[int]) -> NDArray[np.int64]:
        """Count the true entries of each part of a mask; waits for the device once.

        Args:
            mask: bool, flat.
            bounds: part i is ``bounds[i]:bounds[i + 1]``.

        Returns:
            The counts, on the host.
        """
        before = torch.cat([mask.new_zeros(1, dtype=torch.int64), mask.cumsum(0)])
        ends = TorchArrays(mask.device).from_numpy(np.asarray(bounds, np.int64))
        counts: NDArray[np.int64] = before.index_select(0, ends).diff().cpu().numpy()
        return counts

    def nonzero(self, mask: Tensor, count: int) -> Tensor:
        """Return the indices of the true entries, ascending.

        Args:
            mask: bool, flat.
            count: the number of true entries.
        """
        # torch's own nonzero waits for the device, to know their number
        return torch.searchsorted(mask.cumsum(0), torch.arange(1, count + 1, device=mask.device))


def _is_known_to_numpy(array: Tensor) -> bool:
    return array.device.type == "cpu" and array.dtype is not torch.bfloat16


def _smallest(array: Tensor, count: int) -> Tensor:
    """Return which entries are the ``count`` smallest, at least one, of equal ones the first; waits for no device."""
    last = array.kthvalue(count).values
    # NaN comes after all numbers, as in a sort
    below = (array < last) | (last.isnan() & ~array.isnan())
    tied = (array == last) | (last.isnan() & array.isnan())
    return below | (tied & (tied.cumsum(0) <= count - below.sum()))


def torch_dtype(dtype: DTypeLike | torch.dtype) -> torch.dtype:
    """Return the torch dtype of the same name as one of NumPy.

    Args:
        dtype: of NumPy, or of torch, which is returned as it is.

    Raises:
        TypeError: NumPy has no such dtype.
        AttributeError: torch has none of this name, as for strings.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    named: torch.dtype = getattr(torch, np.dtype(dtype).name)
    return named
