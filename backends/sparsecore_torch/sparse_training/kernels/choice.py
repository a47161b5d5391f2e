"""Which kernels the layers of a model are computed by, by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import attrs
from torch import nn

from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore_torch.sparse_training.kernels.eligibility import Place, Routes, places_of, routes_of
from sparsecore_torch.sparse_training.selection import Selection
from sparsecore_torch.sparse_training.storage.storage import Storage


@attrs.frozen(eq=False)
class Choice:
    """What has been found to work, before anything is changed.

    Attributes:
        routes: which tensors go through the sparse kernels.
        apply: makes the layers go there, given the storage of their weights and the topology.
    """

    routes: Routes
    apply: Callable[[Storage, Topology], Storage]


Choose = Callable[[nn.Module, Selection], Choice]
"""Given the model without wrappers; raises an :class:`InputError` where something is missing."""


def _dense(model: nn.Module, selection: Selection) -> Choice:
    names = [place.name for place in places_of(model, selection)]
    routes = Routes((), MappingProxyType(dict.fromkeys(names, "kernels='dense'")))
    return Choice(routes, lambda storage, _: storage)


def _sparse(model: nn.Module, selection: Selection) -> Choice:
    _check_device(selection)
    kernels = _kernels_of_this_processor()
    places = places_of(model, selection)
    routes = routes_of(places)
    going = [place for place in places if place.trouble is None]
    return Choice(routes, lambda storage, topology: _routed(going, kernels, storage, topology))


KERNELS: Mapping[str, Choose] = MappingProxyType({"dense": _dense, "sparse": _sparse})


def _routed(going: list[Place], kernels: Any, storage: Storage, topology: Topology) -> Storage:
    from sparsecore_torch.sparse_training.kernels.functions import Convolutions, Kind, LinearLayers
    from sparsecore_torch.sparse_training.kernels.modules import Route, RoutedStorage

    kinds: dict[int, Kind] = {4: Convolutions(kernels), 2: LinearLayers(kernels)}
    dimensions = {name: len(shape) for name, shape in zip(topology.layout.names, topology.layout.shapes, strict=True)}
    routes = [Route(place.module, place.tensor, kinds[dimensions[place.tensor]], topology) for place in going]
    return RoutedStorage(storage, routes)


def _check_device(selection: Selection) -> None:
    device = selection.sparse[0].parameter.device
    if device.type != "cpu":
        raise InputError(f"the sparse kernels run on the CPU, and the model lies on {device}; take kernels='dense'")


def _kernels_of_this_processor() -> Any:
    try:
        from sparsecore_cpu.layer import kernels
    except ImportError as error:
        raise InputError(
            "kernels='sparse' needs the distribution sparsecore-cpu, which is not installed: "
            "pip install ./backends/sparsecore_cpu, with a C++ compiler; or take kernels='dense'"
        ) from error
    return kernels()
