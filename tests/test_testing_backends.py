"""The backends that come with sparsecore keep every promise."""

from importlib.util import find_spec

from sparsecore.testing import BackendTests
from sparsecore_numpy import NumpyBackend


class TestNumpy(BackendTests):
    backend = NumpyBackend()


class TestNumpyInDoublePrecision(BackendTests):
    backend = NumpyBackend("float64")
    max_examples = 20


if find_spec("torch"):
    from sparsecore_torch import TorchBackend

    class TestTorch(BackendTests):
        backend = TorchBackend(device="cpu")
        max_examples = 50
