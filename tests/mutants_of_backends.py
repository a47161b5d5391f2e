"""Plausible defects of the NumPy backend, each with the promise that it breaks."""

from typing import Any

import attrs
import numpy as np
from defective_backends import Defects, Wrapper

from sparsecore.engine.young_weights import YoungWeights
from sparsecore.learning.parameters import hash_slots
from sparsecore.learning.protocols import Sgd, Totals
from sparsecore_numpy import NumpyBackend
from sparsecore_numpy.operations import Tensor

DEFECTS = Defects(NumpyBackend)
MUTANTS = DEFECTS.mutants
array_operation, training, operations = DEFECTS.array_operation, DEFECTS.training, DEFECTS.operations


def optimizer(description: str, change: Any) -> None:
    DEFECTS.task(description, "optimizers", lambda task: attrs.evolve(task, optimizer=change(task.optimizer)))


# array operations


@array_operation("argsort keeps no order among equals", "argsort")
class UnstableSort(Wrapper):
    def argsort(self, array):
        return len(array) - 1 - np.argsort(array[::-1], kind="stable")


@array_operation("smallest_indices takes the last of equal entries", "smallest-indices")
class LastOfEquals(Wrapper):
    def smallest_indices(self, array, count):
        last_first = len(array) - 1 - np.argsort(array[::-1], kind="stable")
        return np.sort(last_first[:count])


@array_operation("smallest_indices returns the smallest first", "smallest-indices")
class SmallestFirst(Wrapper):
    def smallest_indices(self, array, count):
        return np.argsort(array, kind="stable")[:count]


@array_operation("smallest_indices takes NaN for the smallest", "smallest-indices")
class NanFirst(Wrapper):
    def smallest_indices(self, array, count):
        return np.sort(np.lexsort((array, array == array))[:count])  # noqa: PLR0124


@array_operation("smallest_indices takes all that equal the last one", "smallest-indices")
class AllEquals(Wrapper):
    def smallest_indices(self, array, count):
        order = np.argsort(array, kind="stable")
        return np.flatnonzero(array <= array[order[count - 1]]) if count else order[:0]


@array_operation("sort is descending", "sort")
class Descending(Wrapper):
    def sort(self, array):
        return np.sort(array)[::-1].copy()


@array_operation("searchsorted ignores the side", "searchsorted")
class OneSide(Wrapper):
    def searchsorted(self, sorted_array, queries, side):  # noqa: ARG002
        return np.searchsorted(sorted_array, queries, "left")


@array_operation("put writes in place", "put")
class PutsInPlace(Wrapper):
    def put(self, array, indices, entries):
        array[indices] = entries
        return array


@array_operation("nonzero is off by one", "nonzero")
class OffByOne(Wrapper):
    def nonzero(self, mask):
        return np.flatnonzero(mask) + 1


@array_operation("where chooses the opposite entries", "where")
class OtherWay(Wrapper):
    def where(self, condition, yes, no):
        return np.where(condition, no, yes)


@array_operation("zeros_like is always float32", "zeros-like")
class FloatZeros(Wrapper):
    def zeros_like(self, array, count):  # noqa: ARG002
        return np.zeros(count, np.float32)


@array_operation("all_finite detects NaN only", "all-finite")
class OnlyNan(Wrapper):
    def all_finite(self, array):
        return not bool(np.isnan(array).any())


@array_operation("from_numpy makes everything float32", "to-and-from-numpy")
class AllFloat(Wrapper):
    def from_numpy(self, array):
        return array.astype(np.float32)


@array_operation("denormal numbers are flushed to zero", "to-and-from-numpy")
class Flushed(Wrapper):
    def from_numpy(self, array):
        return np.where(abs(array) < np.finfo(np.float32).tiny, 0, array).astype(array.dtype)


@array_operation("take is modulo the length", "take")
class Modulo(Wrapper):
    def take(self, array, indices):
        return array[(indices + 1) % max(len(array), 1)]


# operations


def rectified(self: Any, x: Any, gradient: Any) -> Any:
    output = Tensor(np.maximum(x.data, 0))
    self.inner._recorded(output, lambda g: self.inner._give(x, gradient(g, x.data)))
    return output


@operations("relu passes every gradient on", "gradient-relu")
class LeakyGradient(Wrapper):
    def relu(self, x):
        return rectified(self, x, lambda g, _: g)


@operations("relu's gradient is scaled by its input", "gradient-relu")
class ScaledGradient(Wrapper):
    def relu(self, x):
        return rectified(self, x, lambda g, data: g * np.maximum(data, 0))


@operations("add passes its gradient to the first argument only", "gradient-add")
class OneSided(Wrapper):
    def add(self, x, y):
        output = Tensor(x.data + y.data)
        self.inner._recorded(output, lambda g: self.inner._give(x, g))
        return output


