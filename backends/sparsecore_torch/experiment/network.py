"""The buffers of a network in training, one vector of sparse values among them, and its forward pass."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsecore.engine.topology import Layout, Topology
from sparsecore.learning.parameters import Parameter
from sparsecore.learning.protocols import Model, Task
from sparsecore_torch.arrays import active_indices, as_tensor
from sparsecore_torch.experiment.compilation import EAGER, Execution, Forward
from sparsecore_torch.experiment.device import DeviceConfig
from sparsecore_torch.experiment.layers import Layers
from sparsecore_torch.experiment.operations import DenseWeight, Normalization, SparseWeight, TorchOperations, by_running
from sparsecore_torch.sparse_training.input_meters import InputMeters


@attrs.frozen(eq=False)
class WideView:
    """The sparse tensors with more entries than the active ones, zero where no weight is active, and their gradients.

    Attributes:
        layout: the sparse tensors.
        values: for each tensor all its entries, flat; to be differentiated by.
        positions: for each tensor the positions of its entries.
        slots: for each tensor where among its entries the active ones are.
    """

    layout: Layout
    values: tuple[Tensor, ...]
    positions: tuple[Tensor, ...]
    slots: tuple[Tensor, ...]

    @classmethod
    def dense(cls, topology: Topology, values: Tensor) -> "WideView":
        """Make dense tensors from the N values.

        Args:
            topology: the active positions.
            values: (N,); their memory is not shared.
        """
        ends = zip(topology.layout.offsets[:-1], topology.layout.offsets[1:], strict=True)
        active = as_tensor(topology.positions)
        positions = [torch.arange(*end, dtype=active.dtype, device=active.device) for end in ends]
        indices = [active_indices(topology, tensor) for tensor in range(len(topology.layout))]
        return cls._of(topology, values, positions, indices)

    @classmethod
    def with_candidates(cls, topology: Topology, values: Tensor, candidates: Topology) -> "WideView":
        """Make tensors of the N values and of zeros at candidates.

        Args:
            topology: the active positions.
            values: (N,); their memory is not shared.
            candidates: positions that are not active.
        """
        positions, slots = [], []
        for name in topology.layout.names:
            active = as_tensor(topology.positions)[topology.slots(name)]
            wider = torch.cat([active, as_tensor(candidates.positions)[candidates.slots(name)]]).sort().values
            positions.append(wider)
            slots.append(torch.searchsorted(wider, active.contiguous()))
        return cls._of(topology, values, positions, slots)

    @classmethod
    def _of(
        cls, topology: Topology, values: Tensor, positions: Sequence[Tensor], slots: Sequence[Tensor]
    ) -> "WideView":
        wide = tuple(values.new_zeros(len(own)) for own in positions)
        for name, tensor, indices in zip(topology.layout.names, wide, slots, strict=True):
            tensor[indices] = values[topology.slots(name)]
        return cls(topology.layout, tuple(tensor.requires_grad_() for tensor in wide), tuple(positions), tuple(slots))

    def gradient(self, name: str) -> Tensor:
        """Return the gradient of a tensor.

        Args:
            name: of the tensor.

        Returns:
            One number for each of its entries, in the order of their positions; zeros where no gradient has arrived.
        """
        return _gradient(self.values[self.layout.index(name)])

    def active_gradient(self) -> Tensor:
        """Return the gradients of the active weights.

        Returns:
            (N,), in the order of the topology's positions; a new tensor.
        """
        return torch.cat([_gradient(tensor)[slots] for tensor, slots in zip(self.values, self.slots, strict=True)])

    def other_gradient(self) -> Tensor:
        """Return the gradients of the entries that are not active.

        Returns:
            In the order of their positions; a new tensor.
        """
        parts = []
        for tensor, slots in zip(self.values, self.slots, strict=True):
            is_other = torch.ones_like(tensor, dtype=torch.bool).index_fill_(0, slots, value=False)
            parts.append(_gradient(tensor)[is_other])
        return torch.cat(parts)

    def replace_gradients(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replace each gradient, in the order of the layout, so that ranks can communicate within.

        Args:
            change: from a tensor's gradient to another of its shape; it may be written to.
        """
        for tensor in self.values:
            tensor.grad = change(_gradient(tensor))


