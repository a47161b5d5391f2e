"""Predictions of a trained network."""

import threading
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore_cpu.backend import CpuBackend
from sparsecore_cpu.inference.execution import Blocks, Single
from sparsecore_cpu.inference.network import TrainedNetwork, read_network, write_network
from sparsecore_cpu.runtime import Floats, Runtime


@attrs.frozen(eq=False)
class Predictor:
    """Predicts with a trained network, whose values no longer change.

    Buffers and lists are allocated once; calls from several threads run one after another.

    Attributes:
        network: the trained network.
    """

    network: TrainedNetwork
    _runtime: Runtime
    _single: Single
    _blocks: Blocks
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    @classmethod
    def of(cls, network: TrainedNetwork, threads: int = 0) -> "Predictor":
        """The predictor of a network.

        Args:
            network: the trained network.
            threads: how many threads compute; 0 for as many as this process may use. Predictions do not depend on it.

        Raises:
            InputError: there cannot be so many threads.
        """
        runtime = CpuBackend(threads).runtime()
        return cls(network, runtime, Single.of(network, runtime), Blocks.of(network, runtime))

    @classmethod
    def of_run(cls, path: str | Path, threads: int = 0) -> "Predictor":
        """The predictor of a run's latest checkpoint, whichever backend it was trained on.

        Args:
            path: the run's folder. The data set is loaded once more, for its mean and deviation.
            threads: as for :meth:`of`.

        Raises:
            InputError: this is no run, it has not begun, it is damaged, or its data are others now.
        """
        return cls.of(TrainedNetwork.of_run(Path(path)), threads)

    @classmethod
    def load(cls, path: str | Path, threads: int = 0) -> "Predictor":
        """The predictor of a network in a file that :meth:`save` wrote.

        Args:
            path: the file.
            threads: as for :meth:`of`.

        Raises:
            InputError: there is no such file, it is damaged, or its model is not installed.
        """
        return cls.of(read_network(Path(path)), threads)

    def save(self, path: str | Path) -> None:
        """Write the network to one safetensors file: values, positions in about a byte each, dense parameters.

        Args:
            path: the file, replaced if it exists.

        Raises:
            InputError: it cannot be written.
        """
        write_network(self.network, Path(path))

    def predict(self, images: NDArray[Any]) -> Floats:
        """Logits, float32 (batch, classes).

        Args:
            images: (batch, height, width, channels) as the data set has them, not normalized: uint8, or floats in
                units of 0..255. Any batch.

        Raises:
            InputError: they have another shape, or are no such numbers.
        """
        images = np.asarray(images)
        self._check(images)
        logits = np.empty((len(images), self.network.pictures.classes), np.float32)
        single = self._single.is_quicker(len(images), self._runtime.kernels.lanes)
        with self._lock:
            (self._single if single else self._blocks).predict(images, logits)
        return logits

    def _check(self, images: NDArray[Any]) -> None:
        shape = self.network.pictures.shape
        if images.ndim != 4 or images.shape[1:] != shape:
            raise InputError(
                f"images are (batch, {', '.join(map(str, shape))}) as the network was trained on; given {images.shape}"
            )
        if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
            raise InputError(f"images are uint8, or floats in units of 0..255; given {images.dtype}")