@operations("convolution ignores its stride", "gradient-conv2d")
class NoStride(Wrapper):
    def conv2d(self, x, weight, *, stride=1, padding=0):  # noqa: ARG002
        return self.inner.conv2d(x, weight, padding=padding)


@operations("convolution always pads by one", "gradient-conv2d")
class Padded(Wrapper):
    def conv2d(self, x, weight, *, stride=1, padding=0):  # noqa: ARG002
        return self.inner.conv2d(x, weight, stride=stride, padding=1)


@operations("linear ignores the bias", "gradient-linear")
class NoBias(Wrapper):
    def linear(self, x, weight, bias=None):  # noqa: ARG002
        return self.inner.linear(x, weight)


@operations("pooling computes the sum instead of the mean", "gradient-global-average-pool")
class Summed(Wrapper):
    def global_average_pool(self, x):
        output = Tensor(x.data.sum(axis=(1, 2)))
        self.inner._recorded(output, lambda g: self.inner._give(x, np.zeros_like(x.data) + g[:, None, None]))
        return output


@operations("flatten orders channels first", "gradient-flatten")
class ChannelsFirst(Wrapper):
    def flatten(self, x):
        moved = np.ascontiguousarray(x.data.transpose(0, 3, 1, 2))
        output = Tensor(moved.reshape(len(moved), -1), x.differentiable)
        back = lambda g: self.inner._give(x, g.reshape(moved.shape).transpose(0, 2, 3, 1))  # noqa: E731
        self.inner._recorded(output, back)
        return output


@operations("batch norm swaps scale and shift", "gradient-batch-norm")
class Swapped(Wrapper):
    def batch_norm(self, x, scale, shift, mean, variance):
        return self.inner.batch_norm(x, shift, scale, mean, variance)


@operations("all tied weights use the same hash", "gradient-tied")
class SameTies(Wrapper):
    def tied(self, values, shape, key):  # noqa: ARG002
        return self.inner.tied(values, shape, 0)


@operations("a value of a tied weight has the gradient of one of its entries only", "gradient-tied")
class OneEntry(Wrapper):
    def tied(self, values, shape, key):
        class Tied(Wrapper):
            def add_dense_gradient(self, dense, order=None):
                rows = (order or self.inner.row_major).undo(dense, shape).reshape(-1)
                slots, signs = hash_slots(np.arange(rows.size), values.shape[0], key)
                total = np.zeros(values.shape)
                total[slots] = rows * signs
                values.add_dense_gradient(total)

        return Tied(self.inner.tied(values, shape, key))


@operations("a tied weight ignores the signs", "gradient-tied")
class Unsigned(Wrapper):
    def tied(self, values, shape, key):
        class Tied(Wrapper):
            def to_dense(self, pool, order):
                slots, _ = hash_slots(np.arange(np.prod(shape)), values.shape[0], key)
                return np.ravel(order.apply(values.to_array()[slots].reshape(shape))).astype(pool.dtype)

        return Tied(self.inner.tied(values, shape, key))


# training steps


@training("the dense gradient is zero at inactive positions", "dense-gradients")
class OnlyActive(Wrapper):
    def backward(self, batch, *, dense=False):
        gradient = self.inner.backward(batch, dense=dense)
        tensors = self.inner._sparse.tensors
        return gradient and (
            lambda name: np.where(np.isin(np.arange(len(gradient(name))), tensors[name].positions), gradient(name), 0)
        )


@training("no step can be taken after dense gradients", "dense-gradients")
class LosesGradients(Wrapper):
    def backward(self, batch, *, dense=False):
        gradient = self.inner.backward(batch, dense=dense)
        for vectors in self.inner._vectors if dense else ():
            vectors.gradient.fill(0)
        return gradient


@training("the gradients at candidates are in the reverse order", "fewer-gradients")
class Reversed(Wrapper):
    def backward_at(self, batch, candidates):
        return self.inner.backward_at(batch, candidates)[::-1]


@training("grown weights start with zero momentum whatever the strategies chose", "momentum")
class ForgetsChosenMomentum(Wrapper):
    def reallocate(self, reallocation):
        self.inner.reallocate(attrs.evolve(reallocation, momentum=None))


@training("momentum returns the gradient's sign", "momentum")
class SignOfMomentum(Wrapper):
    def momentum(self, name):
        return np.sign(self.inner.momentum(name))


@training("the norms of inputs are means over examples", "input-norms")
class MeanNorms(Wrapper):
    def measure_inputs(self):
        norms = self.inner.measure_inputs()
        return lambda name: norms(name) / 8**0.5


