"""Chooses the kernels that compute a model's layers: torch's, or the sparse ones for the layers that they support."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError, listed
from sparsecore_torch._torch_internals.modules import FORWARD_METHODS, own_parameters
from sparsecore_torch._torch_internals.processes import EXTENSION_FILE
from sparsecore_torch.sparse_training.model.selection import Selection
from sparsecore_torch.sparse_training.regions.decisions import Decisions
from sparsecore_torch.sparse_training.storage.storage import Storage
from sparsecore_torch.tensors import is_sharded

if TYPE_CHECKING:  # they import the kernels
    from sparsecore_torch.sparse_training.regions.compilation import CompiledModel
    from sparsecore_torch.sparse_training.regions.graph import Cut

_SHOWN = 8
"""The number of layers that an error sentence names."""


@attrs.frozen(eq=False, repr=False)
class Routes:
    """Which sparse tensors the sparse kernels multiply by, and why not by the others; ``print`` shows both.

    Several trainings of one model share its regions, and what is decided on them.

    Attributes:
        sparse: the names of the tensors in layers that the sparse kernels can compute.
        left_out: why the layers of the other tensors compute with dense weights, by name.
        decisions: whether the sparse kernels or torch compute a region or a layer, as it was measured or set by hand.
        cuts: the graphs of the model that have been cut into regions so far; a model has several where it is compiled
            for several kinds of input, or where Python code stands between them.
    """

    sparse: tuple[str, ...]
    left_out: Mapping[str, str]
    decisions: Decisions = attrs.field(factory=Decisions)
    cuts: "list[Cut]" = attrs.field(factory=list)

    def use(self, kernels: str, tensors: str) -> None:
        """Set by hand what computes regions and layers, in place of what is measured faster.

        Args:
            kernels: 'sparse' or 'dense'.
            tensors: a glob on names of sparse tensors; a region is computed so if it has one of these.

        Raises:
            InputError: there are no such kernels, none are sparse, or no tensor that they compute has such a name.
        """
        if not self.sparse:
            raise InputError("this training has no sparse kernels to choose; call sparsify with kernels='sparse'")
        if not any(fnmatchcase(name, tensors) for name in self.sparse):
            known = ", ".join(self.sparse)
            raise InputError(f"no tensor that the sparse kernels compute matches {tensors!r}; they compute {known}")
        self.decisions.use(kernels, tensors)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        reasons: dict[str, list[str]] = {}
        for name, why in self.left_out.items():
            reasons.setdefault(why, []).append(name)
        dense = [f"  {why}: {', '.join(names)}" for why, names in reasons.items()]
        sparse = ", ".join(self.sparse) or "none"
        lines = [f"sparse kernels: {sparse}", *(["dense kernels:", *dense] if dense else [])]
        regions = dict.fromkeys(region.tensors for made in self.cuts for region in made.regions)
        breaks = {place: why for made in self.cuts for place, why in made.breaks.items()}
        lines += [f"regions, each computed as a whole: {len(regions)}"] if regions else []
        lines += [f"  {listed(tensors, _SHOWN)}" for tensors in regions]
        left = {name: why for made in self.cuts for name, why in made.left.items()}
        lines += ["compiled, and computed by torch:"] if left else []
        lines += [f"  {name}: {why}" for name, why in sorted(left.items())]
        lines += ["between the regions, by torch:"] if breaks else []
        lines += [f"  {place}: {why}" for place, why in breaks.items()]
        lines += ["measured:"] if self.decisions.made else []
        lines += [f"  {case}: {one}" for case, one in self.decisions.made.items()]
        rules = _in_force(self.decisions.rules)
        lines += ["set by hand:"] if rules else []
        lines += [f"  {glob}: {choice}" for glob, choice in rules.items()]
        return "\n".join(lines)


def _in_force(rules: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The rules that no later one replaces, in their order: one for the same names, or for all of them."""
    kept: dict[str, str] = {}
    for glob, choice in rules:
        if glob == "*":
            kept.clear()
        kept.pop(glob, None)
        kept[glob] = choice
    return kept


@attrs.frozen(eq=False)
class Choice:
    """Kernels that have been found to work, before anything is changed.

    Attributes:
        routes: which tensors the sparse kernels multiply by.
        apply: from the storage of the weights and the topology to a storage whose layers run through these kernels.
    """

    routes: Routes
    apply: Callable[[Storage, Topology], Storage]


Choose = Callable[[nn.Module, Selection], Choice]
"""From the model without wrappers to a choice; raises an :class:`InputError` where something is missing."""


def _choose_dense(model: nn.Module, selection: Selection) -> Choice:
    names = [use.name for use in _weight_uses(model, selection)]
    routes = Routes((), MappingProxyType(dict.fromkeys(names, "kernels='dense'")))
    return Choice(routes, lambda storage, _: storage)


def _choose_sparse(model: nn.Module, selection: Selection) -> Choice:
    _check_device(selection)
    kernels = _kernels_on_threads_of_torch()
    from sparsecore_torch.sparse_training.regions.compilation import CompiledModel

    uses = _weight_uses(model, selection)
    compiled = CompiledModel.of(model) if _has_plain_forward(model) else None
    routes = _routes_of(uses, compiled)
    supported = [use for use in uses if use.obstacle is None]
    return Choice(routes, lambda storage, topology: _routed(compiled, supported, kernels, routes, storage, topology))


