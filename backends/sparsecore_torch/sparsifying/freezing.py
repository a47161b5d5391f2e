"""Which sparse tensors are frozen now: they keep their weights where they are until they are trained again."""

from collections.abc import Callable, Sequence
from typing import final

import attrs
from torch import Tensor, nn

from sparsecore.errors import InputError
from sparsecore_torch.sparsifying.parameters import NamedParameter, own_parameter
from sparsecore_torch.storages.compact_weights import VALUES
from sparsecore_torch.storages.shards import is_sharded


@final
class Freezing:
    """Looks at ``requires_grad`` of the sparse tensors, which may change at any time.

    In compact storage all sparse tensors are one Parameter, which can only be frozen as a whole.

    Args:
        model: without wrappers.
        tensors: the sparse tensors.
    """

    def __init__(self, model: nn.Module, tensors: Sequence[NamedParameter]) -> None:
        values = own_parameter(model, VALUES)
        self._is_compact = values is not None
        self._tensors = {one.name: _looking_up(one, values) for one in tensors}
        self._layers = [_Layer.of(one.names[0], module) for one in tensors for module, _ in one.places]

    def frozen(self) -> list[str]:
        """The names of the tensors that are frozen now."""
        return [name for name, tensor in self._tensors.items() if not tensor().requires_grad]

    def check(self) -> None:
        """Raise an :class:`InputError` if a layer has been frozen whose weights go on to be trained."""
        if self._is_compact:
            for layer in self._layers:
                if layer.is_newly_frozen() and layer.name not in self.frozen():
                    raise InputError(
                        f"the layer of {layer.name} has been frozen since sparsify, and in compact storage its weights "
                        f"go on to be trained: they are part of the one Parameter {VALUES}. Take storage='masked', "
                        "which leaves frozen tensors as they are, or freeze the layer before sparsify"
                    )


@attrs.frozen(eq=False)
class _Layer:
    """A module of compact storage.

    Attributes:
        name: of its sparse tensor.
        others: its dense parameters that were trained at the start.
    """

    name: str
    others: tuple[nn.Parameter, ...]

    @classmethod
    def of(cls, name: str, module: nn.Module) -> "_Layer":
        own = [one for key, one in module._parameters.items() if one is not None and key != VALUES]
        return cls(name, tuple(own) if all(one.requires_grad for one in own) else ())

    def is_newly_frozen(self) -> bool:
        return bool(self.others) and not any(one.requires_grad for one in self.others)


def _looking_up(one: NamedParameter, values: nn.Parameter | None) -> Callable[[], Tensor]:
    parameter = one.parameter if values is None else values
    # fully_shard has other objects in its place while it computes
    return (lambda: one.parameter) if is_sharded(parameter) else (lambda: parameter)