@training("a reallocation does not carry the momentum", "reallocation")
class ForgottenCarry(Wrapper):
    def reallocate(self, reallocation):
        self.inner.reallocate(reallocation)
        state = self.inner.state()
        self.inner.load_state(reallocation.after, {**state, "momentum": np.zeros_like(state["momentum"])})


@training("a reallocation leaves the momentum in its slots", "reallocation")
class StaysInSlots(Wrapper):
    def reallocate(self, reallocation):
        before = self.inner.state()["momentum"]
        self.inner.reallocate(reallocation)
        self.inner.load_state(reallocation.after, {**self.inner.state(), "momentum": before})


@training("grown weights keep the momentum of pruned ones", "reallocation")
class OldMomentum(Wrapper):
    def reallocate(self, reallocation):
        before = self.inner.state()["momentum"]
        self.inner.reallocate(reallocation)
        state = self.inner.state()
        slots = np.asarray(reallocation.grown_slots)
        state["momentum"][slots] = before[: len(slots)]
        self.inner.load_state(reallocation.after, state)


DEFECTS.task(
    "young weights take the optimizer's own steps",
    "young-weights",
    lambda task: attrs.evolve(task, young=YoungWeights()),
)


@training("grown weights lose their ages when a state is loaded", "young-weights")
class LosesAges(Wrapper):
    def load_state(self, topology, state):
        young = {"young": np.zeros_like(state["young"])} if "young" in state else {}
        self.inner.load_state(topology, {**state, **young})


@training("setting values resets the momentum", "set-values")
class SetsAnew(Wrapper):
    def set_values(self, values):
        state = self.inner.state()
        self.inner.set_values(values)
        now = {**self.inner.state(), "momentum": np.zeros_like(state["momentum"])}
        self.inner.load_state(self.inner._sparse.topology, now)


@training("a gradient that is set is added to the one before", "weight-gradient")
class AddsGradients(Wrapper):
    def set_weight_gradient(self, weight_gradient):
        self.inner.set_weight_gradient(self.inner.weight_gradient + weight_gradient)


optimizer("weight decay is ignored", lambda rule: attrs.evolve(rule, weight_decay=0.0))
optimizer(
    "Nesterov momentum is computed as plain momentum",
    lambda rule: attrs.evolve(rule, nesterov=False) if type(rule) is Sgd else rule,
)


@training("the learning rate is halved", "optimizers")
class Halved(Wrapper):
    def train(self, batch, learning_rate):
        self.inner.train(batch, learning_rate if learning_rate == 1 else learning_rate / 2)


@training("the sign of the gradient is flipped", "learns")
class Ascends(Wrapper):
    def train(self, batch, learning_rate):
        self.inner.train(batch, -learning_rate)


# learning


@training("the totals are those of the last batch only", "totals")
class LastBatch(Wrapper):
    def train(self, batch, learning_rate):
        self.inner.reset_totals()
        self.inner.train(batch, learning_rate)


@training("evaluation normalizes by the split's own statistics", "evaluation")
class BySplit(Wrapper):
    def evaluate(self, split):
        from sparsecore_numpy import normalization

        before, normalization.running = normalization.running, normalization.of_batch
        kept = self.inner.state()
        try:
            return self.inner.evaluate(split)
        finally:
            normalization.running = before
            self.inner.load_state(self.inner._sparse.topology, kept)


@training("training changes what was saved, because it was not copied", "resume")
class NotCopied(Wrapper):
    def state(self):
        return {**self.inner.state(), **self.inner._buffers()}


@training("the momentum is not saved", "resume")
class MomentumNotSaved(Wrapper):
    def load_state(self, topology, state):
        self.inner.load_state(topology, {**state, "momentum": np.zeros_like(state["momentum"])})


@training("other_parameters returns the initial running statistics", "dense")
class OldStatistics(Wrapper):
    def other_parameters(self):
        task = self.inner._task
        return {
            **self.inner.other_parameters(),
            **{p.name: task.other_parameters[p.name] for p in task.parameters if not p.trained},
        }


@training("other_parameters returns the initial dense parameters", "dense")
class OldParameters(Wrapper):
    def other_parameters(self):
        task = self.inner._task
        return {
            **self.inner.other_parameters(),
            **{p.name: task.other_parameters[p.name] for p in task.parameters if p.name == "last"},
        }


@training("crops and mirrors are ignored", "agreement")
class Unvaried(Wrapper):
    def train(self, batch, learning_rate):
        plain = attrs.evolve(batch, shifts=np.zeros_like(batch.shifts), flips=np.zeros_like(batch.flips), padding=0)
        self.inner.train(plain, learning_rate)


@training("half of the examples are counted", "totals")
class HalfCounted(Wrapper):
    def totals(self):
        sums = self.inner.totals()
        return Totals(sums.loss, sums.correct // 2, sums.examples)
