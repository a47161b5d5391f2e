"""Plausible defects of the JAX backend, each with the promise that it breaks.

They are of what is easily wrong where arrays cannot change and steps are compiled. Defects that any backend may have
are in ``mutants_of_backends.py``.
"""

import jax
import jax.numpy as jnp
from defective_backends import Defects, Wrapper
from jax import lax

from sparsecore.learning.operations import EPSILON
from sparsecore_jax import JaxArray, JaxBackend

DEFECTS = Defects(lambda dtype: JaxBackend(dtype=dtype, device="cpu"))
MUTANTS = DEFECTS.mutants
array_operation, training, operations = DEFECTS.array_operation, DEFECTS.training, DEFECTS.operations


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
