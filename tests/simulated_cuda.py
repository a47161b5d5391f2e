"""A fake CUDA device on the CPU: its tensors report ``cuda:0``, and every wait of the host for the device is counted.

A tensor refuses to be mixed with tensors of the CPU, as on a device. What would make the host wait for the device
(reading a number, ``nonzero``, a copy that is not from pinned memory) is noted with the line that did it. Time, memory,
streams and CUDA's own arithmetic are not simulated, nor is what reads memory past PyTorch's dispatcher: NCCL,
DistributedDataParallel's reducer, compiled kernels.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda:0")

_WAITS = {
    "_local_scalar_dense": "reads a number",
    "nonzero": "nonzero, whose length is not known before",
    "masked_select": "masked_select",
    "_unique2": "unique",
    "unique_consecutive": "unique",
    "unique_dim": "unique",
    "equal": "reads whether tensors are equal",
    "is_nonzero": "reads a number",
    "repeat_interleave": "repeat_interleave, whose length is not known before",
    "bincount": "bincount, whose length is not known before",
}
_MAY_MIX = frozenset({"copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_"})
_SUMMED = ("linear", "conv2d", "conv1d", "matmul", "bmm", "addmm", "mm", "baddbmm", "scaled_dot_product_attention")
"""What autocast computes in its lower precision."""

_noted: list[str] = []


class CudaTensor(Tensor):
    """A tensor of the simulated device; ``host`` holds its entries."""

    __slots__ = ("host",)  # not among its attributes, which may be looked through for tensors

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor, requires_grad: bool = False) -> "CudaTensor":
        made: CudaTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device="meta",
            requires_grad=requires_grad,
        )
        made.host = host
        return made

    device = property(lambda _: DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda _: True)  # type: ignore[assignment]
    is_cpu = property(lambda _: False)  # type: ignore[assignment]
    is_meta = property(lambda _: False)  # type: ignore[assignment]

    @property
    def data(self) -> Any:
        return Tensor.data.__get__(self)  # type: ignore[attr-defined]

    @data.setter
    def data(self, other: "CudaTensor") -> None:  # also of another size, as compact storage changes its own
        Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.host = other.host

    def __repr__(self, **_: Any) -> str:
        return f"CudaTensor({self.host!r})"

    def cpu(self, *_: Any, **__: Any) -> Tensor:
        return _read(self, "copies to the host")

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        return self.cpu().numpy()

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def tolist(self) -> Any:
        return _read(self, "copies to the host").tolist()

    def untyped_storage(self) -> Any:
        return self.host.untyped_storage()

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = CudaTensor(self.detach().host.clone(), self.requires_grad)
        memo[id(self)] = nn.Parameter(copied) if isinstance(self, nn.Parameter) else copied
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        _check_not_mixed(name, func, args, tensors)
        _note_waiting(name, args)
        leaves = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cpu"
        if leaves:
            note("copies to the host")
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("non_blocking", None)
        answer = func(*tree_map(_host, args), **tree_map(_host, kwargs))
        if leaves:
            return answer.clone()
        if name.startswith("_foreach_") and name.endswith("_"):
            torch.autograd.graph.increment_version(args[0])  # which torch does not do for the tensors of a list here
        if name.endswith("_") and not name.endswith("__"):
            return args[0] if isinstance(args[0], Tensor) else None
        return tree_map(lambda leaf: CudaTensor(leaf) if isinstance(leaf, Tensor) else leaf, answer)


def _check_not_mixed(name: str, func: Any, args: Any, tensors: list[Tensor]) -> None:
    from_host = [tensor for tensor in tensors if not isinstance(tensor, CudaTensor) and tensor.ndim > 0]
    if not from_host:
        return
    if name not in _MAY_MIX or (name == "copy_" and not isinstance(args[0], CudaTensor)):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found cuda:0 and cpu")
    if not all(tensor.is_pinned() for tensor in from_host):
        note("copies from memory that is not pinned")


def _note_waiting(name: str, args: Any) -> None:
    if name in _WAITS:
        note(_WAITS[name])
    if name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
        isinstance(each, Tensor) and each.dtype in (torch.bool, torch.uint8) for each in args[1] if each is not None
    ):
        note("indexes by a mask, whose length is not known before")


def _host(leaf: Any) -> Any:
    return leaf.host if isinstance(leaf, CudaTensor) else leaf


def _read(tensor: "CudaTensor", why: str) -> Tensor:
    note(why)
    detached: Any = tensor.detach()
    copied: Tensor = detached.host.clone()
    return copied


def note(why: str) -> None:
    """The host waits for the device."""
    frames = ((frame.f_code.co_filename, line) for frame, line in traceback.walk_stack(None))
    ours = ((file, line) for file, line in frames if "sparsecore" in file and "/tests/" not in file)
    file, line = next(ours, ("", 0))
    place = f"{file.rpartition('/')[2]}:{line}" if file else "elsewhere"
    _noted.append(f"{why} ({place})")


@contextmanager
def waits() -> Iterator[list[str]]:
    """What makes the host wait for the device in here, in order."""
    _noted.clear()
    noted: list[str] = []
    try:
        yield noted
    finally:
        noted[:] = _noted


class _Mode(TorchFunctionMode):
    """Tensors that are made on the device, or moved there, are :class:`CudaTensor`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in ("to", "cuda") and args and isinstance(args[0], Tensor):
            return _moved(func, name, args, kwargs)
        if name == "__setitem__" and isinstance(args[0], CudaTensor):
            return _set(*args)
        if name == "where":  # makes its tensor of a number past the dispatcher
            args = tuple(torch.tensor(each) if isinstance(each, int | float) else each for each in args)
        if name == "pin_memory":
            return _pinned(args[0])
        if name == "new_tensor" and isinstance(args[0], CudaTensor):
            return _made(torch.tensor, "tensor", args[1:], {"dtype": args[0].dtype, **kwargs, "device": "cpu"})
        if name in _SUMMED and torch.is_autocast_enabled("cuda"):
            args, kwargs = tree_map(_lowered, (args, kwargs))
        if _is_device(kwargs.get("device")):
            return _made(func, name, args, {**kwargs, "device": "cpu"})
        return func(*args, **kwargs)


