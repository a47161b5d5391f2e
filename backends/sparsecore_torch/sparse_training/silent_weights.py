"""Weights that are trained although the model does not compute with them, as those of Top-KAST outside its forward set.

They are zero in the model, also in its state dict and in exports, and have their values while the optimizer steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsecore.engine.arrays import Counts
from sparsecore.engine.forward_view import SilentValues, VisibleWeights
from sparsecore.engine.groups import EngineGroups, GroupStates
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore_torch._torch_internals.compilation import untraced
from sparsecore_torch._torch_internals.optimizers import is_within_own_step
from sparsecore_torch.arrays import as_tensor
from sparsecore_torch.sparse_training.optimizers.shares import OptimizerShare
from sparsecore_torch.sparse_training.optimizers.step_hooks import Given
from sparsecore_torch.sparse_training.storage.storage import Storage

SAVED = "silent"
"""The entry of a training's state dict that has the values of silent weights."""


@final
class SilentWeights:
    """Hides the silent weights from the model, and shows them to optimizers and strategies.

    Where no strategy has a forward view, nothing is installed, and no call does anything. The training shows them
    before a step; a hook hides them again while the closure of a step runs. Nothing is called after a step that raises
    an error, so that as long as they are shown, layers that compute or are asked for their state hide them first.

    Args:
        model: without wrappers.
        engines: the strategies.
        shares: the optimizers, made storages of, whose hooks come first.
        storage: of all sparse tensors.
    """

    def __init__(
        self, model: nn.Module, engines: EngineGroups, shares: Sequence[OptimizerShare], storage: Storage
    ) -> None:
        self._engines = engines
        self._visible: VisibleWeights | None = None
        self._updates = 0
        self._silent = SilentValues(
            storage.values, lambda values: storage.set_values(as_tensor(values)), engines.engines[0].arrays
        )
        holding = [share.stepping for share in shares if share.tensors] if engines.has_silent_weights else []
        self._handles: list[RemovableHandle] = [one.register_step_pre_hook(untraced(self._before)) for one in holding]
        layers = (layer for share in shares for one in share.tensors for layer, _ in one.holders)
        self._modules = dict.fromkeys((model, *layers))
        self._guards: list[RemovableHandle] = []
        self._guard = untraced(self._hide_when_used)

    def end(self) -> None:
        """Remove the hooks; silent weights stay as they are."""
        for handle in (*self._handles, *self._guards):
            handle.remove()

    @torch.no_grad()
    def look(self, state: GroupStates) -> None:
        """Hide the silent weights, which another state of the strategies may have changed.

        Args:
            state: of the strategies.
        """
        if not self._engines.has_silent_weights:
            return
        if self._visible is None or state.clock.updates != self._updates:
            self.show()
            self._visible, self._updates = self._engines.visible_weights(state), state.clock.updates
        self.hide()

    @torch.no_grad()
    def show(self) -> None:
        """Give the silent weights their values."""
        if self._silent.show():
            hooked: Any  # torch does not annotate the hooks of state dicts
            for hooked in self._modules:
                # before compact storage splits the values
                self._guards.append(hooked.register_forward_pre_hook(self._guard, prepend=True))
                self._guards.append(hooked.register_state_dict_pre_hook(self._guard))

    @torch.no_grad()
    def hide(self) -> None:
        """Hide the silent weights, which a step that has raised an error leaves shown."""
        if self._visible is not None and self._silent.kept is None:
            self._silent.hide(self._visible)
            for guard in self._guards:
                guard.remove()
            self._guards.clear()

    def counts(self, topology: Topology) -> Counts | None:
        """Return how many weights of each tensor are silent; None where no strategy makes any silent.

        Args:
            topology: the active positions.
        """
        return None if self._visible is None else topology.counts - self._visible.counts

    def number(self, topology: Topology) -> int:
        """Return how many weights are silent.

        Args:
            topology: the active positions.
        """
        return 0 if self._visible is None else topology.size - int(self._visible.counts.sum())

    def values(self) -> Tensor:
        """Return the values of all weights, (N,), silent ones too."""
        return as_tensor(self._silent.values())

    def dump(self) -> dict[str, Tensor]:
        """Return the values of silent weights for a state dict, zero for visible ones; empty if none can be silent."""
        self.hide()
        kept = self._silent.kept
        return {} if kept is None else {SAVED: as_tensor(kept).detach().cpu().clone()}

    def load(self, saved: Mapping[str, Any], state: GroupStates) -> None:
        """Take the values of silent weights from a state dict; the model has loaded its own, or will load them.

        Args:
            saved: of a training.
            state: which was loaded from it.
        """
        if self._engines.has_silent_weights:
            self._visible, self._updates = self._engines.visible_weights(state), state.clock.updates
            device = as_tensor(self._visible.mask).device
            self._silent.keep(self._visible, saved[SAVED].to(device))

    def check(self, saved: Mapping[str, Any], size: int) -> None:
        """Check the values of silent weights in a state dict.

        Args:
            saved: of a training.
            size: N, its number of weights.

        Raises:
            InputError: they are missing, are not one finite number a weight, or there should be none.
        """
        silent = saved.get(SAVED)
        if not self._engines.has_silent_weights:
            if silent is not None:
                raise InputError("the state dict has silent weights, and no strategy of this training makes any silent")
            return
        if not isinstance(silent, Tensor) or silent.shape != (size,) or not silent.is_floating_point():
            raise InputError(f"the state dict has no values of silent weights; expected {SAVED!r}, {size} numbers")
        if not bool(torch.isfinite(silent).all()):
            raise InputError("the state dict has a silent weight that is not finite")

    def _hide_when_used(self, *_: Any) -> None:
        self.hide()

    def _before(self, optimizer: Optimizer, given: tuple[Any, ...], named: dict[str, Any]) -> Given | None:
        if is_within_own_step(optimizer):
            return None
        closure = named.get("closure", given[1] if len(given) > 1 else None)
        if closure is None:
            return None

        def evaluate() -> Any:
            self.hide()
            loss = closure()
            self.show()
            return loss

        return given[:1], {**named, "closure": evaluate}
