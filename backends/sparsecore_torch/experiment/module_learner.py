"""The learner of anybody's module: dense parameters with masks, in the storage of ``sparsify``."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sparsecore.data.images import Batch, Split
from sparsecore.engine.arrays import Gradient, InputNorms
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore.learning.ledger import Ledger
from sparsecore.learning.protocols import Task, Totals
from sparsecore.learning.saved_states import check_saved, check_shape
from sparsecore_torch.arrays import active_indices, as_tensor, gather, scatter
from sparsecore_torch.experiment.batch_learner import BatchLearner, RunningTotals, by_label
from sparsecore_torch.experiment.device import DeviceConfig
from sparsecore_torch.experiment.keyed_draws import drawing
from sparsecore_torch.experiment.module_model import ModuleModel, check_logits, forget_drawn_values, saved_tensors
from sparsecore_torch.experiment.optimizers import filled_optimizer
from sparsecore_torch.sparse_training.input_meters import MeasuredLayers
from sparsecore_torch.sparse_training.optimizers.shares import OptimizerShare
from sparsecore_torch.sparse_training.optimizers.wrapped import layers_of
from sparsecore_torch.sparse_training.storage.masked import MaskedStorage
from sparsecore_torch.sparse_training.young_weights import YoungSteps


class ModuleLearner(BatchLearner):
    """A module in training; implements :class:`sparsecore.learning.protocols.Learner`.

    What the module draws in training, as dropout does, depends on the seed, the epoch and the first image of the batch.

    Args:
        task: the network, its start values, the data and the optimizer.
        model: the network of the task.
        config: how the network is computed.
    """

    def __init__(self, task: Task, model: ModuleModel, config: DeviceConfig) -> None:
        super().__init__(task, config)
        self._model, self._classes = model, task.images.classes
        module = model.module(task.images.shape, task.images.classes)
        self._module = module.to(config.device, config.dtype).to(memory_format=config.memory_format)  # type: ignore[call-overload]
        selection = model.selection(self._module)
        self._tensors = selection.sparse
        self._measured: MeasuredLayers | None = None
        self._sparse = {one.name: one.parameter for one in selection.sparse}
        self._others = {name: one for name, one in saved_tensors(self._module) if name not in self._sparse}
        for name, tensor in self._others.items():
            _put(tensor, task.other_parameters[name])
        trained = {name: one for name, one in self._module.named_parameters() if one.requires_grad}
        self._trained = trained
        self._optimizer = filled_optimizer(list(trained.values()), task.optimizer)
        self._topology = task.topology
        self._storage = MaskedStorage(selection.sparse, self._optimizer, task.topology, as_tensor(task.values))
        share = OptimizerShare(layers_of(self._optimizer), tuple(selection.sparse))
        choices = dict.fromkeys(self._sparse, task.young) if task.corrects_young_weights else {}
        self._young = YoungSteps(choices, [share], [self._storage], task.topology)
        self._forward = config.execution.module(self._module)
        self._has_stepped = self._is_dense = False
        self._loss_gradients: dict[str, Tensor] = {}
        forget_drawn_values()

    @property
    def values(self) -> Tensor:
        """The N sparse values; not to be written to, and valid until the next call that changes them."""
        return self._storage.values()

    def backward(self, batch: Batch, *, dense: bool = False) -> Gradient | None:
        """Compute the gradients.

        Args:
            batch: the whole batch, of which each rank takes its part.
            dense: whether gradients of all positions are kept, too.

        Returns:
            None, or from a tensor's name to its dense gradient, (D_i,), row-major.

        Raises:
            InputError: the module returns no logits.
        """
        config, totals = self._config, RunningTotals(self._config.device)
        part = config.parallel.part(batch)
        self._module.train()
        self._has_stepped, self._is_dense = False, dense
        self._loss_gradients.clear()
        self._storage.expect_gradient(dense=dense)
        self._optimizer.zero_grad(set_to_none=True)
        with config.computing(), config.parallel.communicating():
            if len(part):
                self._forward_backward(part, len(batch), totals)
            if self._measured is not None:
                self._measured.finish(config.device)
                self._measured = None
            config.parallel.average_gradients(list(self._trained.values()))
            config.parallel.average_statistics([one for name, one in self._others.items() if name not in self._trained])
            config.parallel.total(totals.vector)
        self._totals.add_totals(totals)
        return self._dense_gradient if dense else None

    def _forward_backward(self, part: Batch, examples: int, totals: RunningTotals) -> None:
        images, labels = self._inputs.of_plan(part)
        with drawing(part.random.child("forward", part.first)):
            logits = self._computed(images)
            check_logits(logits, len(labels), self._classes, self._model.name, labels.shape[1:])
            logits, labels = by_label(logits.to(self._config.dtype), labels)
            losses = functional.cross_entropy(logits, labels, reduction="none")
            # every image has as many labels
            torch.autograd.backward(self._config.parallel.loss(losses, examples * (len(labels) // len(part))))
        totals.add(losses, logits, labels)

    def measure_inputs(self) -> InputNorms:
        """Measure the inputs of the sparse tensors in the next backward pass, of which nothing is compiled.

        Returns:
            From a tensor's name to the norms of its layer's inputs, (in,), valid after that pass.

        Raises:
            InputError: a sparse tensor is not the weight of a linear or convolution module.
        """
        measured = self._measured = MeasuredLayers(self._tensors, self._config.dtype)
        measured.expect(wanted=True)
        return measured.norms

    def _computed(self, images: Tensor) -> Any:
        try:
            return (self._forward if self._measured is None else self._module)(images)
        except ValueError as error:  # as batch norm raises for a batch with one value a channel
            raise InputError(
                f"the model {self._model.name!r} cannot be trained on a batch of {len(images)} images ({error}); where "
                "it is the last of an epoch, another training.batch_size or data.limit helps"
            ) from error

    def _dense_gradient(self, name: str) -> Tensor:
        if name in self._loss_gradients:
            return self._loss_gradients[name]
        # the optimizer's step masks the gradients, of which the storage then has a copy
        if self._has_stepped:
            return self._storage.gradient(name)
        gradient = self._sparse[name].grad
        return torch.zeros_like(self._sparse[name]).reshape(-1) if gradient is None else gradient.reshape(-1)

    @torch.no_grad()
    def optimizer_step(self, learning_rate: float) -> None:
        """Take one optimizer step by the gradients; inactive weights stay zero."""
        for group in self._optimizer.param_groups:
            group["lr"] = float(learning_rate)
        self._young.before_step(0)
        self._optimizer.step()
        self._young.after_step(0)
        self._storage.enforce()
        self._has_stepped = True

    def evaluate(self, split: Split) -> Totals:
        """Return the sums over a split, in evaluation mode and without augmentation.

        Args:
            split: of the data set; any other is copied to the device at each call. Ranks share the work.
        """
        self._module.eval()
        return super().evaluate(split)

    def _evaluation_logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self._forward(images)
        return logits

    @property
    def weight_gradient(self) -> Tensor:
        """The gradient of the N sparse values, from :meth:`backward` to the optimizer's step."""
        return self._storage.weight_gradient()

    def set_weight_gradient(self, weight_gradient: Tensor) -> None:
        """Replace the gradient of the N sparse values before the optimizer's step.

        Args:
            weight_gradient: (N,).

        Raises:
            InputError: it has another shape.
        """
        check_shape("weight_gradient", weight_gradient, (self._topology.size,))
        if self._is_dense:  # strategies are given those of the loss
            self._loss_gradients = {name: self._dense_gradient(name).clone() for name in self._sparse}
        self._storage.set_weight_gradient(weight_gradient)

    def momentum(self, name: str) -> Tensor | None:
        """Return SGD's momentum of a tensor's active weights, (N_i,); None with other optimizers and without one.

        Args:
            name: of the tensor.
        """
        return self._storage.momentum(name)

    def set_values(self, values: Tensor) -> None:
        """Replace the N sparse values, for a perturbation; optimizer state stays.

        Args:
            values: (N,).

        Raises:
            InputError: they have another shape.
        """
        check_shape("values", values, (self._topology.size,))
        self._storage.set_values(values)

    def reallocate(self, reallocation: Reallocation) -> None:
        """Move to the new topology and its values; optimizer state follows the weights, zero where a weight grew."""
        self._storage.reallocate(reallocation)
        self._young.carry(reallocation)
        self._topology = reallocation.after

    def other_parameters(self) -> dict[str, NDArray[Any]]:
        """Return copies of the parameters that are not sparse, and of the saved buffers, by name."""
        return {name: _host(tensor).reshape(tuple(tensor.shape) or (1,)) for name, tensor in self._others.items()}

    def memory(self) -> Ledger:
        """Return the bytes of the trained parameters and of what training keeps for each of them: masks are dense."""
        return self._storage.ledger()

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of all buffers but the topology's positions, enough to go on bit for bit.

        Of the sparse tensors and their optimizer state these are the entries of active weights.
        """
        others = {f"other.{name}": _host(tensor).reshape(-1) for name, tensor in self._others.items()}
        state = {name: _host(self._taken(own, tensor)) for name, (own, tensor) in self._optimizer_state().items()}
        totals = {"totals": self._totals.vector.numpy(force=True).copy()}
        young = {"young": self._young.marks().numpy(force=True)} if self._young.is_active else {}
        return {"values": _host(self.values), **others, **state, **totals, **young}

    @torch.no_grad()
    def load_state(self, topology: Topology, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a saved state.

        Args:
            topology: the active positions that the state was saved with.
            state: what :meth:`state` returned.

        Raises:
            InputError: a buffer is missing or has another shape; nothing has changed.
        """
        self._check(topology, state)
        self._storage.restore(topology)
        self._topology = topology
        device = self._config.device
        self._storage.set_values(torch.from_numpy(np.array(state["values"])).to(device))
        for name, tensor in self._others.items():
            _put(tensor, state[f"other.{name}"])
        for name, (own, tensor) in self._optimizer_state().items():
            saved = torch.from_numpy(np.array(state[name])).to(device, tensor.dtype)
            if own in self._sparse and tensor.shape:
                tensor.copy_(scatter(saved, self._indices(own), tensor.shape))
            else:
                tensor.copy_(saved.view(tensor.shape))
        self._totals.vector.copy_(torch.from_numpy(np.array(state["totals"])))
        if self._young.is_active:
            self._young.load(torch.from_numpy(np.array(state["young"])).to(device), topology)

    def _check(self, topology: Topology, state: Mapping[str, NDArray[Any]]) -> None:
        counts = dict(zip(topology.layout.names, topology.counts.tolist(), strict=True))
        expected: dict[str, Sequence[int]] = {"values": (topology.size,), "totals": (3,)}
        expected |= {"young": (topology.size,)} if self._young.is_active else {}
        expected |= {f"other.{name}": (tensor.numel(),) for name, tensor in self._others.items()}
        for name, (own, tensor) in self._optimizer_state().items():
            expected[name] = (counts[own] if own in self._sparse and tensor.shape else tensor.numel(),)
        check_saved(state, expected)

    def _optimizer_state(self) -> dict[str, tuple[str, Tensor]]:
        """The optimizer's state by name, each with the parameter that it belongs to."""
        return {
            f"optimizer.{name}.{key}": (name, tensor)
            for name, parameter in self._trained.items()
            for key, tensor in self._optimizer.state[parameter].items()
        }

    def _taken(self, own: str, tensor: Tensor) -> Tensor:
        is_sparse = own in self._sparse and tensor.shape
        return gather(tensor, self._indices(own)) if is_sparse else tensor.reshape(-1)

    def _indices(self, name: str) -> Tensor:
        return active_indices(self._topology, self._topology.layout.index(name))


def _host(tensor: Tensor) -> NDArray[Any]:
    """A copy as floating-point numbers: what a checkpoint has of other numbers may not be below zero."""
    own = tensor.detach()
    return (own if own.is_floating_point() else own.double()).numpy(force=True).copy()


@torch.no_grad()
def _put(tensor: Tensor, saved: NDArray[Any]) -> None:
    tensor.copy_(torch.from_numpy(np.array(saved)).view(tensor.shape))
