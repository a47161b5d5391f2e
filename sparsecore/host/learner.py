"""The learner of the host backends: a network in training whose parameters are flat vectors of the host."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.data.images import Batch, Images, Split, augmented
from sparsecore.engine.arrays import Gradient, InputNorms
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology
from sparsecore.host.buffers import BufferPool
from sparsecore.host.computation import Computation, batch_totals
from sparsecore.host.input_norms import InputMeter, input_norms
from sparsecore.host.parameters import (
    MOMENTUM,
    DenseParameters,
    ParameterVectors,
    RunningStatistics,
    SparseParameters,
    concatenated,
    ledger,
)
from sparsecore.host.weights import WeightView
from sparsecore.host.young_steps import YoungSteps
from sparsecore.learning.ledger import Ledger
from sparsecore.learning.protocols import Task, Totals
from sparsecore.learning.saved_states import check_saved, check_shape

_PIXELS = 1 << 17
_MOST_IMAGES = 1 << 10


def normalized(memory: BufferPool, pictures: NDArray[np.uint8], images: Images) -> NDArray[Any]:
    """Normalize images by the mean and the standard deviation of each channel over the training images.

    Args:
        memory: the pool of the result.
        pictures: uint8, (batch, height, width, channels).
        images: the data set.

    Returns:
        (pictures − mean)/std in the dtype of the pool, in the same shape.
    """
    result = memory.take(*pictures.shape)
    np.subtract(pictures, images.mean.astype(memory.dtype), out=result)
    np.divide(result, images.std.astype(memory.dtype), out=result)
    return result


def in_batches(split: Split) -> Iterator[Split]:
    """Divide a split into batches with a bounded number of pixels, in order.

    Args:
        split: images of (examples, height, width, channels) with labels.

    Yields:
        Views of consecutive examples: as many as have 2¹⁷ pixels together, but at least 1 and at most 1024.
    """
    height, width = split.images.shape[1:3]
    count = min(max(1, _PIXELS // (height * width)), _MOST_IMAGES)
    for first in range(0, len(split), count):
        yield Split(split.images[first : first + count], split.labels[first : first + count])


class HostLearner:
    """Implements :class:`sparsecore.learning.protocols.Learner` on flat vectors of the host.

    Args:
        task: what is learned.
        dtype: the dtype of values and activations.
        computation: computes outputs and gradients.
    """

    def __init__(self, task: Task, dtype: str, computation: Computation) -> None:
        self._task = task
        self._memory = BufferPool(dtype)
        self._computation = computation
        values = np.asarray(task.values, dtype)
        self._sparse = SparseParameters.of(task.topology, ParameterVectors.start(values, task.optimizer))
        trained = [p for p in task.parameters if p.trained and not p.sparse]
        dense = ParameterVectors.start(concatenated(trained, task.other_parameters, dtype), task.optimizer)
        self._dense = DenseParameters.of(trained, dense)
        statistics = [p for p in task.parameters if not p.trained]
        self._running = RunningStatistics.of(statistics, concatenated(statistics, task.other_parameters, dtype))
        self._young = YoungSteps(task.young, task.optimizer) if task.corrects_young_weights else None
        self._totals = Totals()
        self._steps = 0
        self._meters: dict[str, InputMeter] = {}

    @property
    def values(self) -> NDArray[Any]:
        """The sparse values, (N,), read-only and valid until the next call that changes them."""
        values = self._sparse.vectors.values.view()
        values.flags.writeable = False
        return values

    def train(self, batch: Batch, learning_rate: float) -> None:
        """Compute the gradients, and take an optimizer step."""
        self.backward(batch)
        self.optimizer_step(learning_rate)

    def backward(self, batch: Batch, *, dense: bool = False) -> Gradient | None:
        """Compute the gradients of the mean loss over a batch.

        Args:
            batch: the training images.
            dense: whether every sparse tensor is computed as a dense one, so that its inactive entries get gradients
                too.

        Returns:
            The dense gradients by tensor, (D_i,), row-major, in the learner's dtype, which take memory for as long as
            they are held; None unless they were requested.
        """
        if not dense:
            self._forward_backward(batch, self._sparse.tensors)
            return None
        whole = {name: tensor.densified() for name, tensor in self._sparse.tensors.items()}
        self._forward_backward(batch, whole)
        for name, tensor in self._sparse.tensors.items():
            tensor.add_dense_gradient(whole[name].gradient)
        return lambda name: whole[name].gradient

    def backward_at(self, batch: Batch, candidates: Topology) -> NDArray[Any]:
        """Compute the gradients of the mean loss over a batch, also at positions that are not active.

        Args:
            batch: the training images.
            candidates: the positions, which are trained with as weights that are zero.

        Returns:
            One entry for each of the positions, in their order, in the learner's dtype.
        """
        wider = {name: tensor.widened(candidates.local(name)) for name, tensor in self._sparse.tensors.items()}
        self._forward_backward(batch, {name: view for name, (view, _) in wider.items()})
        parts = []
        for name, (view, slots) in wider.items():
            self._sparse.tensors[name].add_gradient(view.gradient[slots])
            parts.append(np.delete(view.gradient, slots))
        return np.concatenate(parts)

    def measure_inputs(self) -> InputNorms:
        """Measure the inputs of the sparse tensors in the next backward pass.

        Returns:
            The norms by tensor, (in,), in the learner's dtype, valid after that pass.
        """
        self._meters = {name: InputMeter() for name in self._sparse.tensors}
        return input_norms(self._meters, self._memory.dtype)

    def optimizer_step(self, learning_rate: float) -> None:
        """Take an optimizer step with the gradients."""
        self._steps += 1
        with _computing():
            for vectors in self._vectors:
                vectors.optimizer_step(self._task.optimizer, float(learning_rate), self._steps)
            if self._young is not None:
                self._young.correct(self._sparse.vectors, float(learning_rate), self._steps)

    def totals(self) -> Totals:
        """The sums since :meth:`reset_totals`."""
        return self._totals

    def reset_totals(self) -> None:
        """Set the sums to zero."""
        self._totals = Totals()

    def evaluate(self, split: Split) -> Totals:
        """The sums over all examples of a split, with running statistics and without augmentation."""
        parameters = self._parameters(self._sparse.tensors)
        totals = Totals()
        with _computing():
            for some in in_batches(split):
                logits = self._computation.logits(self._task.model, parameters, self._normalized(some.images))
                totals += batch_totals(logits, some.labels)
        return totals

    @property
    def weight_gradient(self) -> NDArray[Any]:
        """The gradient of the sparse values, (N,), from :meth:`backward` to the optimizer's step; read-only."""
        gradient = self._sparse.vectors.gradient.view()
        gradient.flags.writeable = False
        return gradient

    def set_weight_gradient(self, weight_gradient: NDArray[Any]) -> None:
        """Replace the gradient of the sparse values before the optimizer's step.

        Args:
            weight_gradient: (N,), converted to the learner's dtype.

        Raises:
            InputError: it has another shape.
        """
        present = self._sparse.vectors.gradient
        check_shape("weight_gradient", weight_gradient, present.shape)
        present[:] = weight_gradient

    def momentum(self, name: str) -> NDArray[Any] | None:
        """SGD's momentum of a tensor's active weights, (N_i,), read-only; None with other optimizers and without one.

        Args:
            name: of the tensor.
        """
        if not getattr(self._task.optimizer, "momentum", 0):
            return None
        momentum = self._sparse.vectors.buffers[MOMENTUM][self._sparse.topology.slots(name)]
        momentum.flags.writeable = False
        return momentum

    def set_values(self, values: NDArray[Any]) -> None:
        """Replace the sparse values, and keep the optimizer's state.

        Args:
            values: (N,), converted to the learner's dtype.

        Raises:
            InputError: they have another shape.
        """
        present = self._sparse.vectors.values
        check_shape("values", values, present.shape)
        present[:] = values

    def reallocate(self, reallocation: Reallocation) -> None:
        """Replace the topology and its values; optimizer state follows its weights and is zero for grown ones.

        SGD's momentum of grown weights is that of the reallocation.
        """
        values = np.asarray(reallocation.values, self._memory.dtype)
        buffers = self._sparse.vectors.buffers
        carried = {name: reallocation.carry(buffer) for name, buffer in buffers.items()}
        if MOMENTUM in buffers:
            carried[MOMENTUM] = reallocation.carry_momentum(buffers[MOMENTUM])
        vectors = ParameterVectors.of(values, carried)
        self._sparse = SparseParameters.of(reallocation.after, vectors)
        if self._young is not None:
            self._young.carry(reallocation)

    def other_parameters(self) -> dict[str, NDArray[Any]]:
        """Copies of the parameters that are not sparse, including running statistics, by name and in their shapes."""
        return {**self._dense.copies(), **{name: array.copy() for name, array in self._running.tensors.items()}}

    def memory(self) -> Ledger:
        """The bytes of the trained parameters, their gradients, indices and optimizer state."""
        return ledger(self._sparse, self._dense, self._computation.cached_arrays)

    def state(self) -> dict[str, NDArray[Any]]:
        """All buffers except the topology's positions: enough to resume training bit for bit."""
        state = {name: buffer.copy() for name, buffer in self._buffers().items()}
        totals = np.array(attrs.astuple(self._totals), np.float64)
        young = {} if self._young is None else {"young": self._young.marks(self._sparse.topology.size)}
        return state | young | {"totals": totals, "steps": np.array([self._steps])}

    def load_state(self, topology: Topology, state: Mapping[str, NDArray[Any]]) -> None:
        """Resume from the buffers that :meth:`state` returned; nothing changes before all of them have been checked.

        Args:
            topology: the topology that they belong to.
            state: the buffers by name, which are copied.

        Raises:
            InputError: a buffer is missing or has another shape.
        """
        values = np.zeros(topology.size, self._memory.dtype)
        sparse = SparseParameters.of(topology, ParameterVectors.start(values, self._task.optimizer))
        buffers = _named(sparse.vectors, self._dense.vectors, self._running.values)
        expected = {**buffers, "totals": np.zeros(3), "steps": np.zeros(1)}
        if self._young is not None:
            expected["young"] = values
        check_saved(state, {name: buffer.shape for name, buffer in expected.items()})
        for name, buffer in buffers.items():
            buffer[:] = state[name]
        self._sparse = sparse
        total_loss, correct, examples = state["totals"].tolist()
        self._totals = Totals(total_loss, int(correct), int(examples))
        self._steps = int(state["steps"][0])
        if self._young is not None:
            self._young.load(state["young"])

    @property
    def _vectors(self) -> tuple[ParameterVectors, ParameterVectors]:
        return self._sparse.vectors, self._dense.vectors

    def _buffers(self) -> dict[str, NDArray[Any]]:
        return _named(self._sparse.vectors, self._dense.vectors, self._running.values)

    def _forward_backward(self, batch: Batch, sparse: Mapping[str, WeightView]) -> None:
        split = self._task.images.train
        pictures, labels = augmented(split.images, batch), split.labels[batch.rows]
        for vectors in self._vectors:
            vectors.gradient.fill(0)
        measured = {name: sparse[name].measured(meter) for name, meter in self._meters.items()}
        self._meters = {}
        parameters, images = self._parameters({**sparse, **measured}), self._normalized(pictures)
        with _computing():
            totals = self._computation.forward_backward(self._task.model, parameters, images, labels)
        self._totals += totals

    def _parameters(self, sparse: Mapping[str, WeightView]) -> dict[str, Any]:
        return {**sparse, **self._dense.tensors, **self._running.tensors}

    def _normalized(self, pictures: NDArray[np.uint8]) -> NDArray[Any]:
        return normalized(self._memory, pictures, self._task.images)


@contextmanager
def _computing() -> Iterator[None]:
    # a loss that is not finite is in the totals, for the training loop to see; NumPy's warnings would say it again
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        yield


def _named(sparse: ParameterVectors, dense: ParameterVectors, running: NDArray[Any]) -> dict[str, NDArray[Any]]:
    dense_buffers = {f"dense_{name}": buffer for name, buffer in dense.buffers.items()}
    return {"values": sparse.values, **sparse.buffers, "dense": dense.values, **dense_buffers, "running": running}
