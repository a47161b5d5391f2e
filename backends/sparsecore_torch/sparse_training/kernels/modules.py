"""Modules whose forward pass goes through the sparse kernels, and become what they were."""

import copyreg
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, final

import attrs
import torch
from torch import Tensor, nn

from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology
from sparsecore.learning.ledger import Bytes, Ledger
from sparsecore_torch._torch_internals import are_transforms_active, is_forward_mode_active, is_tracing, own_parameters
from sparsecore_torch.arrays import active_indices
from sparsecore_torch.sparse_training.kernels.functions import Computation, Kind, existing, through
from sparsecore_torch.sparse_training.storage.compact_modules import entries_of
from sparsecore_torch.sparse_training.storage.storage import Storage

_KEPT = "_sparse_kernels"
"""Where a module keeps what it computes with."""

# pickle takes its usual maker only for an object's own class
_reconstructor: Any = copyreg._reconstructor  # type: ignore[attr-defined]

Read = Callable[[nn.Module, Tensor], Tensor]
"""The N_i values of a module's weight, differentiable, given where they lie within it."""


@final
class Route:
    """The way of one module through the kernels.

    Lists of the weights that exist are made when a batch comes, so that a topology that nothing runs through costs
    nothing.

    Args:
        module: whose way it is.
        tensor: of its weight, in the layout.
        kind: of module.
        topology: the active positions.
    """

    def __init__(self, module: nn.Module, tensor: str, kind: Kind, topology: Topology) -> None:
        self._module = module
        self._tensor = tensor
        self._kind = kind
        self._read: Read = _of_parameter if "weight" in own_parameters(module) else _of_compact
        self._is_dense = False
        self.move(topology)

    def move(self, topology: Topology) -> None:
        """The weights are at other positions from now on."""
        self._topology = topology
        self._current: _Current | None = None

    def expect(self, *, dense: bool) -> None:
        """Whether the next step needs gradients of all positions, which the dense layer makes."""
        self._is_dense = dense

    @property
    def nbytes(self) -> int:
        """What says where the weights are, as the kernels have it."""
        current = self._current
        return 0 if current is None else current.places.nbytes + current.computation.layer.nbytes

    def enter(self, check: Callable[[str], None]) -> None:
        """The module goes this way from now on.

        Args:
            check: called before the kernels compute with the active weights of the tensor of this name; raises an error
                if those are not all.
        """
        self._check = check
        self._module.__dict__[_KEPT] = self
        cls: Any = type(self._module)
        self._module.__class__ = _routed(cls)

    def leave(self) -> None:
        """The module is what it was."""
        del self._module.__dict__[_KEPT]
        self._module.__class__ = type(self._module).__bases__[0]

    def __call__(self, given: Tensor, dense: Callable[[Tensor], Tensor]) -> Tensor:
        """The module's output; ``dense`` is its own way, of which it makes what the kernels do not take."""
        x = _lifted(given)
        if not (_is_plain(x) and self._kind.takes(self._module, x)):
            return dense(given)
        if self._is_dense:
            with torch.autocast("cpu", enabled=False):
                return dense(x)
        self._check(self._tensor)
        current = self._computed()
        values = self._read(self._module, current.places)
        if not _is_plain(values):  # the model has been moved
            return dense(given)
        bias: Any = self._module.bias
        return self._kind.run(x, lambda batch: through(batch, values, bias, current.computation))

    def _computed(self) -> "_Current":
        if self._current is None:
            within = active_indices(self._topology, self._topology.layout.index(self._tensor))
            self._current = _Current(within, self._kind.computation(self._module, within.numpy()))
        return self._current


@attrs.frozen(eq=False)
class _Current:
    """What a route needs while the topology stays as it is."""

    places: Tensor
    computation: Computation


