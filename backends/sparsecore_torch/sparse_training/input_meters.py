"""The norms of the inputs of sparse tensors, for strategies that ask for them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sparsecore.engine.groups import EngineGroups
from sparsecore.errors import InputError
from sparsecore_torch.sparse_training.kernels.choice import Routes
from sparsecore_torch.sparse_training.model.parameters import NamedParameter
from sparsecore_torch.sparse_training.storage.dense_gradients import world_size


class InputMeters:
    """Adds up the squares of the inputs that sparse tensors are multiplied by in a step.

    Args:
        inputs: the number of inputs of each tensor's layer, by the tensor's name; of a grouped convolution that of all
            groups.
        dtype: of the norms.
    """

    def __init__(self, inputs: Mapping[str, int], dtype: torch.dtype = torch.float32) -> None:
        self._inputs, self._dtype = dict(inputs), dtype
        self._squares: dict[str, Tensor] = {}

    def reset(self) -> None:
        """Forget all inputs."""
        self._squares.clear()

    @torch.no_grad()
    def add(self, name: str, x: Tensor, axis: int) -> None:
        """Add the inputs of one use of a tensor.

        Args:
            name: of the tensor.
            x: the inputs of its layer, with all examples and pixels, of any floating-point dtype.
            axis: of the inputs, which is not summed over.
        """
        axis %= x.ndim
        others = [other for other in range(x.ndim) if other != axis]
        numbers = x.detach().to(self._dtype).square()
        squares = numbers.sum(others) if others else numbers
        self._squares[name] = self._squares[name] + squares if name in self._squares else squares

    def total(self, add_up: Callable[[Tensor], Tensor], device: torch.device) -> None:
        """Add up the squares of all ranks, also where a rank has had no examples. Collective.

        Args:
            add_up: sums a vector over ranks.
            device: that the vector is on.
        """
        own = [
            self._squares[name].to(torch.float64) if name in self._squares else torch.zeros(count, dtype=torch.float64)
            for name, count in self._inputs.items()
        ]
        seen = torch.tensor([float(name in self._squares) for name in self._inputs], dtype=torch.float64)
        summed = add_up(torch.cat([seen.to(device), *(one.to(device) for one in own)]))
        uses = summed[: len(seen)].tolist()
        parts = summed[len(seen) :].split_with_sizes(list(self._inputs.values()))
        self._squares = {
            name: part.to(self._dtype) for name, part, used in zip(self._inputs, parts, uses, strict=True) if used
        }

    def norms(self, name: str) -> Tensor:
        """Return the norm of each input of a tensor's layer in the latest step.

        Args:
            name: of the tensor.

        Returns:
            (in,).

        Raises:
            InputError: the tensor's layer has seen no input.
        """
        if name not in self._squares:
            raise InputError(
                f"the inputs of the sparse tensor {name!r} have not been seen in this step, and a strategy asks for "
                "their norms; its layer was not called as a module, or runs in a part of the model that is compiled"
            )
        return self._squares[name].sqrt()


class MeasuredLayers:
    """The layers of a model whose inputs are measured, by hooks that are there in the steps of updates alone.

    Args:
        tensors: the sparse tensors whose inputs are measured.
        dtype: of the norms.

    Raises:
        InputError: a tensor is not the weight of a linear or convolution module.
    """

    def __init__(self, tensors: Sequence[NamedParameter], dtype: torch.dtype = torch.float32) -> None:
        self._layers = {one.name: [_layer(one, *holder) for holder in one.holders] for one in tensors}
        self._meters = InputMeters({name: layers[0].inputs for name, layers in self._layers.items()}, dtype)
        self._handles: list[RemovableHandle] = []

    def expect(self, *, wanted: bool) -> None:
        """Begin to measure the inputs of the next step, or stop.

        Args:
            wanted: whether a strategy asks for them.
        """
        self.end()
        if not wanted:
            return
        self._meters.reset()
        for name, layers in self._layers.items():
            for layer in layers:
                hook = partial(_measure, self._meters, name, layer.axis)
                self._handles.append(layer.module.register_forward_pre_hook(hook))

    def finish(self, device: torch.device) -> None:
        """Stop to measure, and add up what all ranks have seen. Collective.

        Args:
            device: that ranks communicate from.
        """
        self.end()
        if world_size() > 1:
            self._meters.total(_sum_over_ranks, device)

    def norms(self, name: str) -> Tensor:
        """Return the norms of the inputs of a tensor's layer, from :meth:`expect` to :meth:`finish`; see InputMeters.

        Args:
            name: of the tensor.
        """
        return self._meters.norms(name)

    def end(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def measured_layers(tensors: Sequence[NamedParameter], engines: EngineGroups, routes: Routes) -> MeasuredLayers:
    """Return the layers whose inputs the strategies of a sparse training ask for; none where no strategy does.

    Args:
        tensors: all sparse tensors.
        engines: the strategies.
        routes: which layers run through the sparse kernels.

    Raises:
        InputError: a strategy asks for the inputs of a layer that runs through the sparse kernels, or of a tensor that
            is not the weight of a linear or convolution module.
    """
    names = engines.measured_tensors
    for name in names:
        if name in routes.sparse:
            raise InputError(
                f"a strategy asks for the norms of inputs, and the layer of {name!r} runs through the sparse kernels, "
                "which do not measure them; leave out kernels='sparse'"
            )
    return MeasuredLayers([one for one in tensors if one.name in names])


@attrs.frozen(eq=False)
class _Layer:
    """A module whose inputs are measured, the axis of its inputs, and their number."""

    module: nn.Module
    axis: int
    inputs: int


def _layer(tensor: NamedParameter, module: nn.Module, attribute: str) -> _Layer:
    if isinstance(module, nn.Linear) and attribute == "weight":
        return _Layer(module, -1, module.in_features)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and attribute == "weight":
        return _Layer(module, -1 - len(module.kernel_size), module.in_channels)
    raise InputError(
        f"a strategy asks for the norms of inputs, and the sparse tensor {tensor.name!r} is {attribute!r} of "
        f"{type(module).__name__}; they are measured for the weights of Linear, Conv1d, Conv2d and Conv3d modules; "
        f"leave it dense with exclude={tensor.name!r}"
    )


def _measure(meters: InputMeters, name: str, axis: int, _: nn.Module, given: tuple[Any, ...]) -> None:
    # evaluations between two steps do not count
    if torch.is_grad_enabled() and given and isinstance(given[0], Tensor):
        meters.add(name, given[0], axis)


def _sum_over_ranks(vector: Tensor) -> Tensor:
    dist.all_reduce(vector)
    return vector
