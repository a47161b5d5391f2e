"""Layers with weights in a network: which kernels compute them, and what is kept for them from step to step."""

from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.host.buffers import BufferPool
from sparsecore.host.parameters import CachedArrays
from sparsecore.host.weights import GradientFactors, WeightSource
from sparsecore_cpu._kernels import Mask, SparsityPattern
from sparsecore_cpu.convolution import LayerKernels
from sparsecore_cpu.layer_kernels import WeightKernels
from sparsecore_cpu.linear import SparseLinear, sparsity_pattern
from sparsecore_cpu.runtime import Buffer, Floats, Form, KernelInput, Runtime, Sums, bordered
from sparsecore_cpu.weight_lists import LayerLists, Taps, WeightList
from sparsecore_cpu.window import Window


@attrs.define(eq=False)
class CachedLists:
    """What is kept for the weights of one owner.

    Attributes:
        lists: the weight lists by shape and window, then as :class:`LayerLists` keeps them.
        patterns: the sparsity patterns of matrices, by shape.
    """

    lists: dict[Any, dict[Any, list[WeightList]]] = attrs.field(factory=dict)
    patterns: dict[tuple[int, ...], SparsityPattern] = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class ListCache:
    """The weight lists of a network; those of a topology that is gone are freed with it.

    Attributes:
        threads: how many threads make and fill the lists.
        pool: memory for the entries of tied weights, and for gradients.
    """

    threads: int = 1
    pool: BufferPool = attrs.field(factory=lambda: BufferPool(np.float32))
    _made: WeakKeyDictionary[Any, CachedLists] = attrs.field(factory=WeakKeyDictionary)

    def kernels(self, runtime: Runtime, weight: WeightSource, window: Window) -> WeightKernels:
        """The kernels that compute a layer with this weight: those of matrices, or of convolutions.

        Args:
            runtime: kernels, threads and memory.
            weight: the layer's weight, (out, in) or (out, in / groups, height, width).
            window: stride, padding, dilation and groups.
        """
        if len(weight.shape) == 2:
            pattern, rounded = self._pattern(weight), runtime.buffers.stores_bfloat16
            allocate = partial(_gradient_memory, weight, self.pool)
            return SparseLinear(runtime.kernels, pattern, runtime.threads, allocate, rounded)
        made = self._of(weight).lists.setdefault((weight.shape, window), {})
        # what is cached must not refer to the weight, or it would live as long as the cache
        taps = lambda: Taps.of(weight.shape, weight.positions, window.groups)  # noqa: E731
        return LayerKernels(runtime.kernels, LayerLists(weight.shape, window, self.threads, taps, made))

    def arrays(self, owner: Any) -> CachedArrays:
        """All arrays that were made so far for weights with this owner.

        Args:
            owner: see :class:`sparsecore.host.weights.WeightView`.
        """
        made = self._made.get(owner, CachedLists())
        lists = [weights for layers in made.lists.values() for several in layers.values() for weights in several]
        indices = [array for one in lists for array in one.indices]
        indices += [array for pattern in made.patterns.values() for array in pattern.arrays]
        return CachedArrays(tuple(indices), tuple(one.values for one in lists))

    def _pattern(self, weight: WeightSource) -> SparsityPattern:
        patterns = self._of(weight).patterns
        if weight.shape not in patterns:
            patterns[weight.shape] = sparsity_pattern(weight.shape, weight.positions, self.threads)
        return patterns[weight.shape]

    def _of(self, weight: WeightSource) -> CachedLists:
        return self._made.setdefault(weight.owner, CachedLists())


def _gradient_memory(weight: WeightSource, pool: BufferPool, count: int) -> Floats:
    """Memory for the gradients of a weight's active entries: its own where they need not be added to others."""
    own = weight.gradient_memory()
    fits = own is not None and own.dtype == np.float32 and own.flags.c_contiguous and len(own) == count
    return own if own is not None and fits else pool.take(count)