@cache
def _routed(cls: type[nn.Module]) -> type[nn.Module]:
    """The class of modules that go through the kernels; copies of them are of the class as it was."""

    def forward(self: Any, input: Tensor) -> Any:  # torch's name for it, which callers may use
        route: Route = self.__dict__[_KEPT]
        return route(input, lambda given: cls.forward(self, given))

    def reduced(self: Any, protocol: Any) -> Any:
        reduce: Callable[..., Any] = cls.__reduce_ex__
        _, _, state, *rest = reduce(self, protocol)
        plain = {name: content for name, content in state.items() if name != _KEPT}
        return _reconstructor, (cls, object, None), plain, *rest

    disable: Any = torch.compiler.disable
    return type(f"Sparse{cls.__name__}", (cls,), {"forward": disable(forward), "__reduce_ex__": reduced})


def _of_parameter(module: nn.Module, within: Tensor) -> Tensor:
    weight: Any = module.weight
    return existing(weight, within)


def _of_compact(module: nn.Module, _: Tensor) -> Tensor:
    return entries_of(module, "weight")


def _lifted(x: Tensor) -> Tensor:
    """In float32 where autocast chooses the dtypes, as the kernels have no other."""
    is_lifted = torch.is_autocast_enabled("cpu") and x.is_floating_point() and x.dtype is not torch.float64
    return x.float() if is_lifted else x


def _is_plain(x: Tensor) -> bool:
    """Whether the kernels can read it; what torch traces, exports or transforms a model with is no such tensor."""
    if type(x) not in {Tensor, nn.Parameter} or is_tracing():
        return False
    if are_transforms_active() or is_forward_mode_active():
        return False
    return x.dtype is torch.float32 and x.device.type == "cpu" and x.layout is torch.strided


@final
class RoutedStorage:
    """See :class:`sparsecore_torch.sparse_training.storage.storage.Storage`; all of it is the inner storage's.

    What the routes have to know is passed on to them: where weights are, and whether a dense gradient is wanted. In
    the step that it is wanted for, layers are the inner storage's dense ones.

    Args:
        inner: where the weights lie.
        routes: of the modules, which are taken from now on.
    """

    def __init__(self, inner: Storage, routes: Sequence[Route]) -> None:
        self._inner = inner
        self._routes = tuple(routes)
        for route in self._routes:
            route.enter(check=inner.check_written)

    def values(self) -> Tensor:
        """The N values in the order of the topology's positions."""
        return self._inner.values()

    def set_values(self, values: Tensor) -> None:
        """Replace the N values; optimizer state stays."""
        self._inner.set_values(values)

    def enforce(self) -> None:
        """Make inactive weights and their optimizer state exactly zero."""
        self._inner.enforce()

    def reallocate(self, reallocation: Reallocation) -> None:
        """Move to the new topology and its values."""
        self._inner.reallocate(reallocation)
        self._move(reallocation.after)

    def restore(self, topology: Topology) -> None:
        """Take up a saved topology."""
        self._inner.restore(topology)
        self._move(topology)

    def check_written(self, name: str | None = None, *, thoroughly: bool = False) -> None:
        """Raise an :class:`InputError` if something else has written weights that do not belong to the topology."""
        self._inner.check_written(name, thoroughly=thoroughly)

    def nonzero_positions(self) -> Tensor:
        """The positions of all nonzero weights, active or not."""
        return self._inner.nonzero_positions()

    def expect_gradient(self, *, dense: bool) -> None:
        """Whether the gradients of the next step are to arrive dense."""
        self._inner.expect_gradient(dense=dense)
        for route in self._routes:
            route.expect(dense=dense)

    def gradient(self, name: str) -> Tensor:
        """The dense gradient of a tensor in the step just taken."""
        return self._inner.gradient(name)

    def squash(self) -> None:
        """End: modules are of their own classes again, then whatever the inner storage does."""
        for route in self._routes:
            route.leave()
        self._inner.squash()

    def ledger(self) -> Ledger:
        """Bytes of the inner storage; among the indices what the kernels have made of the positions so far."""
        inner, lists = self._inner.ledger(), sum(route.nbytes for route in self._routes)
        indices = Bytes(inner.indices.theoretical + lists, inner.indices.measured + lists)
        return attrs.evolve(inner, indices=indices)

    def _move(self, topology: Topology) -> None:
        for route in self._routes:
            route.move(topology)