def _gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, requires_grad=False) if tensor.grad is None else tensor.grad


@attrs.frozen(eq=False)
class NetworkStructure:
    """The parts of a network that stay the same while it learns.

    Attributes:
        model: the network as a function.
        layout: the sparse tensors.
        trained: the other trained parameters.
        statistics: the running statistics.
    """

    model: Model
    layout: Layout
    trained: tuple[Parameter, ...]
    statistics: tuple[Parameter, ...]

    @classmethod
    def of(cls, task: Task) -> "NetworkStructure":
        """Return the structure of a task's network."""
        others = [parameter for parameter in task.parameters if not parameter.sparse]
        return cls(
            task.model,
            task.topology.layout,
            tuple(parameter for parameter in others if parameter.trained),
            tuple(parameter for parameter in others if not parameter.trained),
        )

    def forward(self, normalization: Normalization, execution: Execution, meters: InputMeters | None = None) -> Forward:
        """Make the forward pass: a function from images and the parts of all vectors to logits.

        Args:
            normalization: what batch norm normalizes by.
            execution: how the forward pass is executed.
            meters: are given the inputs of the sparse tensors; None to measure none.
        """
        operations = TorchOperations(normalization, execution.tied_layers)
        program = execution.program(self.model, operations, self._names)

        layers = execution.layers

        def logits(
            images: Tensor,
            values: Sequence[Tensor],
            positions: Sequence[Tensor],
            dense: Sequence[Tensor],
            running: Sequence[Tensor],
        ) -> Tensor:
            sparse = self._sparse(values, positions, layers, meters)
            return program({**sparse, **self._dense(dense), **self._running(running)}, images)

        return execution.prepare(logits)

    @property
    def _names(self) -> tuple[str, ...]:
        """The names of all parameters, in the order in which the forward pass takes them."""
        return (*self.layout.names, *(parameter.name for parameter in (*self.trained, *self.statistics)))

    def _sparse(
        self, values: Sequence[Tensor], positions: Sequence[Tensor], layers: Layers, meters: InputMeters | None
    ) -> dict[str, SparseWeight]:
        layout = self.layout
        return {
            name: SparseWeight(
                values[i],
                positions[i],
                layout.offsets[i],
                layout.shapes[i],
                layers,
                None if meters is None else partial(meters.add, name, axis=1),
            )
            for i, name in enumerate(layout.names)
        }

    def _dense(self, parts: Sequence[Tensor]) -> dict[str, DenseWeight]:
        return {
            parameter.name: DenseWeight(part.view(parameter.shape))
            for parameter, part in zip(self.trained, parts, strict=True)
        }

    def _running(self, parts: Sequence[Tensor]) -> dict[str, Tensor]:
        return {parameter.name: part for parameter, part in zip(self.statistics, parts, strict=True)}


