"""State dicts of a plain, dense model and its optimizer, in place of those of compact storage."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from torch import nn
from torch.optim import Optimizer

from sparsecore_torch.sparse_training.storage.compact_group import CompactGroup, check_alone
from sparsecore_torch.sparse_training.storage.compact_weights import CompactWeights


@attrs.define(eq=False, slots=False)  # torch notes on the hook that it was registered
class PlainModelState:
    """A hook on ``model.state_dict()`` that replaces the values by dense weights under their old names.

    A copy of the model has a copy of it, which returns the weights of the copied model.

    Attributes:
        weights: the values.
        names: all names of each tensor, in the order of the layout.
    """

    weights: CompactWeights
    names: tuple[tuple[str, ...], ...]

    def __call__(self, _: nn.Module, state: dict[str, Any], prefix: str, __: Any) -> None:
        """Change a state dict in place.

        Args:
            state: of the model, with values and fingerprint.
            prefix: of the model's keys in it.
        """
        if state.pop(prefix + self.weights.values_name, None) is None:
            return
        state.pop(prefix + self.weights.topology_name)
        for index, names in enumerate(self.names):
            dense = self.weights.plain(index)
            state.update((prefix + name, dense) for name in names)


@attrs.frozen(eq=False)
class PlainOptimizerState:
    """A hook on ``optimizer.state_dict()`` that replaces the values' entry by one for each dense parameter.

    Attributes:
        group: the param group of the values, which knows the slots of the dense parameters.
        fingerprint: the name of the topology's fingerprint in the state dict.
        scattered: returns the state of each dense parameter, in the order of the layout.
    """

    group: CompactGroup
    fingerprint: str
    scattered: Callable[[], Sequence[Mapping[str, Any]]]

    def __call__(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Change a state dict in place; parameters are numbered anew, in the order of the groups.

        Args:
            optimizer: whose state dict it is.
            state: with the fingerprint of compact storage.

        Raises:
            InputError: the optimizer trains the values of several trainings.
        """
        check_alone(optimizer)
        state.pop(self.fingerprint)
        dense = {slot: index for index, slot in enumerate(self.group.slots)}
        kept, packed, number = {}, state["state"], 0
        for place, group in enumerate(state["param_groups"]):
            others, numbers = iter(group["params"]), []
            if place == self.group.index:
                values = group["params"][min(dense)]
                others = iter([one for one in group["params"] if one != values])
                states = self.scattered()
            size = len(group["params"]) + (len(dense) - 1) * (place == self.group.index)
            for slot in range(size):
                is_dense = place == self.group.index and slot in dense
                content = states[dense[slot]] if is_dense else packed.get(next(others))
                if content:
                    kept[number] = content
                numbers.append(number)
                number += 1
            group["params"] = numbers
        state["state"] = kept | {key: content for key, content in packed.items() if not isinstance(key, int)}
