"""Plausible defects of the JAX backend, each with the promise that it breaks.

They are of what is easily wrong where arrays cannot change and steps are compiled. Defects that any backend may have
are in ``mutants_of_backends.py``.
"""

from typing import Any, ClassVar

import attrs
import jax
import jax.numpy as jnp
from jax import lax
from mutants_of_backends import Wrapper

from sparsecore.learning.operations import EPSILON
from sparsecore_jax import JaxArray, JaxArrays, JaxBackend

MUTANTS: dict[str, tuple[Any, str]] = {}
"""A function that makes the backend of each defect and the promise that it breaks, by a description of the defect."""


@attrs.frozen(eq=False)
class DefectiveJaxBackend:
    """The JAX backend with other array operations, another learner or another task."""

    dtype: str = "float32"
    wrap_arrays: Any = lambda arrays: arrays
    wrap_learner: Any = lambda learner: learner
    change_task: Any = lambda task: task
    corrects_young_weights: ClassVar[bool] = True

    @property
    def arrays(self) -> Any:
        return self.wrap_arrays(JaxArrays())

    def learner(self, task: Any) -> Any:
        return self.wrap_learner(JaxBackend(dtype=self.dtype, device="cpu").learner(self.change_task(task)))


def array_operation(description: str, promise: str) -> Any:
    def register(cls: type) -> type:
        MUTANTS[description] = (lambda: DefectiveJaxBackend(wrap_arrays=cls), promise)
        return cls

    return register


def training(description: str, promise: str) -> Any:
    def register(cls: type) -> type:
        MUTANTS[description] = (lambda: DefectiveJaxBackend(wrap_learner=cls), promise)
        return cls

    return register


def operations(description: str, promise: str) -> Any:
    def register(cls: type) -> type:
        @attrs.frozen
        class Model:
            inner: Any

            def forward(self, ops: Any, parameters: Any, images: Any) -> Any:
                return self.inner.forward(cls(ops), parameters, images)

        MUTANTS[description] = (
            lambda: DefectiveJaxBackend(change_task=lambda task: attrs.evolve(task, model=Model(task.model))),
            promise,
        )
        return cls

    return register


# array operations


@array_operation("JAX makes 32 bits of 64", "to-and-from-numpy")
class Truncated(Wrapper):
    def from_numpy(self, array):
        return JaxArray(jnp.asarray(array))


@array_operation("operators are JAX's own, for which denormal numbers are zero", "operators")
class OwnOperators(Wrapper):
    def from_numpy(self, array):
        with jax.enable_x64(True):
            return jnp.asarray(array)


@array_operation("argsort is JAX's own, for which denormal numbers are equal", "argsort")
class OwnSort(Wrapper):
    def argsort(self, array):
        return JaxArray(jnp.argsort(array.on_device(), stable=True))


@array_operation("searchsorted is JAX's own, for which denormal numbers are equal", "searchsorted")
class OwnSearch(Wrapper):
    def searchsorted(self, sorted_array, queries, side):
        return JaxArray(jnp.searchsorted(sorted_array.on_device(), queries.on_device(), side))


# operations


@operations("the moments of a batch are constants in the gradient of batch norm", "gradient-batch-norm")
class ConstantMoments(Wrapper):
    def batch_norm(self, x, scale, shift, mean, variance):
        if not self.inner.training:
            return self.inner.batch_norm(x, scale, shift, mean, variance)
        centre, spread = map(lax.stop_gradient, self.inner._moments(x, mean, variance))
        return (x - centre) * scale.tensor * lax.rsqrt(spread + EPSILON) + shift.tensor


@operations("running statistics stay as they were", "evaluation")
class NothingMoves(Wrapper):
    def batch_norm(self, x, scale, shift, mean, variance):
        normed = self.inner.batch_norm(x, scale, shift, mean, variance)
        self.inner.moved.clear()
        return normed


# training steps


@training("the step goes on with the positions that it was compiled with", "reallocation")
class OldPositions(Wrapper):
    def reallocate(self, reallocation):
        before = self.inner._positions
        self.inner.reallocate(reallocation)
        if len(self.inner._positions) == len(before):
            self.inner._positions = before


@training("the gradient that is set is not that of the step, which is compiled as a whole", "weight-gradient")
class WholeStep(Wrapper):
    def set_weight_gradient(self, weight_gradient):
        waiting = self.inner._examples_of_the_pass
        self.inner.set_weight_gradient(weight_gradient)
        self.inner._waiting = waiting

    def backward(self, batch, *, dense=False):
        gradient = self.inner.backward(batch, dense=dense)
        self.inner._examples_of_the_pass = self.inner._waiting
        return gradient


@training("young weights do not grow older", "young-weights")
class AlwaysYoung(Wrapper):
    def train(self, batch, learning_rate):
        before = self.inner._buffers.get("young")
        kept = None if before is None else before.copy()
        self.inner.train(batch, learning_rate)
        if kept is not None:
            self.inner._buffers = {**self.inner._buffers, "young": kept}