class TorchNetwork:
    """The buffers of a network, and its forward pass in training and in evaluation.

    Attributes:
        values: the N sparse values.
        dense: all other trained parameters, end to end.
        running: the running statistics by name; each has memory of its own, as batch norm writes to them.
        topology: the active positions.

    Args:
        task: the network and its start values.
        config: how it is computed.
    """

    def __init__(self, task: Task, config: DeviceConfig) -> None:
        structure = NetworkStructure.of(task)
        self.topology = task.topology
        self.values = torch.nn.Parameter(_buffer(task.values, config))
        self.dense = torch.nn.Parameter(_buffer(_end_to_end(structure.trained, task.other_parameters), config))
        self.running = {p.name: _buffer(task.other_parameters[p.name], config) for p in structure.statistics}
        self._parallel, self._structure = config.parallel, structure
        self._shapes = {parameter.name: parameter.shape for parameter in structure.trained}
        self._sizes = [int(np.prod(shape)) for shape in self._shapes.values()]
        self._forward = structure.forward(config.parallel.normalization, config.execution)
        self._training = config.parallel.trained(self._forward, [self.values, self.dense])
        self._evaluation = structure.forward(by_running, config.execution)

    def training_logits(self, images: Tensor) -> Tensor:
        """Return the logits of a batch; running statistics move towards those of the batch.

        Args:
            images: normalized, (batch, channels, height, width).

        Returns:
            (batch, classes); a backward pass from here leaves gradients averaged over ranks.
        """
        return self._training(images, *self._parts())

    def evaluation_logits(self, images: Tensor) -> Tensor:
        """Return the logits by the running statistics.

        Args:
            images: normalized, (batch, channels, height, width).

        Returns:
            (batch, classes).
        """
        return self._evaluation(images, *self._parts())

    def other_parameters(self) -> dict[str, Tensor]:
        """Return the tensors that are not sparse, running statistics among them.

        Returns:
            By name, in their shapes; views, which change as the network learns.
        """
        parts = zip(self._shapes.items(), self.dense.detach().split_with_sizes(self._sizes), strict=True)
        return {**{name: part.view(shape) for (name, shape), part in parts}, **self.running}

    def input_meters(self) -> InputMeters:
        """Return meters of the inputs of the sparse tensors."""
        layout = self.topology.layout
        inputs = {name: shape[:2][-1] for name, shape in zip(layout.names, layout.shapes, strict=True)}
        return InputMeters(inputs, self.values.dtype)

    def wide_view(self, candidates: Topology | None = None) -> WideView:
        """Make sparse tensors with further entries, for :meth:`wide_training_logits`.

        Args:
            candidates: the positions of these entries; None for all positions.

        Returns:
            A copy of the values as they are now.
        """
        values = self.values.detach()
        if candidates is None:
            return WideView.dense(self.topology, values)
        return WideView.with_candidates(self.topology, values, candidates)

    def wide_training_logits(self, view: WideView, images: Tensor, meters: InputMeters | None = None) -> Tensor:
        """Return what :meth:`training_logits` does, to be differentiated by all entries of a view.

        Args:
            view: whose values are differentiated by; ranks do not share its gradient before :meth:`take_gradients`.
            images: normalized, (batch, channels, height, width).
            meters: are given the inputs of the sparse tensors, for which nothing is compiled; None to measure none.
        """
        forward = self._forward
        if meters is not None:
            forward = self._structure.forward(self._parallel.normalization, EAGER, meters)
        return forward(images, view.values, view.positions, *self._other_parts())

    def take_gradients(self, view: WideView) -> None:
        """Leave the gradients that :meth:`training_logits` leaves, after a backward pass by a view.

        Args:
            view: its gradients become the means over ranks.
        """
        mean = self._parallel.mean
        view.replace_gradients(mean)
        self.values.grad = view.active_gradient()
        if self.dense.grad is not None:
            self.dense.grad = mean(self.dense.grad)

    def resize(self, size: int) -> None:
        """Make room for another number of sparse values, in a new parameter.

        Args:
            size: the number of values, which are all zero afterwards.
        """
        self.values = torch.nn.Parameter(self.values.detach().new_zeros(size))
        self._training = self._parallel.trained(self._forward, [self.values, self.dense])

    def _parts(self) -> tuple[Sequence[Tensor], ...]:
        # one split each: its gradient is one concatenation, where slices would each make a vector of N zeros
        counts = self.topology.counts.tolist()
        sparse = (self.values.split_with_sizes(counts), as_tensor(self.topology.positions).split_with_sizes(counts))
        return (*sparse, *self._other_parts())

    def _other_parts(self) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        return self.dense.split_with_sizes(self._sizes), list(self.running.values())


def _buffer(start: Any, config: DeviceConfig) -> Tensor:
    # always a copy: buffers change in place
    return torch.as_tensor(start).to(device=config.device, dtype=config.dtype, copy=True)


def _end_to_end(parameters: Sequence[Parameter], start: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros(0), *(np.ravel(start[parameter.name]) for parameter in parameters)])
