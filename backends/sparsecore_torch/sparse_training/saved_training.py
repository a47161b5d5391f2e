"""The whole state dict of a sparse training: the state of its strategies, and what else it keeps from step to step."""

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsecore.engine.groups import GroupStates
from sparsecore.errors import InputError
from sparsecore.observers.record import Record
from sparsecore.plugins.description import described
from sparsecore.sparse_training.checksums import CHECKSUMS, add_content, check_sums, checksums
from sparsecore.sparse_training.saved_record import SavedRecord, dump_record, load_record
from sparsecore.sparse_training.state_dict import MALFORMED, Counts, Identity, SavedArrays, damaged, dump, load
from sparsecore_torch.sparse_training.flops import FlopCount
from sparsecore_torch.sparse_training.installed import Installed
from sparsecore_torch.sparse_training.parts import TrainingParts

ARRAYS = SavedArrays(
    pack=torch.tensor, unpack=lambda saved: saved.cpu().numpy() if isinstance(saved, Tensor) else saved
)
"""A state dict has tensors in host memory, which ``torch.load(weights_only=True)`` reads."""


def dump_training(
    parts: TrainingParts,
    installed: Installed,
    state: GroupStates,
    identity: Identity,
    start: Counts,
    flops: FlopCount,
    record: Record,
) -> dict[str, Any]:
    """Return the state dict of a training.

    Args:
        parts: of the training.
        installed: its hooks.
        state: the present one.
        identity: of the training.
        start: the number of active weights of each tensor at the start.
        flops: the operations so far.
        record: the updates so far, and the observers.

    Returns:
        Tensors, numbers, strings, lists and dicts.
    """
    kernels = parts.routes.decisions.dump()
    saved = {
        **dump(parts.engines, state, identity, start, ARRAYS),
        "flops": flops.dump(),
        "young": installed.young.dump(),
        **installed.silent.dump(),
        **dump_record(record, ARRAYS),
        **({"kernels": kernels} if kernels else {}),
    }
    return {**saved, CHECKSUMS: checksums(saved)}


@attrs.frozen(eq=False)
class SavedTraining:
    """What a state dict has of a training, checked.

    Attributes:
        saved: the state dict.
        state: of the strategies.
        start: the number of active weights of each tensor at the start.
        flops: the operations until then.
        record: the updates until then, and the observers.
        marks: of young weights, (N,), int64.
    """

    saved: Mapping[str, Any]
    state: GroupStates
    start: Counts
    flops: FlopCount
    record: SavedRecord
    marks: Tensor

    def put(self, parts: TrainingParts, installed: Installed) -> None:
        """Let the storage and the hooks of a training go on from here.

        Args:
            parts: of the training.
            installed: its hooks.

        Raises:
            InputError: the decisions on kernels are damaged; nothing has changed.
        """
        parts.routes.decisions.load(self.saved.get("kernels", {}))
        parts.storage.restore(self.state.topology)
        installed.young.load(self.marks, self.state.topology)
        installed.silent.load(self.saved, self.state)


def load_training(
    saved: Mapping[str, Any], parts: TrainingParts, installed: Installed, like: GroupStates, identity: Identity
) -> SavedTraining:
    """Read the state dict of a training; nothing changes.

    Args:
        saved: of :func:`dump_training`.
        parts: of the training here.
        installed: its hooks.
        like: the present state, for what is not saved.
        identity: of the training here.

    Raises:
        InputError: it is damaged, no such state dict, or of another training.
    """
    state, start = load(saved, parts.engines, like, identity, ARRAYS)
    tensors, has_silent = len(parts.engines.layout), parts.engines.has_silent_weights
    try:
        record = load_record(saved, parts.engines.layout, ARRAYS)
        flops = FlopCount.load(saved.get("flops"), tensors, state.clock.step, has_silent=has_silent)
        installed.silent.check(saved, state.topology.size)
        marks = installed.young.loaded(saved.get("young"), state.topology)
        check_sums(saved)
    except InputError:
        raise
    except MALFORMED as error:
        raise damaged(repr(error)) from error
    return SavedTraining(saved, state, start, flops, record, marks)


@described.register
def _(value: Tensor, depth: int = 0) -> Any:
    return described(value.detach().float().cpu().numpy(), depth)


@described.register(nn.Module)
@described.register(nn.Parameter)
@described.register(Optimizer)
@described.register(torch.Generator)
def _(value: Any, depth: int = 0) -> Any:  # noqa: ARG001
    """Describe trained objects by their class alone: they are no options of a strategy."""
    return type(value).__name__


@add_content.register
def _(content: Tensor, update: Callable[[Any], object]) -> None:
    update(f"tensor {content.dtype} {tuple(content.shape)}:".encode())
    # one byte an entry, as NumPy does not have every dtype
    update(content.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
