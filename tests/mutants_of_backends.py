"""Plausible defects of a backend, each with the promise it breaks. All are made of the NumPy backend."""

from typing import Any

import attrs
import numpy as np

from sparsecore.learning.parameters import hash_slots
from sparsecore.learning.protocols import Sgd, Totals
from sparsecore_numpy import NumpyBackend
from sparsecore_numpy.operations import Tensor

MUTANTS: dict[str, tuple[type, str]] = {}
"""Class and broken promise of each defect, by what is wrong."""


class Over:
    """What is asked of it, unless a subclass knows better."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@attrs.frozen(eq=False)
class Broken:
    """The NumPy backend with another set of verbs, or another learner."""

    dtype: str = "float32"
    verbs: Any = lambda arrays: arrays
    training: Any = lambda learner: learner
    task: Any = lambda task: task

    @property
    def arrays(self) -> Any:
        return self.verbs(NumpyBackend().arrays)

    def learner(self, task: Any) -> Any:
        return self.training(NumpyBackend(self.dtype).learner(self.task(task)))


def verbs(what: str, breaks: str) -> Any:
    def noted(cls: type) -> type:
        MUTANTS[what] = (lambda: Broken(verbs=cls), breaks)
        return cls

    return noted


def training(what: str, breaks: str) -> Any:
    def noted(cls: type) -> type:
        MUTANTS[what] = (lambda: Broken(training=cls), breaks)
        return cls

    return noted


def operations(what: str, breaks: str) -> Any:
    def noted(cls: type) -> type:
        class Model(Over):
            def forward(self, ops: Any, parameters: Any, images: Any) -> Any:
                return self.inner.forward(cls(ops), parameters, images)

        MUTANTS[what] = (lambda: Broken(task=lambda task: attrs.evolve(task, model=Model(task.model))), breaks)
        return cls

    return noted


def optimizer(what: str, change: Any) -> None:
    MUTANTS[what] = (
        lambda: Broken(task=lambda task: attrs.evolve(task, optimizer=change(task.optimizer))),
        "optimizers",
    )


# verbs


@verbs("argsort keeps no order among equals", "argsort")
class UnstableSort(Over):
    def argsort(self, array):
        return len(array) - 1 - np.argsort(array[::-1], kind="stable")


@verbs("sort is descending", "sort")
class Descending(Over):
    def sort(self, array):
        return np.sort(array)[::-1].copy()


@verbs("searchsorted forgets the side", "searchsorted")
class OneSide(Over):
    def searchsorted(self, sorted_array, queries, side):  # noqa: ARG002
        return np.searchsorted(sorted_array, queries, "left")


@verbs("put writes in place", "put")
class PutsInPlace(Over):
    def put(self, array, indices, entries):
        array[indices] = entries
        return array


@verbs("nonzero is off by one", "nonzero")
class OffByOne(Over):
    def nonzero(self, mask):
        return np.flatnonzero(mask) + 1


@verbs("where is the other way round", "where")
class OtherWay(Over):
    def where(self, condition, yes, no):
        return np.where(condition, no, yes)


@verbs("zeros_like is always float32", "zeros-like")
class FloatZeros(Over):
    def zeros_like(self, array, count):  # noqa: ARG002
        return np.zeros(count, np.float32)


@verbs("all_finite looks for NaN only", "all-finite")
class OnlyNan(Over):
    def all_finite(self, array):
        return not bool(np.isnan(array).any())


@verbs("from_numpy makes everything float32", "to-and-from-numpy")
class AllFloat(Over):
    def from_numpy(self, array):
        return array.astype(np.float32)


@verbs("numbers that are denormal are flushed to zero", "to-and-from-numpy")
class Flushed(Over):
    def from_numpy(self, array):
        return np.where(abs(array) < np.finfo(np.float32).tiny, 0, array).astype(array.dtype)


@verbs("take is modulo the length", "take")
class Modulo(Over):
    def take(self, array, indices):
        return array[(indices + 1) % max(len(array), 1)]


# operations


def rectified(self: Any, x: Any, gradient: Any) -> Any:
    output = Tensor(np.maximum(x.data, 0))
    self.inner._recorded(output, lambda g: self.inner._give(x, gradient(g, x.data)))
    return output


@operations("relu lets every gradient through", "gradient-relu")
class LeakyGradient(Over):
    def relu(self, x):
        return rectified(self, x, lambda g, _: g)


@operations("relu's gradient is scaled by its input", "gradient-relu")
class ScaledGradient(Over):
    def relu(self, x):
        return rectified(self, x, lambda g, data: g * np.maximum(data, 0))


@operations("add gives its gradient to the first only", "gradient-add")
class OneSided(Over):
    def add(self, x, y):
        output = Tensor(x.data + y.data)
        self.inner._recorded(output, lambda g: self.inner._give(x, g))
        return output


@operations("convolution forgets its stride", "gradient-conv2d")
class NoStride(Over):
    def conv2d(self, x, weight, *, stride=1, padding=0):  # noqa: ARG002
        return self.inner.conv2d(x, weight, padding=padding)


@operations("convolution pads by one, whatever it is told", "gradient-conv2d")
class Padded(Over):
    def conv2d(self, x, weight, *, stride=1, padding=0):  # noqa: ARG002
        return self.inner.conv2d(x, weight, stride=stride, padding=1)


@operations("linear forgets the bias", "gradient-linear")
class NoBias(Over):
    def linear(self, x, weight, bias=None):  # noqa: ARG002
        return self.inner.linear(x, weight)


@operations("pooling takes the sum instead of the mean", "gradient-global-average-pool")
class Summed(Over):
    def global_average_pool(self, x):
        output = Tensor(x.data.sum(axis=(1, 2)))
        self.inner._recorded(output, lambda g: self.inner._give(x, np.zeros_like(x.data) + g[:, None, None]))
        return output


@operations("flatten orders channels first", "gradient-flatten")
class ChannelsFirst(Over):
    def flatten(self, x):
        moved = np.ascontiguousarray(x.data.transpose(0, 3, 1, 2))
        output = Tensor(moved.reshape(len(moved), -1), x.differentiable)
        back = lambda g: self.inner._give(x, g.reshape(moved.shape).transpose(0, 2, 3, 1))  # noqa: E731
        self.inner._recorded(output, back)
        return output


@operations("batch norm takes the scale for the shift", "gradient-batch-norm")
class Swapped(Over):
    def batch_norm(self, x, scale, shift, mean, variance):
        return self.inner.batch_norm(x, shift, scale, mean, variance)


@operations("every tied weight is tied by the same hash", "gradient-tied")
class SameTies(Over):
    def tied(self, values, shape, key):  # noqa: ARG002
        return self.inner.tied(values, shape, 0)


@operations("a value of a tied weight has the gradient of one of its entries only", "gradient-tied")
class OneEntry(Over):
    def tied(self, values, shape, key):
        class Tied(Over):
            def add_dense_gradient(self, dense, order=None):
                rows = (order or self.inner.row_major).undo(dense, shape).reshape(-1)
                slots, signs = hash_slots(np.arange(rows.size), values.shape[0], key)
                total = np.zeros(values.shape)
                total[slots] = rows * signs
                values.add_dense_gradient(total)

        return Tied(self.inner.tied(values, shape, key))


@operations("a tied weight forgets the signs", "gradient-tied")
class Unsigned(Over):
    def tied(self, values, shape, key):
        class Tied(Over):
            def to_dense(self, pool, order):
                slots, _ = hash_slots(np.arange(np.prod(shape)), values.shape[0], key)
                return np.ravel(order.apply(values.to_array()[slots].reshape(shape))).astype(pool.dtype)

        return Tied(self.inner.tied(values, shape, key))


# training steps


@training("the dense gradient is zero where no weight is", "dense-gradients")
class OnlyActive(Over):
    def backward(self, batch, *, dense=False):
        gradient = self.inner.backward(batch, dense=dense)
        tensors = self.inner._sparse.tensors
        return gradient and (
            lambda name: np.where(np.isin(np.arange(len(gradient(name))), tensors[name].positions), gradient(name), 0)
        )


@training("no step can be taken after dense gradients", "dense-gradients")
class LosesGradients(Over):
    def backward(self, batch, *, dense=False):
        gradient = self.inner.backward(batch, dense=dense)
        for vectors in self.inner._vectors if dense else ():
            vectors.gradient.fill(0)
        return gradient


@training("momentum is not carried when weights move", "reallocation")
class ForgottenCarry(Over):
    def reallocate(self, reallocation):
        self.inner.reallocate(reallocation)
        state = self.inner.state()
        self.inner.load_state(reallocation.after, {**state, "momentum": np.zeros_like(state["momentum"])})


@training("momentum stays in its slots when weights move", "reallocation")
class StaysInSlots(Over):
    def reallocate(self, reallocation):
        before = self.inner.state()["momentum"]
        self.inner.reallocate(reallocation)
        self.inner.load_state(reallocation.after, {**self.inner.state(), "momentum": before})


@training("grown weights keep the momentum of what was pruned in their place", "reallocation")
class OldMomentum(Over):
    def reallocate(self, reallocation):
        before = self.inner.state()["momentum"]
        self.inner.reallocate(reallocation)
        state = self.inner.state()
        slots = np.asarray(reallocation.grown_slots)
        state["momentum"][slots] = before[: len(slots)]
        self.inner.load_state(reallocation.after, state)


@training("setting values forgets the momentum", "set-values")
class SetsAnew(Over):
    def set_values(self, values):
        state = self.inner.state()
        self.inner.set_values(values)
        now = {**self.inner.state(), "momentum": np.zeros_like(state["momentum"])}
        self.inner.load_state(self.inner._sparse.topology, now)


optimizer("weight decay is forgotten", lambda rule: attrs.evolve(rule, weight_decay=0.0))
optimizer(
    "Nesterov's step is the plain one", lambda rule: attrs.evolve(rule, nesterov=False) if type(rule) is Sgd else rule
)


@training("the learning rate is halved", "optimizers")
class Halved(Over):
    def train(self, batch, learning_rate):
        self.inner.train(batch, learning_rate if learning_rate == 1 else learning_rate / 2)


@training("the sign of the gradient is flipped", "learns")
class Ascends(Over):
    def train(self, batch, learning_rate):
        self.inner.train(batch, -learning_rate)


# learning


@training("the sums are those of the last batch only", "totals")
class LastBatch(Over):
    def train(self, batch, learning_rate):
        self.inner.reset_totals()
        self.inner.train(batch, learning_rate)


@training("evaluation normalizes by the split's own statistics", "evaluation")
class BySplit(Over):
    def evaluate(self, split):
        from sparsecore_numpy import normalization

        before, normalization.running = normalization.running, normalization.of_batch
        kept = self.inner.state()
        try:
            return self.inner.evaluate(split)
        finally:
            normalization.running = before
            self.inner.load_state(self.inner._sparse.topology, kept)


@training("what is saved changes with training: it was not copied", "resume")
class NotCopied(Over):
    def state(self):
        return {**self.inner.state(), **self.inner._buffers()}


@training("the momentum is not saved", "resume")
class MomentumNotSaved(Over):
    def load_state(self, topology, state):
        self.inner.load_state(topology, {**state, "momentum": np.zeros_like(state["momentum"])})


@training("the running statistics that are told are those of the start", "dense")
class OldStatistics(Over):
    def other_parameters(self):
        task = self.inner._task
        return {
            **self.inner.other_parameters(),
            **{p.name: task.other_parameters[p.name] for p in task.parameters if not p.trained},
        }


@training("the dense parameters that are told are those of the start", "dense")
class OldParameters(Over):
    def other_parameters(self):
        task = self.inner._task
        return {
            **self.inner.other_parameters(),
            **{p.name: task.other_parameters[p.name] for p in task.parameters if p.name == "last"},
        }


@training("crops and mirrors are ignored", "agreement")
class Unvaried(Over):
    def train(self, batch, learning_rate):
        plain = attrs.evolve(batch, shifts=np.zeros_like(batch.shifts), flips=np.zeros_like(batch.flips), padding=0)
        self.inner.train(plain, learning_rate)


@training("half of the examples are counted", "totals")
class HalfCounted(Over):
    def totals(self):
        sums = self.inner.totals()
        return Totals(sums.loss, sums.correct // 2, sums.examples)
