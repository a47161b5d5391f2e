"""Which kernels the layers of a model are computed by, by name."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import attrs
import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore_torch._torch_internals import FORWARD_METHODS, own_parameters
from sparsecore_torch.sparse_training.model.selection import Selection
from sparsecore_torch.sparse_training.storage.storage import Storage
from sparsecore_torch.tensors import is_sharded

_SHOWN = 8


@attrs.frozen(eq=False, repr=False)
class Routes:
    """Which sparse tensors are multiplied by sparse kernels, and why the others are not; ``print`` shows it.

    Attributes:
        sparse: the names of the tensors in layers that run through the sparse kernels.
        left_out: why the layers of the others compute with dense weights, by name.
    """

    sparse: tuple[str, ...]
    left_out: Mapping[str, str]

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        reasons: dict[str, list[str]] = {}
        for name, why in self.left_out.items():
            reasons.setdefault(why, []).append(name)
        dense = [f"  {why}: {', '.join(names)}" for why, names in reasons.items()]
        through = ", ".join(self.sparse) or "none"
        return "\n".join([f"sparse kernels: {through}", *(["dense kernels:", *dense] if dense else [])])


@attrs.frozen(eq=False)
class Place:
    """One use of a sparse tensor.

    Attributes:
        module: that holds it, under the attribute.
        attribute: its name there.
        name: the name in the model.
        tensor: by which the layout knows it; another one where it is tied.
    """

    module: nn.Module
    attribute: str
    name: str
    tensor: str

    @property
    def trouble(self) -> str | None:
        """Why it cannot run through the kernels; None if it can."""
        return next((why for why, holds in _TROUBLES.items() if holds(self)), None)


def places_of(model: nn.Module, selection: Selection) -> tuple[Place, ...]:
    """Every use of a sparse tensor, in the order of the modules; the model without wrappers."""
    tensors = {id(one.parameter): one.name for one in selection.sparse}
    return tuple(_places(model, tensors))


def routes_of(places: tuple[Place, ...]) -> Routes:
    """What can run through the sparse kernels.

    Raises:
        InputError: nothing can.
    """
    troubles = {place.name: place.trouble for place in places}
    sparse = tuple(name for name, trouble in troubles.items() if trouble is None)
    left_out = {name: trouble for name, trouble in troubles.items() if trouble is not None}
    if not sparse:
        shown = [f"{name} ({why})" for name, why in left_out.items()][:_SHOWN]
        more = f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
        raise InputError(f"no layer can run through the sparse kernels: {', '.join(shown)}{more}; take kernels='dense'")
    return Routes(sparse, MappingProxyType(left_out))


def _places(model: nn.Module, tensors: Mapping[int, str]) -> Iterator[Place]:
    for path, module in model.named_modules():
        for attribute, parameter in own_parameters(module).items():
            if id(parameter) in tensors:
                name = f"{path}.{attribute}" if path else attribute
                yield Place(module, attribute, name, tensors[id(parameter)])


def _of_module(holds: Callable[[nn.Module], bool]) -> Callable[[Place], bool]:
    return lambda place: holds(place.module)


def _of_convolution(holds: Callable[[nn.Conv2d], bool]) -> Callable[[Place], bool]:
    return lambda place: isinstance(place.module, nn.Conv2d) and holds(place.module)


def _has_own_forward(module: nn.Module) -> bool:
    plain: Any = nn.Conv2d if isinstance(module, nn.Conv2d) else nn.Linear
    cls = type(module)
    return any(
        name in vars(module) or getattr(cls, name, None) is not getattr(plain, name, None) for name in FORWARD_METHODS
    )


_TROUBLES: Mapping[str, Callable[[Place], bool]] = MappingProxyType(
    {
        "not the weight of a Conv2d or a Linear": lambda place: (
            not isinstance(place.module, nn.Conv2d | nn.Linear) or place.attribute != "weight"
        ),
        "its layer has a forward of its own": _of_module(_has_own_forward),
        "MultiheadAttention computes with it": _of_module(
            lambda module: isinstance(module, NonDynamicallyQuantizableLinear)
        ),
        "spread by fully_shard": lambda place: is_sharded(getattr(place.module, place.attribute)),
        "not float32": _of_module(lambda module: any(one.dtype is not torch.float32 for one in module.parameters())),
        "groups": _of_convolution(lambda module: module.groups > 1),
        "dilation": _of_convolution(lambda module: module.dilation != (1, 1)),
        "padding with other values than zeros": _of_convolution(lambda module: module.padding_mode != "zeros"),
        "strides that differ between height and width": _of_convolution(
            lambda module: module.stride[0] != module.stride[1]
        ),
    }
)


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
