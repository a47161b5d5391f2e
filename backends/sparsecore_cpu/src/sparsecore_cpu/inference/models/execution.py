"""Predictions with a program: compiled for some numbers of examples at a time, when they are first needed."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from sparsecore.errors import InputError
from sparsecore_cpu.inference.calls import MeasuredCalls
from sparsecore_cpu.inference.models.compiler import PlaneModelCompiler
from sparsecore_cpu.inference.models.files import write_program
from sparsecore_cpu.inference.models.graph import graph_of
from sparsecore_cpu.inference.models.program import ModelProgram, Shape
from sparsecore_cpu.inference.program import Node, compile_program
from sparsecore_cpu.runtime import Floats, Runtime

_VECTORS = 128
"""The vectors of a sequence, or of several, that are computed at a time at most, unless a sequence has more."""


@attrs.frozen(eq=False)
class Plan:
    """A program compiled for a number of examples.

    Attributes:
        given: the memory of the input, in PyTorch's layout.
        made: the memory of the output.
        calls: the calls that compute it, in order.
    """

    given: NDArray[Any]
    made: NDArray[Any]
    calls: MeasuredCalls

    def predict(self, inputs: NDArray[Any], outputs: Floats) -> None:
        """Write the outputs of as many examples as the plan has at most.

        Args:
            inputs: (examples, ...).
            outputs: as many times the examples as the program has outputs for one, written to.
        """
        count = len(inputs)
        self.given[:count] = inputs
        self.given[count:] = 0
        self.calls.run()
        outputs[:] = self.made[: len(outputs)]


@attrs.frozen(eq=False)
class ModelExecution:
    """Predicts with a program.

    Attributes:
        program: the program.
        runtime: kernels and threads.
    """

    program: ModelProgram
    runtime: Runtime
    _graph: Node
    _plans: dict[int, Plan] = attrs.field(factory=dict)
    _blas: ThreadpoolController = attrs.field(factory=lambda: ThreadpoolController().select(user_api="blas"))

    @classmethod
    def of(cls, program: ModelProgram, runtime: Runtime) -> "ModelExecution":
        """A program with memory of its own.

        Args:
            program: the program.
            runtime: kernels and threads.
        """
        return cls(program, runtime, graph_of(program))

    def predict(self, inputs: NDArray[Any]) -> Floats:
        """The outputs, float32, (batch, ...).

        Args:
            inputs: in the shape and the dtype that the program takes.

        Raises:
            InputError: they have another shape or dtype.
        """
        self._check(inputs)
        shape = self.program.output_shape
        outputs = np.zeros((-shape[0] * len(inputs), *shape[1:]), np.float32)
        if not len(inputs):
            return outputs
        size = min(self._most, 1 << (len(inputs) - 1).bit_length())
        plan = self._plan(size)
        with self._one_blas_thread():
            for first in range(0, len(inputs), size):
                last = min(first + size, len(inputs))
                plan.predict(inputs[first:last], outputs[-shape[0] * first : -shape[0] * last])
        return outputs

    @property
    def _most(self) -> int:
        """The most examples at a time: one where there are images, else as many as make enough vectors."""
        if self.program.has_images:
            return 1
        shapes = [self.program.shape, *(call.shape for call in self.program.calls)]
        vectors = max((shape[1] for shape in shapes if len(shape) == 3), default=1)
        return 1 << (max(1, _VECTORS // vectors).bit_length() - 1)

    def _plan(self, examples: int) -> Plan:
        if examples not in self._plans:
            compiler = PlaneModelCompiler.of(self.program.shape, self.program.dtype, examples, self.runtime)
            made = compile_program(self._graph, compiler)
            calls = MeasuredCalls(compiler.calls, self.runtime.threads)
            self._plans[examples] = Plan(compiler.given.array, made.array, calls)
        return self._plans[examples]

    def _one_blas_thread(self) -> AbstractContextManager[Any]:
        """Products of dense matrices on one thread, so that no result depends on the number of threads."""
        context: AbstractContextManager[Any] = self._blas.limit(limits=1)
        return context

    def save(self, path: Path) -> None:
        """Write the program to a file; see :func:`write_program`."""
        write_program(self.program, path)

    def _check(self, inputs: NDArray[Any]) -> None:
        shape, dtype = self.program.shape, np.dtype(self.program.dtype)
        if inputs.shape[1:] != shape[1:] or not inputs.ndim:
            raise InputError(f"inputs are {_described(shape)} as the example was; given {inputs.shape}")
        if inputs.dtype.kind != dtype.kind:
            raise InputError(f"inputs are {dtype} as the example was; given {inputs.dtype}")


def _described(shape: Shape) -> str:
    return f"(batch, {', '.join(map(str, shape[1:]))})" if len(shape) > 1 else "(batch,)"
