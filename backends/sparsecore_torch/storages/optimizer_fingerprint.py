"""Which topology the optimizer's state is of, in compact storage, where its entries do not tell."""

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsecore.errors import InputError
from sparsecore.topology import Topology
from sparsecore_torch.storages.compact_weights import TOPOLOGY


@final
class OptimizerFingerprint:
    """Writes the fingerprint of the topology into the optimizer's state dict, and reads it where one is loaded.

    Args:
        optimizer: trains the values of compact storage.
        topology: the active positions.
    """

    def __init__(self, optimizer: Optimizer, topology: Topology) -> None:
        self._state_of = topology
        self._loaded: str | None = None
        self.has_loaded = False
        self._handles: list[RemovableHandle] = [
            optimizer.register_state_dict_post_hook(self._add),
            optimizer.register_load_state_dict_pre_hook(self._take),
        ]

    def carried(self, topology: Topology) -> None:
        """The state has been taken along to this topology, or what was loaded has been found to be of it."""
        self._state_of, self._loaded, self.has_loaded = topology, None, False

    def check(self, topology: Topology) -> None:
        """Raise an :class:`InputError` if the optimizer has loaded the state of another topology than this one."""
        if self._loaded is not None and self._loaded != topology.sha256():
            raise InputError(
                "the optimizer has loaded a state that belongs to another topology than that of the training: in "
                "compact storage, load state dicts of model, optimizer and training that belong together, in any order"
            )

    def end(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()

    def _add(self, _: Optimizer, state: dict[str, Any]) -> None:
        digest = self._loaded or self._state_of.sha256()
        state[TOPOLOGY] = torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)

    def _take(self, _: Optimizer, state: Mapping[str, Any]) -> None:
        saved = state.get(TOPOLOGY)
        self.has_loaded = True
        self._loaded = bytes(saved.tolist()).hex() if isinstance(saved, Tensor) else None