def _moved(func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    tensor, rest = args[0], list(args[1:])
    given = [each for each in (kwargs.get("device"), *rest) if isinstance(each, str | torch.device)]
    given += [each.device for each in rest if isinstance(each, Tensor)]
    target = torch.device(given[0]) if given else tensor.device
    if name == "cuda":
        target = DEVICE
    if target.type != "cuda":
        read = isinstance(tensor, CudaTensor) and given
        return tensor.cpu().to(*args[1:], **kwargs) if read else func(*args, **kwargs)
    dtype = kwargs.get("dtype", next((each for each in rest if isinstance(each, torch.dtype)), tensor.dtype))
    dtype = next((each.dtype for each in rest if isinstance(each, Tensor)), dtype)
    others = {key: each for key, each in kwargs.items() if key in ("copy", "memory_format")}
    if isinstance(tensor, CudaTensor):
        return func(tensor, dtype, **others)
    if not (kwargs.get("non_blocking") and tensor.is_pinned()):
        note("copies from memory that is not pinned")
    with torch.no_grad():
        return CudaTensor(tensor.detach().to(dtype, copy=True))


def _set(tensor: CudaTensor, index: Any, entries: Any) -> None:
    """As ``tensor[index] = entries``, which makes its tensor of a number past the dispatcher."""
    tensors = [each for each in tree_leaves((index, entries)) if isinstance(each, Tensor)]
    _check_not_mixed("index_put_", "index_put_", (), tensors)
    _note_waiting("index_put_", (None, tree_leaves(index)))
    with torch.no_grad():
        detached: Any = tensor.detach()
        detached.host[tree_map(_host, index)] = _host(entries)


def _made(func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """What a factory makes on the device, from numbers that go along with the call."""
    source = args[0] if args else None
    if isinstance(source, CudaTensor):
        return func(*args, **{key: each for key, each in kwargs.items() if key != "device"})
    if name in ("tensor", "as_tensor", "new_tensor", "asarray") and not isinstance(source, int | float | bool):
        note("copies from memory that is not pinned")
    made = func(*args, **kwargs)
    return CudaTensor(made.detach().clone(), made.requires_grad)


def _pinned(tensor: Tensor) -> Tensor:
    copied = tensor.clone()
    copied.is_pinned = lambda *_: True  # type: ignore[method-assign]
    return copied


def _lowered(leaf: Any) -> Any:
    lower = isinstance(leaf, CudaTensor) and leaf.dtype is torch.float32
    return leaf.to(torch.get_autocast_dtype("cuda")) if lower else leaf


def _is_device(given: Any) -> bool:
    return isinstance(given, str | torch.device) and torch.device(given).type == "cuda"


@contextmanager
def simulated_cuda() -> Iterator[None]:
    """While PyTorch finds one CUDA device."""
    with (
        mock.patch("torch.cuda.is_available", return_value=True),
        # a build of PyTorch for CUDA asks the driver, which is missing
        mock.patch("torch.cuda.is_current_stream_capturing", return_value=False),
        mock.patch("torch.accelerator.current_accelerator", return_value=None),
        mock.patch("torch.cuda.device_count", return_value=1),
        mock.patch("torch.cuda.get_rng_state", side_effect=lambda *_: torch.zeros(16, dtype=torch.uint8)),
        mock.patch("torch.cuda.set_rng_state"),
        mock.patch("torch.cuda.is_bf16_supported", return_value=True),
        mock.patch("sparsecore_torch.sparse_training.optimizers.trial.is_plain", return_value=True),
        mock.patch("sparsecore_torch.sparse_training.optimizers.copies.is_plain", return_value=True),
        mock.patch("torch.cuda.synchronize", side_effect=lambda *_: note("synchronizes")),
        _Mode(),
    ):
        yield


def on_device(model: nn.Module) -> nn.Module:
    """The model with its parameters and buffers on the simulated device."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(CudaTensor(parameter.detach().clone()))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = CudaTensor(buffer.detach().clone())
    return model
