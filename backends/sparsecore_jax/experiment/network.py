"""A network in training as pure functions: from the buffers before a step to those after it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import jax
import jax.numpy as jnp
from jax import lax

from sparsecore.engine.topology import Layout
from sparsecore.learning.protocols import Model, Task
from sparsecore_jax.experiment.operations import JaxOperations, JaxParameter
from sparsecore_jax.experiment.optimizers import Rule, corrections

Buffers: TypeAlias = dict[str, Any]
"""All that changes in training, by name, in the names of the host backends' saved states.

``values``, ``dense`` and ``running`` are the N sparse values, all other trained parameters end to end, and all running
statistics end to end. The optimizer's state of the first two has their sizes, that of ``dense`` the prefix ``dense_``.
``totals`` are the sums of losses, correct predictions and examples, float64, and ``young`` the marks of young weights.
"""


@attrs.frozen(eq=False)
class Examples:
    """The images and labels of a batch, on the devices.

    Attributes:
        images: uint8, (batch, height, width, channels).
        labels: int32, (batch,); -1 where there is no image, in evaluation.
        moments: mean and standard deviation of each channel, (2, channels).
    """

    images: Any
    labels: Any
    moments: Any


@attrs.frozen(eq=False)
class Gradients:
    """The gradients of a batch's mean loss.

    Attributes:
        values: of the N sparse values.
        dense: of the other trained parameters, end to end.
        tensors: of all positions of each sparse tensor, flat, in the order of the layout; empty if not asked for.
        squares: the sums of the squares of the inputs of layers, by the name of the weight; empty if not asked for.
    """

    values: Any
    dense: Any
    tensors: tuple[Any, ...]
    squares: dict[str, Any]


for _type in (Examples, Gradients):
    _fields = [field.name for field in attrs.fields(_type)]
    jax.tree_util.register_dataclass(_type, data_fields=_fields, meta_fields=[])


@attrs.frozen
class JaxNetwork:
    """What stays the same while a network learns; equal for networks that compute the same.

    Attributes:
        model: the network as a function.
        layout: the sparse tensors.
        trained: the names and shapes of the other trained parameters.
        statistics: the names and shapes of the running statistics.
        rule: how the optimizer's steps are computed.
        dtype: of parameters and optimizer state.
        activation_dtype: of activations.
    """

    model: Model
    layout: Layout
    trained: tuple[tuple[str, tuple[int, ...]], ...]
    statistics: tuple[tuple[str, tuple[int, ...]], ...]
    rule: Rule
    dtype: str
    activation_dtype: str

    @classmethod
    def of(cls, task: Task, rule: Rule, dtype: str, activation_dtype: str) -> "JaxNetwork":
        """Return the network of a task.

        Args:
            task: what is learned.
            rule: of its optimizer.
            dtype: of parameters and optimizer state.
            activation_dtype: of activations.
        """
        others = [parameter for parameter in task.parameters if not parameter.sparse]
        trained, statistics = (
            tuple((one.name, one.shape) for one in others if one.trained is is_trained) for is_trained in (True, False)
        )
        return cls(task.model, task.topology.layout, trained, statistics, rule, dtype, activation_dtype)

    def gradients(
        self, buffers: Buffers, positions: Any, examples: Examples, *, dense: bool = False, measured: bool = False
    ) -> tuple[Buffers, Gradients]:
        """Return the gradients of a batch, and the buffers with the running statistics and totals after it.

        Args:
            buffers: before the batch.
            positions: of the N sparse values, ascending.
            examples: the batch.
            dense: whether gradients of all positions are returned, too.
            measured: whether the inputs of layers are measured.
        """

        def loss(tensors: Sequence[Any], others: Any) -> tuple[Any, tuple[Any, ...]]:
            operations = JaxOperations(training=True, squares={} if measured else None)
            logits = self._logits(operations, tensors, others, buffers["running"], examples)
            losses = cross_entropy(logits, examples.labels)
            running = self._end_to_end(self.statistics, buffers["running"], operations.moved)
            return losses.mean(), (running, batch_totals(losses, logits, examples.labels), operations.squares or {})

        tensors = scattered(buffers["values"], positions, self.layout)
        by, aside = jax.grad(loss, (0, 1), has_aux=True)(tensors, buffers["dense"])
        (by_tensors, by_dense), (running, totals, squares) = by, aside
        by_values = gathered(by_tensors, positions)
        moved = {**buffers, "running": running, "totals": buffers["totals"] + totals}
        return moved, Gradients(by_values, by_dense, tuple(by_tensors) if dense else (), squares)

    def optimizer_step(
        self, buffers: Buffers, gradients: Gradients, numbers: Mapping[str, Any], young: tuple[Any, ...] | None
    ) -> Buffers:
        """Return the buffers after an optimizer step.

        Args:
            buffers: before it.
            gradients: of the values and the other trained parameters.
            numbers: of the step, float64.
            young: the arguments of :func:`sparsecore_jax.experiment.optimizers.corrections`; None where young weights
                take the optimizer's own steps.
        """
        own = {name: number.astype(self.dtype) for name, number in numbers.items()}
        after, corrected = dict(buffers), None
        if young is not None:
            corrected, after["young"] = corrections(buffers["young"], own, young)
        for name, prefix, gradient, each in (
            ("values", "", gradients.values, corrected),
            ("dense", "dense_", gradients.dense, None),
        ):
            state = {kept: buffers[prefix + kept] for kept in self.rule.state}
            after[name], state = self.rule.step(own, buffers[name], gradient, state, each)
            after |= {prefix + kept: vector for kept, vector in state.items()}
        return after

    def step(
        self,
        buffers: Buffers,
        positions: Any,
        examples: Examples,
        numbers: Mapping[str, Any],
        young: tuple[Any, ...] | None,
    ) -> Buffers:
        """Return the buffers after a whole training step: :meth:`gradients` and :meth:`optimizer_step`."""
        moved, gradients = self.gradients(buffers, positions, examples)
        return self.optimizer_step(moved, gradients, numbers, young)

    def evaluation(self, buffers: Buffers, positions: Any, examples: Examples, totals: Any) -> Any:
        """Return totals to which those of a batch are added, by the running statistics.

        Args:
            buffers: of the network; those of the optimizer are not read.
            positions: of the N sparse values, ascending.
            examples: the batch.
            totals: float64, (3,).
        """
        tensors = scattered(buffers["values"], positions, self.layout)
        operations = JaxOperations(training=False)
        logits = self._logits(operations, tensors, buffers["dense"], buffers["running"], examples)
        return totals + batch_totals(cross_entropy(logits, examples.labels), logits, examples.labels)

    def _logits(
        self, operations: JaxOperations, tensors: Sequence[Any], dense: Any, running: Any, examples: Examples
    ) -> Any:
        layout = self.layout
        shaped = {
            name: tensor.reshape(shape)
            for name, shape, tensor in zip(layout.names, layout.shapes, tensors, strict=True)
        }
        others = {**_parts(self.trained, dense), **_parts(self.statistics, running)}
        parameters = {name: JaxParameter(name, tensor) for name, tensor in {**shaped, **others}.items()}
        mean, deviation = examples.moments.astype(self.dtype)
        images = ((examples.images.astype(self.dtype) - mean) / deviation).astype(self.activation_dtype)
        return self.model.forward(operations, parameters, images).astype(self.dtype)

    def _end_to_end(self, named: Sequence[tuple[str, tuple[int, ...]]], before: Any, moved: Mapping[str, Any]) -> Any:
        """Return a vector with some of its parts replaced."""
        parts = {**_parts(named, before), **moved}
        return jnp.concatenate([before[:0], *(parts[name].reshape(-1) for name, _ in named)])


_ASCENDING = {"indices_are_sorted": True, "unique_indices": True, "mode": "promise_in_bounds"}


def scattered(values: Any, positions: Any, layout: Layout) -> list[Any]:
    """Return the sparse tensors, dense and flat, with zeros at inactive positions.

    Args:
        values: (N,).
        positions: of the values, ascending, (N,).
        layout: the tensors.
    """
    # one scatter for all tensors: the number of weights of each changes with every reallocation, N does not
    whole = jnp.zeros(layout.size, values.dtype).at[positions].set(values, **_ASCENDING)
    return list(lax.split(whole, layout.sizes))


def gathered(tensors: Sequence[Any], positions: Any) -> Any:
    """Return the entries of flat tensors at positions in their layout, (N,).

    Args:
        tensors: dense, in the order of the layout.
        positions: ascending, (N,).
    """
    return jnp.concatenate(tensors).at[positions].get(**_ASCENDING)


def _parts(named: Sequence[tuple[str, tuple[int, ...]]], vector: Any) -> dict[str, Any]:
    """Return the tensors that lie end to end in a vector, by name."""
    if not named:
        return {}
    parts = lax.split(vector, [math.prod(shape) for _, shape in named])
    return {name: part.reshape(shape) for (name, shape), part in zip(named, parts, strict=True)}


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Return the cross-entropy of each example in nats, (batch,).

    Args:
        logits: (batch, classes).
        labels: (batch,), 0 to classes - 1; any other gives an arbitrary number.
    """
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1, mode="clip")[:, 0]


def batch_totals(losses: Any, logits: Any, labels: Any) -> Any:
    """Return the sums of losses, correct predictions and examples over a batch, float64, (3,).

    Args:
        losses: (batch,).
        logits: (batch, classes).
        labels: (batch,); -1 where there is no example.
    """
    counts = labels >= 0
    loss = jnp.where(counts, losses, 0).sum(dtype=jnp.float64)
    correct = (logits.argmax(1) == labels).sum(dtype=jnp.float64)
    return jnp.stack([loss, correct, counts.sum(dtype=jnp.float64)])