KERNELS: Mapping[str, Choose] = MappingProxyType({"dense": _choose_dense, "sparse": _choose_sparse})
"""The choices by name."""


@attrs.frozen(eq=False)
class _WeightUse:
    """A module that holds a sparse tensor.

    Attributes:
        module: the module.
        attribute: the tensor's name there.
        name: the tensor's name in the model.
        tensor: its name in the layout; another one where it is tied.
    """

    module: nn.Module
    attribute: str
    name: str
    tensor: str

    @property
    def obstacle(self) -> str | None:
        """Why the module cannot run through the sparse kernels; None if it can."""
        return next((why for why, applies in _OBSTACLES.items() if applies(self)), None)


def _weight_uses(model: nn.Module, selection: Selection) -> tuple[_WeightUse, ...]:
    """All modules that hold sparse tensors, in the order of the model's modules."""
    tensors = {id(one.parameter): one.name for one in selection.sparse}
    return tuple(_iterate_uses(model, tensors))


def _iterate_uses(model: nn.Module, tensors: Mapping[int, str]) -> Iterator[_WeightUse]:
    for path, module in model.named_modules():
        for attribute, parameter in own_parameters(module).items():
            if id(parameter) in tensors:
                name = f"{path}.{attribute}" if path else attribute
                yield _WeightUse(module, attribute, name, tensors[id(parameter)])


def _routes_of(uses: tuple[_WeightUse, ...], compiled: "CompiledModel | None") -> Routes:
    obstacles = {use.name: use.obstacle for use in uses}
    sparse = tuple(name for name, obstacle in obstacles.items() if obstacle is None)
    left_out = {name: obstacle for name, obstacle in obstacles.items() if obstacle is not None}
    if not sparse:
        reasons = listed([f"{name} ({why})" for name, why in left_out.items()], _SHOWN)
        raise InputError(f"no layer can run through the sparse kernels: {reasons}; take kernels='dense'")
    if compiled is None:
        return Routes(sparse, MappingProxyType(left_out))
    return Routes(sparse, MappingProxyType(left_out), compiled.decisions, compiled.cuts)


def _has_plain_forward(model: nn.Module) -> bool:
    """Whether the forward pass is that of the model's class, which is compiled."""
    return "forward" not in vars(model) and not isinstance(model, torch.jit.ScriptModule)


def _routed(
    compiled: "CompiledModel | None",
    uses: list[_WeightUse],
    kernels: Any,
    routes: Routes,
    storage: Storage,
    topology: Topology,
) -> Storage:
    from sparsecore_torch.sparse_training.kernels.functions import Convolutions, LayerKind, LinearLayers
    from sparsecore_torch.sparse_training.kernels.modules import Route, RoutedStorage

    kinds: dict[int, LayerKind] = {4: Convolutions(kernels), 2: LinearLayers(kernels)}
    dimensions = {name: len(shape) for name, shape in zip(topology.layout.names, topology.layout.shapes, strict=True)}
    layers = [Route(use.module, use.tensor, kinds[dimensions[use.tensor]], topology, routes.decisions) for use in uses]
    return RoutedStorage(storage, layers, compiled)


def _check_device(selection: Selection) -> None:
    device = selection.sparse[0].parameter.device
    if device.type != "cpu":
        raise InputError(f"the sparse kernels run on the CPU, and the model is on {device}; take kernels='dense'")


def _kernels_on_threads_of_torch() -> Any:
    try:
        from sparsecore_cpu._kernels import use_openmp_of
        from sparsecore_cpu.layer import kernels
    except ImportError as error:
        raise InputError(
            "kernels='sparse' needs the distribution sparsecore-cpu, which is not installed: "
            "pip install ./backends/sparsecore_cpu, with a C++ compiler; or take kernels='dense'"
        ) from error
    # threads of their own, which the kernels have otherwise, would wait for the cores on which torch's spin
    use_openmp_of(EXTENSION_FILE)
    return kernels()


def _of_module(applies: Callable[[nn.Module], bool]) -> Callable[[_WeightUse], bool]:
    return lambda use: applies(use.module)


def _has_own_forward(module: nn.Module) -> bool:
    plain: Any = nn.Conv2d if isinstance(module, nn.Conv2d) else nn.Linear
    cls = type(module)
    return any(
        name in vars(module) or getattr(cls, name, None) is not getattr(plain, name, None) for name in FORWARD_METHODS
    )


_OBSTACLES: Mapping[str, Callable[[_WeightUse], bool]] = MappingProxyType(
    {
        "not the weight of a Conv2d or a Linear": lambda use: (
            not isinstance(use.module, nn.Conv2d | nn.Linear) or use.attribute != "weight"
        ),
        "its layer has a forward of its own": _of_module(_has_own_forward),
        "MultiheadAttention computes with it": _of_module(
            lambda module: isinstance(module, NonDynamicallyQuantizableLinear)
        ),
        "sharded by fully_shard": lambda use: is_sharded(getattr(use.module, use.attribute)),
        "not float32": _of_module(lambda module: any(one.dtype is not torch.float32 for one in module.parameters())),
        "padding with other values than zeros": _of_module(
            lambda module: isinstance(module, nn.Conv2d) and module.padding_mode != "zeros"
        ),
    }
)
