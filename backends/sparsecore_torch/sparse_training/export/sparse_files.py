"""Files that are as small as the network: the nonzero weights, their positions, and the dense rest.

The format is described in docs/formats.md.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from sparsecore.errors import InputError, listed
from sparsecore.extras import require
from sparsecore.formats import KEY, SPARSE_MODEL
from sparsecore_torch._torch_internals.modules import COMPILED_MODULE
from sparsecore_torch.arrays import active_indices
from sparsecore_torch.sparse_training.checks import check_destination, check_is_plain, check_not_in_training
from sparsecore_torch.sparse_training.export.plain import squashed_copy
from sparsecore_torch.sparse_training.export.position_codes import POSITION_CODES, shortest_code
from sparsecore_torch.sparse_training.model.parameters import named_parameters, unwrapped
from sparsecore_torch.sparse_training.training import SparseTraining
from sparsecore_torch.tensors import has_memory

_ENTRY = "sparsecore"
_VALUES, _POSITIONS = ":values", ":positions"
_SHOWN = 8
"""The number of tensors that an error sentence names."""


@attrs.frozen
class SparseEntry:
    """What the header says of a tensor of which only some entries are stored.

    Attributes:
        shape: of the dense tensor.
        code: the name of the code of its positions.
    """

    shape: tuple[int, ...]
    code: str


@attrs.frozen(eq=False)
class _Content:
    """The content of a file.

    Attributes:
        sparse: the tensors of which only some entries are stored, by name.
        tied: the further names of tensors, each with the name under which the tensor is stored.
        tensors: those of the safetensors file.
    """

    sparse: Mapping[str, SparseEntry]
    tied: Mapping[str, str]
    tensors: Mapping[str, Tensor]

    @property
    def stored(self) -> list[str]:
        """The names under which tensors are stored."""
        parts = {name + part for name in self.sparse for part in (_VALUES, _POSITIONS)}
        return [*self.sparse, *(name for name in self.tensors if name not in parts)]

    @property
    def names(self) -> dict[str, str]:
        """For each name in the model, the name under which its tensor is stored."""
        return {**{name: name for name in self.stored}, **self.tied}

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a stored tensor, when it is dense."""
        return self.sparse[name].shape if name in self.sparse else tuple(self.tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a stored tensor."""
        return self.tensors[name + _VALUES if name in self.sparse else name].dtype

    def facts(self) -> str:
        """The header's description of the tensors, as JSON."""
        sparse = {name: {"shape": list(one.shape), "code": one.code} for name, one in self.sparse.items()}
        return json.dumps({"sparse": sparse, "tied": dict(self.tied)}, sort_keys=True)


@attrs.frozen(eq=False)
class _Decoded:
    """A tensor that has been read and checked.

    Attributes:
        values: its entries, all of them if ``indices`` is None.
        indices: where these are, row-major; the others are zero.
        shape: of the dense tensor.
    """

    values: Tensor
    indices: Tensor | None
    shape: tuple[int, ...]

    def dense(self) -> Tensor:
        """Return the dense tensor, on the host."""
        if self.indices is None:
            return self.values
        flat = torch.zeros(math.prod(self.shape), dtype=self.values.dtype)
        _bits(flat)[self.indices] = _bits(self.values)
        return flat.view(self.shape)


def save_sparse(source: SparseTraining | nn.Module, path: str | os.PathLike[str]) -> None:
    """Save the model as it is now in a file that is about as small as its weights; nothing else changes.

    Of the sparse tensors of a training the active weights are stored, in their dtype, with their positions in less than
    one byte a weight. Of all other tensors, and of those of a plain model, the entries that are not zero are stored
    where this takes less space than all entries, which are stored otherwise. Buffers are stored too, tied tensors once.
    The file is in the safetensors format, and :func:`load_sparse` reads it.

    Args:
        source: a sparse training, or a plain model with zeros, such as one after ``squash()``.
        path: of the file, by convention with the suffix ``.safetensors``; an existing one is replaced as a whole.

    Raises:
        InputError: the folder does not exist, the path is a folder, a weight is NaN or infinite, the model has state
            that is no tensor, is sharded or has no memory, or its weights are not those of the training
            (:meth:`SparseTraining.check`).
    """
    require("safetensors", extra="torch", purpose="a file of a sparse model")
    from safetensors.torch import save

    path = Path(path)
    check_destination(path)
    content = _content_of(*_model_and_positions(source))
    facts = content.facts()
    entry = json.dumps({KEY: SPARSE_MODEL.text, "facts": facts, "sha256": _digest(facts, content.tensors)})
    # one entry: safetensors writes several in an order that changes from process to process
    _write_whole(path, save(dict(content.tensors), {_ENTRY: entry}))


def load_sparse(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a file of :func:`save_sparse` into a plain model, which is then as the saved one was, bit for bit.

    Everything is checked before anything is changed.

    Args:
        model: with the same names, shapes and dtypes as the saved one; it must not be in sparse training.
        path: of the file.

    Raises:
        InputError: the file cannot be read, is damaged or no such file, names or shapes or dtypes are not the model's,
            or a weight is NaN or infinite; the model is as it was.
    """
    require("safetensors", extra="torch", purpose="a file of a sparse model")
    path, model = Path(path), unwrapped(model)
    targets = _state_of(model)
    check_not_in_training(model)
    check_is_plain(model)
    content = _read(path)
    _check_names(path, targets, content)
    stored = content.names
    decoded = {name: _decoded(path, content, name) for name in content.stored}
    parameters = {id(parameter) for parameter in model.parameters()}
    names_of: dict[int, list[str]] = {}
    for name, target in targets.items():
        names_of.setdefault(id(target), []).append(name)
        if id(target) in parameters:
            _check_finite(decoded[stored[name]].values, f"{path} cannot be loaded: the weights of {name!r}")
    for first, *others in names_of.values():
        for other in others:
            _check_equal(path, first, other, decoded[stored[first]], decoded[stored[other]])
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(decoded[stored[name]].dense())


def _model_and_positions(source: SparseTraining | nn.Module) -> tuple[nn.Module, dict[str, NDArray[np.int64]]]:
    """Return a plain model, and the active indices of the sparse tensors of a training by name."""
    if not isinstance(source, SparseTraining):
        model = unwrapped(source)
        _state_of(model)
        check_not_in_training(model)
        check_is_plain(model)
        return model, {}
    topology = source.topology
    indices = {name: active_indices(topology, index) for index, name in enumerate(topology.layout.names)}
    return squashed_copy(source), {name: own.cpu().numpy() for name, own in indices.items()}


def _state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a model's state dict, themselves, by names without those of wrappers.

    Raises:
        InputError: something in it is no tensor, or has no memory of its own.
    """
    state: dict[str, Any] = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise InputError(
                f"the model's state has {name!r}, of type {type(tensor).__name__}; files of sparse models hold tensors"
            )
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            raise InputError(f"{name!r} has no shape yet; run the model once, as lazy modules need it")
        if not has_memory(tensor):
            raise InputError(
                f"{name!r} is sharded, sparse or on the device 'meta'; files of sparse models hold whole tensors, so "
                "gather it, or materialize the model with to_empty(device='cpu')"
            )
    return {name.replace(f"{COMPILED_MODULE}.", ""): tensor for name, tensor in state.items()}


def _content_of(model: nn.Module, active: Mapping[str, NDArray[np.int64]]) -> _Content:
    state = _state_of(model)
    indices = {id(one.parameter): active[one.name] for one in named_parameters(model) if one.name in active}
    parameters = {id(parameter) for parameter in model.parameters()}
    first_names: dict[int, str] = {}
    sparse: dict[str, SparseEntry] = {}
    tied: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        first = first_names.setdefault(id(tensor), name)
        if first != name:
            tied[name] = first
            continue
        dense = tensor.detach().cpu().contiguous()
        if id(tensor) in parameters:
            _check_finite(dense, f"the weights of {name!r}")
        code, parts = _sparse_parts(dense, indices.get(id(tensor)))
        if parts is None:
            tensors[name] = dense.clone()  # safetensors takes no tensors that share memory
        else:
            sparse[name] = SparseEntry(tuple(dense.shape), code)
            tensors |= {name + part: own for part, own in zip((_VALUES, _POSITIONS), parts, strict=True)}
    doubles = [name for name in sparse if {name + _VALUES, name + _POSITIONS} & state.keys()]
    if doubles:
        raise InputError(f"the model has tensors named like the parts of {doubles[0]!r}; rename them")
    return _Content(sparse, tied, tensors)


def _sparse_parts(dense: Tensor, active: NDArray[np.int64] | None) -> tuple[str, tuple[Tensor, Tensor] | None]:
    """Return code, values and positions of a tensor; none of a tensor that is smaller with all of its entries.

    Args:
        dense: contiguous, on the host.
        active: the row-major indices to store in any case; None for those of all entries that are not zero, where this
            takes less space.
    """
    flat, itemsize = dense.reshape(-1), dense.element_size()
    if active is None and not dense.dtype.is_floating_point:
        return "", None
    indices = np.flatnonzero(_bits(flat).numpy()) if active is None else active
    code, coded = shortest_code(indices, len(flat))
    if active is None and len(indices) * itemsize + len(coded) + _HEADER_BYTES >= len(flat) * itemsize:
        return "", None
    return code, (flat[torch.from_numpy(indices)], torch.from_numpy(coded))


_HEADER_BYTES = 200
"""About how many bytes more the header needs for a tensor that is stored as values and positions."""

_INTEGERS = MappingProxyType({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64})


def _bits(tensor: Tensor) -> Tensor:
    """Return a contiguous floating-point tensor's memory as integers, which keep -0.0 and NaN apart from zero."""
    return tensor.view(_INTEGERS[tensor.element_size()])


def _check_finite(values: Tensor, what: str) -> None:
    """Refuse NaN and infinity among floating-point values; the sentence begins with ``what``."""
    if values.dtype.is_floating_point:
        # not every operation exists for the types of one byte
        wide = values.float() if values.element_size() == 1 else values
        strange = int((~torch.isfinite(wide)).sum())
        if strange:
            raise InputError(f"{what} have {strange:,} values that are NaN or infinite; expected finite ones")


def _digest(facts: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, and never a part."""
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".part", delete=False) as aside:
        try:
            aside.write(content)
            aside.flush()
            os.fsync(aside.fileno())
            Path(aside.name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(aside.name).unlink(missing_ok=True)
            raise


def _read(path: Path) -> _Content:
    """Read a file and check that it is whole and says what its tensors are.

    Raises:
        InputError: it is no file of a sparse model, or it is damaged.
    """
    from safetensors import safe_open

    if not path.is_file():
        raise InputError(f"there is no file {path} to load")
    try:
        with safe_open(path, framework="pt") as file:
            entry = json.loads((file.metadata() or {}).get(_ENTRY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except MemoryError:
        raise
    except Exception as error:  # of safetensors, JSON or the system
        raise InputError(f"{path} cannot be read as a file of a sparse model: {error}") from error
    if not isinstance(entry, dict):
        raise InputError(f"{path} cannot be read as a file of a sparse model: its metadata are no table")
    SPARSE_MODEL.check(entry.get(KEY), str(path))
    facts = entry.get("facts")
    if not isinstance(facts, str) or entry.get("sha256") != _digest(facts, tensors):
        raise InputError(f"{path} is damaged: its content does not match its checksum")
    try:
        return _content_from(json.loads(facts), tensors)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: its header does not describe its tensors ({error})") from error


def _content_from(facts: Any, tensors: Mapping[str, Tensor]) -> _Content:
    """Return the content of a file from its header.

    Raises:
        ValueError: the header does not fit the tensors; other errors where it has entries of other types.
    """
    sparse = {}
    for name, given in facts["sparse"].items():
        shape = tuple(given["shape"])
        if not all(type(side) is int and side >= 0 for side in shape) or given["code"] not in POSITION_CODES:
            raise ValueError(f"{name!r} has the shape {shape} and the code {given['code']!r}")
        values, positions = (tensors[name + part] for part in (_VALUES, _POSITIONS))
        if values.ndim != 1 or positions.ndim != 1 or positions.dtype is not torch.uint8 or name in tensors:
            raise ValueError(f"{name!r} has no vector of values and no bytes of positions")
        if not values.dtype.is_floating_point:
            raise ValueError(f"{name!r} has values of {values.dtype}")
        sparse[name] = SparseEntry(shape, given["code"])
    content = _Content(sparse, dict(facts["tied"]), tensors)
    for name, first in content.tied.items():
        if first not in content.stored or name in content.stored:
            raise ValueError(f"{name!r} is tied to {first!r}")
    return content


def _check_names(path: Path, targets: Mapping[str, Tensor], content: _Content) -> None:
    """Check that a file has the tensors of a model, in their shapes and dtypes, and no others."""
    stored = content.names
    missing = [name for name in targets if name not in stored]
    others = [name for name in stored if name not in targets]
    problems = []
    if missing:
        problems.append(f"it has no {listed(missing, _SHOWN)}")
    if others:
        problems.append(f"it has {listed(others, _SHOWN)}, which the model does not have")
    for name, target in targets.items():
        if name in stored and content.shape(stored[name]) != tuple(target.shape):
            shape = content.shape(stored[name])
            problems.append(f"{name} has the shape {shape} in the file and {tuple(target.shape)} in the model")
        elif name in stored and content.dtype(stored[name]) is not target.dtype:
            dtype = content.dtype(stored[name])
            problems.append(
                f"{name} is {dtype} in the file and {target.dtype} in the model (model.to(dtype) changes it)"
            )
    if problems:
        more = f"; and {len(problems) - _SHOWN} differences more" if len(problems) > _SHOWN else ""
        raise InputError(f"{path} is not of this model: {'; '.join(problems[:_SHOWN])}{more}")


def _decoded(path: Path, content: _Content, name: str) -> _Decoded:
    """Return a stored tensor, with its positions checked."""
    if name not in content.sparse:
        return _Decoded(content.tensors[name], None, content.shape(name))
    one, values = content.sparse[name], content.tensors[name + _VALUES]
    try:
        indices = POSITION_CODES[one.code].decode(content.tensors[name + _POSITIONS].numpy(), math.prod(one.shape))
    except InputError as error:
        raise InputError(f"{path} is damaged: {name!r} cannot be read: {error}") from error
    if len(indices) != len(values):
        raise InputError(f"{path} is damaged: {name!r} has {len(values):,} values at {len(indices):,} positions")
    return _Decoded(values, torch.from_numpy(indices), one.shape)


def _check_equal(path: Path, first: str, other: str, one: _Decoded, two: _Decoded) -> None:
    """Check that two names of one tensor of the model have the same values in a file."""
    if one is not two and not torch.equal(one.dense(), two.dense()):
        raise InputError(
            f"{path} is not of this model: {first!r} and {other!r} are one tensor in the model, and differ in the file"
        )
