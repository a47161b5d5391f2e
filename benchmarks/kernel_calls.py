"""The calls of the CPU backend's kernels in a training step: how long each took, whose it was, what it had to do."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import numpy as np
from operation_times import replaced

from sparsecore_cpu import _kernels, linear, operations
from sparsecore_cpu.runtime import Buffer, Form, Runtime, Strides
from sparsecore_cpu.weight_lists import LayerLists, WeightList

FLOAT = 4
FORWARD, BACKWARD = "convolution, forward", "convolution, input's gradient"
GRADIENTS: Mapping[str, str] = {
    "weight_gradient": "convolution, weights' gradient",
    "backward": "convolution, both gradients",
}
LINEAR: Mapping[str, str] = {"forward": FORWARD, "input_gradient": BACKWARD, **GRADIENTS}
"""What the kernels of linear layers do, as those of convolutions."""


@attrs.frozen
class Call:
    """One call of a kernel.

    Attributes:
        kernel: what it does.
        layer: whose.
        seconds: it took.
        multiply_adds: of weights that exist with values of images.
        bytes: of the activations that it reads and writes, each once.
    """

    kernel: str
    layer: str
    seconds: float
    multiply_adds: float
    bytes: float


@attrs.frozen
class _Listed:
    """What is known of a list of weights."""

    kernel: str
    shape: tuple[int, ...]
    weights: int
    stride: int
    out_step: int

    @property
    def read(self) -> float:
        """The share of the inputs that is read."""
        area = (*self.shape, 1, 1)[2] * (*self.shape, 1, 1)[3]
        return min(1.0, area / self.stride**2) if self.kernel == FORWARD else 1.0


class Calls:
    """Notes the calls of one network's kernels; its buffers must come from :meth:`machine`."""

    def __init__(self, threads: int) -> None:
        self.noted: list[Call] = []
        self._machine = Runtime.of(threads)
        self._activations: dict[int, Form] = {}  # by handle; handles live as long as the machine
        self._reads: dict[int, tuple[Form, ...]] = {}  # by handle, which is noted anew whenever one is made
        self._lists: dict[int, _Listed] = {}
        self._outputs: dict[int, Form] = {}  # of a list's layer
        self._read_type = _kernels.Input

    def machine(self) -> Runtime:
        """What the network has to compute with."""
        watched: Any = _Watched(self)
        buffers: Any = self
        return attrs.evolve(self._machine, kernels=watched, buffers=buffers)

    @property
    def stores_bfloat16(self) -> bool:
        """See :meth:`sparsecore_cpu.runtime.Buffers.stores_bfloat16`."""
        return self._machine.buffers.stores_bfloat16

    def take(self, form: Form) -> Buffer:
        """See :meth:`sparsecore_cpu.runtime.Buffers.take`."""
        buffer = self._machine.buffers.take(form)
        self._activations[id(buffer.handle)] = form
        return buffer

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it, it is noted which lists and which functions of activations there are."""
        with ExitStack() as stack:
            for name, kernel in (("forward", FORWARD), ("backward", BACKWARD)):
                stack.enter_context(replaced(LayerLists, name, self._listing(kernel, getattr(LayerLists, name))))
            stack.enter_context(replaced(_kernels, "Input", _Reads(self, _kernels.Input)))
            stack.enter_context(replaced(operations, "Mask", self._mask))
            kernels = linear.linear_kernels(self._machine.kernels.name, self.stores_bfloat16)
            watched = _WatchedLinear(self, kernels)
            stack.enter_context(replaced(linear, "linear_kernels", lambda *_: watched))
            yield

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """Call the kernel and note it."""
        start = time.perf_counter()
        result = getattr(self._machine.kernels, name)(*arguments)
        self._note(name, arguments, time.perf_counter() - start)
        return result

    def call_linear(self, kernels: Any, name: str, arguments: tuple[Any, ...]) -> None:
        """Call a kernel of linear layers and note it."""
        start = time.perf_counter()
        getattr(kernels, name)(*arguments)
        seconds = time.perf_counter() - start
        forms = [self._activations[id(one)] for one in arguments if isinstance(one, _kernels.Activation)]
        (pattern,) = (one for one in arguments if isinstance(one, _kernels.SparsityPattern))
        inputs, outputs = (form.channels for form in (forms[1::-1] if name == "input_gradient" else forms[:2]))
        products = pattern.count * self._padded(forms[0]) * (2 if name == "backward" else 1)
        self.noted.append(Call(LINEAR[name], f"linear {inputs}→{outputs}", seconds, products, self._bytes(forms)))

    def attribute(self, name: str) -> Any:
        """Of the kernels."""
        return getattr(self._machine.kernels, name)

    def read(self, handle: Any, pixels: tuple[Any, ...]) -> Any:
        """Note what a convolution reads."""
        self._reads[id(handle)] = tuple(self._activations[id(one)] for one in pixels)
        return handle

    def _listing(self, kernel: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def listed(lists: LayerLists, strides: Strides, values: Any) -> Any:
            made = function(lists, strides, values)
            several: list[WeightList] = made if isinstance(made, list) else [made]
            out_step = lists.window.stride[0] if kernel == BACKWARD else 1
            for one in several:
                weights = int(np.count_nonzero(one.order < one.entries))
                known = _Listed(kernel, lists.shape, weights, lists.window.stride[0], out_step)
                self._lists[id(one.handle)] = known
            return made

        return listed

    def _mask(self, pixels: Any, *factors: Any) -> Any:
        mask = _kernels.Mask(pixels, *factors)
        self._activations[id(mask)] = self._activations[id(pixels)]
        return mask

    def _note(self, name: str, arguments: tuple[Any, ...], seconds: float) -> None:
        touched = [
            self._activations[id(one)] for one in arguments if isinstance(one, _kernels.Activation | _kernels.Mask)
        ]
        read = [form for one in arguments if isinstance(one, self._read_type) for form in self._reads[id(one)]]
        all_weights = list(_weights(arguments))
        if not all_weights:
            self.noted.append(Call(name, _size(touched[0]), seconds, 0, self._bytes(touched)))
            return
        lists = [self._lists[id(one)] for one in all_weights]
        weights, listed = all_weights[0], lists[0]
        out = self._outputs.setdefault(id(weights), touched[0]) if touched else self._outputs[id(weights)]
        places = self._padded(out) * out.height * out.width / listed.out_step**2
        self.noted.append(
            Call(
                GRADIENTS.get(name, listed.kernel),
                _layer(listed, out),
                seconds,
                places * sum(one.weights for one in lists),
                self._bytes(touched) / listed.out_step**2 + self._bytes(read) * listed.read,
            )
        )

    def _bytes(self, forms: Sequence[Form]) -> float:
        return sum(FLOAT * self._padded(form) * form.height * form.width * form.channels for form in forms)

    def _padded(self, form: Form) -> int:
        lanes = self._machine.kernels.lanes
        return -(-form.images // lanes) * lanes


@attrs.frozen
class _Watched:
    """The kernels, for whom it may concern."""

    calls: Calls

    def __getattr__(self, name: str) -> Any:
        attribute = self.calls.attribute(name)
        return (lambda *arguments: self.calls.call(name, arguments)) if callable(attribute) else attribute


@attrs.frozen
class _WatchedLinear:
    """The kernels of linear layers, likewise."""

    calls: Calls
    kernels: Any

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.calls.call_linear(self.kernels, name, arguments)


@attrs.frozen
class _Reads:
    """Makes what convolutions read, as :class:`sparsecore_cpu._kernels.Input` does."""

    calls: Calls
    made: Any

    def __call__(self, pixels: Any) -> Any:
        return self.calls.read(self.made(pixels), (pixels,))

    def rectified(self, pixels: Any, *factors: Any) -> Any:
        return self.calls.read(self.made.rectified(pixels, *factors), (pixels,))

    def combined(self, pixels: Any, other: Any, *factors: Any) -> Any:
        return self.calls.read(self.made.combined(pixels, other, *factors), (pixels, other))


def _weights(arguments: Sequence[Any]) -> Iterator[Any]:
    for one in arguments:
        if isinstance(one, _kernels.Weights):
            yield one
        elif isinstance(one, list):  # of pairs of transposed weights and steps
            yield from (weights for weights, _ in one)


def _layer(listed: _Listed, written: Form) -> str:
    outputs, inputs, *kernel = listed.shape
    side = written.height // (listed.stride if listed.kernel == BACKWARD else 1)
    stride = f", stride {listed.stride}" if listed.stride > 1 else ""
    return f"{inputs}→{outputs}, {kernel[0]}×{kernel[1]}, to {side}×{side}{stride}"


def _size(form: Form) -> str:
    return f"{form.channels} features" if form.features else f"{form.channels} channels of {form.height}×{form.width}"
