"""Networks with values and statistics that were drawn, and what they predict by their definition."""

from typing import Any

import numpy as np
from cpu_examples import ORACLE
from numpy.typing import NDArray

from sparsecore.engine.topology import Layout
from sparsecore.experiment.plugin_choice import PluginChoice
from sparsecore.host.weights import WeightView
from sparsecore.learning.protocols import with_ties
from sparsecore_cpu.inference import TrainedNetwork
from sparsecore_cpu.inference.network import ImageInfo
from sparsecore_numpy.operations import NumpyComputation


def network_of(
    plugin: Any, shape: tuple[int, int, int] = (8, 8, 1), density: float = 0.3, seed: int = 0
) -> TrainedNetwork:
    """A network of this model with ten classes."""
    draws = np.random.default_rng(seed)
    parameters = plugin.parameters(shape, 10)
    layout = Layout.of({p.name: p.shape for p in parameters if p.sparse} or {"none": (1,)})
    positions = np.sort(draws.choice(layout.size, int(np.ceil(density * layout.size)), replace=False))
    values = (0.3 * draws.standard_normal(len(positions))).astype(np.float32)
    dense = {p.name: _drawn(p, draws) for p in parameters if not p.sparse}
    pictures = ImageInfo(shape, 10, draws.uniform(90, 150, shape[2]), draws.uniform(30, 90, shape[2]))
    return TrainedNetwork(PluginChoice(type(plugin).__name__, plugin), pictures, positions, values, dense)


def images_for(network: TrainedNetwork, count: int, seed: int = 1) -> NDArray[np.uint8]:
    """Images of noise."""
    return np.random.default_rng(seed).integers(0, 256, (count, *network.pictures.shape), np.uint8)


def logits_of(network: TrainedNetwork, images: NDArray[Any]) -> NDArray[np.float64]:
    """What NumPy computes of it in double precision."""
    topology, pictures = network.topology, network.pictures
    parameters: dict[str, Any] = {}
    for parameter in network.parameters:
        if parameter.sparse:
            own = network.values[topology.slots(parameter.name)]
            parameters[parameter.name] = _weight(parameter.shape, topology.local(parameter.name), own)
        else:
            array = network.dense[parameter.name].astype(np.float64)
            whole = _weight(array.shape, np.arange(array.size), array.ravel())
            parameters[parameter.name] = whole if parameter.trained else array
    normalized = (images.astype(np.float64) - pictures.mean) / pictures.std
    model = with_ties(network.chosen.plugin, network.parameters)
    return NumpyComputation(ORACLE).logits(model, parameters, normalized)


def close(given: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Within the rounding of single precision."""
    return np.allclose(given, expected, rtol=1e-4, atol=2e-5 * max(1.0, np.abs(expected).max(initial=0)))


def _drawn(parameter: Any, draws: np.random.Generator) -> NDArray[np.float32]:
    if not parameter.trained:
        positive = parameter.name.endswith("variance")
        drawn = draws.uniform(0.3, 2, parameter.shape) if positive else draws.normal(0, 0.3, parameter.shape)
    elif len(parameter.shape) == 1 and parameter.name.endswith("scale"):
        drawn = draws.uniform(-1, 2, parameter.shape)
    else:
        drawn = draws.normal(0, 0.3, parameter.shape)
    return drawn.astype(np.float32)


def _weight(shape: tuple[int, ...], positions: NDArray[Any], values: NDArray[Any]) -> WeightView:
    return WeightView(shape, np.asarray(positions, np.intp), values.astype(np.float64), np.zeros(len(values)))
