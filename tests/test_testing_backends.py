"""The backends that come with sparsecore keep every promise."""

from importlib.util import find_spec

import pytest

from sparsecore.testing import BackendTests
from sparsecore_numpy import NumpyBackend


class TestNumpy(BackendTests):
    backend = NumpyBackend()
    max_examples = 25


@pytest.mark.slow
class TestNumpyWithMoreExamples(BackendTests):
    backend = NumpyBackend()


class TestNumpyInDoublePrecision(BackendTests):
    backend = NumpyBackend("float64")
    max_examples = 10


if find_spec("torch"):
    from sparsecore_torch import TorchBackend

    class TestTorch(BackendTests):
        backend = TorchBackend(device="cpu")
        max_examples = 25

    @pytest.mark.slow
    class TestTorchWithMoreExamples(BackendTests):
        backend = TorchBackend(device="cpu")
