"""Predictions of a trained network."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore.extras import require
from sparsecore.formats import MODEL, NETWORK, Format
from sparsecore_cpu.backend import CpuBackend
from sparsecore_cpu.inference.execution import ImageExecution
from sparsecore_cpu.inference.models import files
from sparsecore_cpu.inference.models.execution import ModelExecution
from sparsecore_cpu.inference.models.program import ModelProgram
from sparsecore_cpu.inference.network import TrainedNetwork, network_from, read_arrays
from sparsecore_cpu.runtime import Floats

N = TypeVar("N")


class Execution(Protocol):
    """Computes the predictions of one network."""

    def predict(self, images: NDArray[Any]) -> Floats:
        """The outputs, float32, (batch, ...)."""
        ...

    def save(self, path: Path) -> None:
        """Write the network to a file."""
        ...


@attrs.frozen(eq=False)
class Predictor(Generic[N]):
    """Predicts with a trained network, whose values no longer change.

    Buffers and lists are allocated once; calls from several threads run one after another.

    Attributes:
        network: the trained network: a ``TrainedNetwork``, or the ``ModelProgram`` of a PyTorch module.
    """

    network: N = attrs.field(repr=False)
    _execution: Execution = attrs.field(repr=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, repr=False)

    @classmethod
    def of(cls, network: TrainedNetwork, threads: int = 0) -> "Predictor[TrainedNetwork]":
        """The predictor of a network.

        Args:
            network: the trained network.
            threads: how many threads compute; 0 for as many as this process may use. Predictions do not depend on it.

        Raises:
            InputError: there cannot be so many threads.
        """
        return Predictor(network, ImageExecution.of(network, CpuBackend(threads).runtime()))

    @classmethod
    def of_run(cls, path: str | Path, threads: int = 0) -> "Predictor[TrainedNetwork]":
        """The predictor of a run's latest checkpoint, whichever backend it was trained on.

        Args:
            path: the run's folder. The data set is loaded once more, for its mean and deviation.
            threads: as for :meth:`of`.

        Raises:
            InputError: this is no run, it has not begun, it is damaged, or its data are others now.
        """
        return cls.of(TrainedNetwork.of_run(Path(path)), threads)

    @classmethod
    def of_model(cls, model: Any, example: Any, threads: int = 0) -> "Predictor[ModelProgram]":
        """The predictor of a PyTorch module, in evaluation and with the parameters that it has now.

        The module is exported by ``torch.export``, and its predictions for the example are compared with its own.

        Args:
            model: a ``torch.nn.Module`` in float32 on the CPU with one input and one output; its weights are sparse
                where they are zero. A model in sparse training is given as ``export.squashed_copy(training)``.
            example: an input of it, float32 or int64, whose first dimension is that of the batch. Predictions are for
                batches of any size, of examples of this shape.
            threads: as for :meth:`of`.

        Raises:
            InputError: an operation of the module cannot be taken over, which the message names; it predicts each
                example of a batch in dependence of the others or of their number; or one of the arguments is something
                else.
        """
        require("torch", extra="torch", purpose="taking over a PyTorch module")
        from sparsecore_cpu.inference.models.exporting import program_of
        from sparsecore_cpu.inference.models.verification import check_predicts_alike

        program = program_of(model, example)
        predictor = cls._of_program(program, threads)
        check_predicts_alike(model, example, predictor.predict)
        return predictor

    @classmethod
    def load(cls, path: str | Path, threads: int = 0) -> "Predictor[Any]":
        """The predictor of a network in a file that :meth:`save` wrote.

        Args:
            path: the file.
            threads: as for :meth:`of`.

        Raises:
            InputError: there is no such file, it is damaged or of a later version, or its model is not installed.
        """
        file_format, facts, arrays = read_arrays(Path(path), tuple(_READERS))
        return _READERS[file_format](facts, arrays, Path(path), threads)

    def save(self, path: str | Path) -> None:
        """Write the network to one safetensors file: values, positions in about a byte each, dense parameters.

        Args:
            path: the file, replaced if it exists.

        Raises:
            InputError: it cannot be written.
        """
        self._execution.save(Path(path))

    def predict(self, images: NDArray[Any]) -> Floats:
        """Logits, float32 (batch, classes); of a PyTorch module, whatever it computes for each example of the batch.

        Args:
            images: (batch, height, width, channels) as the data set has them, not normalized: uint8, or floats in
                units of 0..255. Any batch. For a PyTorch module, what the module takes, as an array.

        Raises:
            InputError: they have another shape, or are no such numbers.
        """
        images = np.asarray(images)
        with self._lock:
            return self._execution.predict(images)

    @classmethod
    def _of_program(cls, program: ModelProgram, threads: int) -> "Predictor[ModelProgram]":
        return Predictor(program, ModelExecution.of(program, CpuBackend(threads).runtime()))

    @classmethod
    def _network_of(
        cls, facts: Mapping[str, Any], arrays: dict[str, NDArray[Any]], path: Path, threads: int
    ) -> "Predictor[Any]":
        return cls.of(network_from(facts, arrays, path), threads)

    @classmethod
    def _program_of(
        cls, facts: Mapping[str, Any], arrays: dict[str, NDArray[Any]], path: Path, threads: int
    ) -> "Predictor[Any]":
        program = files.program_from(facts, arrays, path)
        try:  # what contradicts itself is found by predicting once
            predictor = cls._of_program(program, threads)
            predictor.predict(np.zeros((1, *program.shape[1:]), program.dtype))
        except Exception as error:
            raise InputError(f"the network {path} is damaged: {error}") from error
        return predictor


Reader = Callable[[Mapping[str, Any], dict[str, NDArray[Any]], Path, int], Predictor[Any]]

_READERS: Mapping[Format, Reader] = MappingProxyType({NETWORK: Predictor._network_of, MODEL: Predictor._program_of})
"""What reads each format."""