@attrs.frozen(eq=False)
class WeightedLayer:
    """A convolution or linear layer of a network in training: provides buffers and borders, and adds up gradients.

    Attributes:
        runtime: kernels, threads and memory.
        weight: the layer's weight.
        window: stride, padding, dilation and groups.
        cache: the network's weight lists.
    """

    runtime: Runtime
    weight: WeightSource
    window: Window
    cache: ListCache
    _layer: WeightKernels = attrs.field(init=False)

    @_layer.default
    def _kernels(self) -> WeightKernels:
        return self.cache.kernels(self.runtime, self.weight, self.window)

    def output(self, x: Form) -> Form:
        """The form of the outputs for inputs of this form.

        Returns:
            A form with a border of one pixel, wide enough for most layers that read it; features have none.
        """
        height, width = self.window.outputs((x.height, x.width), self._kernel)
        channels, border = self.weight.shape[0], 0 if x.features else 1
        return attrs.evolve(x, height=height, width=width, channels=channels, border=border)

    def forward(self, x: KernelInput, form: Form, add: Buffer | None, sums: Sums | None) -> Buffer:
        """The outputs, plus ``add``, in a buffer from the pool.

        Args:
            x: the input; it is copied where its border is narrower than the padding.
            form: the form of the outputs, see :meth:`output`.
            add: an activation of this form that is added, if any.
            sums: as of :meth:`WeightKernels.forward`.
        """
        x, out = bordered(self.runtime, x, self.window.padding.most), self.runtime.buffers.take(form)
        self._layer.forward(x, self._values, out, add, sums)
        return out

    def forward_biased(self, x: KernelInput, form: Form, bias: Floats, add: Buffer | None) -> Buffer | None:
        """The outputs, plus a bias and ``add``, in a buffer from the pool; None where that is more than one pass.

        Args:
            x: the input; it is copied where its border is narrower than the padding.
            form: the form of the outputs, see :meth:`output`.
            bias: float32, by output channel, (channels,).
            add: an activation of this form that is added, if any.
        """
        x, out = bordered(self.runtime, x, self.window.padding.most), self.runtime.buffers.take(form)
        return out if self._layer.forward_biased(x, self._values, bias, out, add) else None

    def backward_weight(self, x: KernelInput, gradient: KernelInput) -> None:
        """Add to the weight's gradient; does nothing for a weight that is not trained."""
        if not self.weight.is_trained or self._gives_all(x, gradient):
            return
        x = bordered(self.runtime, x, self.window.padding.most)
        self.weight.add_gradient(self._layer.backward_weight(x, gradient))

    def backward(
        self, x: KernelInput, gradient: KernelInput, out: Buffer, add: Buffer | None, mask: Mask | None
    ) -> Sums:
        """Write the gradient of the inputs as :meth:`WeightKernels.backward`, and add to the weight's if it is trained.

        Returns:
            The sums by channel, (channels, 2); zeros without a mask.
        """
        made, sides = (gradient.form.height, gradient.form.width), (out.form.height, out.form.width)
        border = self.window.border_behind(self._kernel, made, sides)
        gradient = bordered(self.runtime, gradient, border)
        if not self.weight.is_trained or self._gives_all(x, gradient):
            return self._layer.backward_input(gradient, self._values, out, add, mask)
        x = bordered(self.runtime, x, self.window.padding.most)
        by_weight, sums = self._layer.backward(x, gradient, self._values, out, add, mask)
        self.weight.add_gradient(by_weight)
        return sums

    def _gives_all(self, x: KernelInput, gradient: KernelInput) -> bool:
        """Give the weight of a linear layer the gradients of all positions, if they are asked for."""
        if not gradient.form.features:
            return False
        return self.weight.take_factors(
            lambda: GradientFactors(outputs=gradient.buffer().by_feature, inputs=x.buffer().by_feature)
        )

    @property
    def _kernel(self) -> tuple[int, int]:
        height, width = (*self.weight.shape, 1, 1)[2:4]
        return height, width

    @property
    def _values(self) -> NDArray[Any]:
        return self.weight.entries(self.cache.pool)
