"""Sends the forward pass of modules through the sparse kernels, and makes the modules what they were again."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, final

import attrs
import torch
from torch import Tensor, nn

from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology
from sparsecore.learning.ledger import Bytes, Ledger
from sparsecore_torch._torch_internals.autograd import is_tracing
from sparsecore_torch._torch_internals.compilation import untraced
from sparsecore_torch._torch_internals.modules import own_parameters
from sparsecore_torch.arrays import active_indices
from sparsecore_torch.sparse_training.kernels.functions import Computation, LayerKind, active_weights, sparse_layer
from sparsecore_torch.sparse_training.regions.compilation import CompiledModel, reduced_to
from sparsecore_torch.sparse_training.regions.decisions import Decisions, Ways, size_class
from sparsecore_torch.sparse_training.regions.transforms import check_untransformed
from sparsecore_torch.sparse_training.storage import sparse_weights
from sparsecore_torch.sparse_training.storage.compact_modules import active_values
from sparsecore_torch.sparse_training.storage.scripting import refuse_script
from sparsecore_torch.sparse_training.storage.storage import Storage

_ROUTE = "_sparse_kernels"
"""The attribute of a module that holds its route."""

Read = Callable[[nn.Module], Tensor]
"""From a module to the N_i values of its active weights, differentiable."""


@final
class Route:
    """Runs the forward pass of one module through the kernels.

    The kernels' lists of active weights are made when a batch arrives, so that a topology that no batch meets costs
    nothing.

    Args:
        module: the module.
        tensor: the name of its weight in the layout.
        kind: of the module.
        topology: the active positions.
        decisions: whether the kernels compute the layer.
    """

    def __init__(
        self, module: nn.Module, tensor: str, kind: LayerKind, topology: Topology, decisions: Decisions
    ) -> None:
        self._decisions = decisions
        self._module = module
        self._tensor = tensor
        self._kind = kind
        self._read: Read = _of_parameter if "weight" in own_parameters(module) else _of_compact
        self._is_dense = False
        self.move(topology)

    def move(self, topology: Topology) -> None:
        """Compute with weights at other positions from now on.

        Args:
            topology: the active positions; the kernels' lists of the old ones are dropped.
        """
        self._topology = topology
        self._computation: Computation | None = None

    def expect(self, *, dense: bool) -> None:
        """Choose how the next step is computed.

        Args:
            dense: whether by the module's own layer, as gradients of all positions are needed, or by the kernels.
        """
        self._is_dense = dense

    @property
    def nbytes(self) -> int:
        """Bytes of the kernels' lists of active weights."""
        return 0 if self._computation is None else self._computation.layer.nbytes

    def install(self, check: Callable[[str], None]) -> None:
        """Run the module through the kernels from now on.

        Args:
            check: called with the tensor's name before the kernels compute with its active weights; raises an error if
                other weights are nonzero.
        """
        self._check = check
        self._module.__dict__[_ROUTE] = self
        cls: Any = type(self._module)
        self._module.__class__ = _routed(cls)

    def uninstall(self) -> None:
        """Make the module what it was."""
        del self._module.__dict__[_ROUTE]
        self._module.__class__ = type(self._module).__bases__[0]

    def __call__(self, given: Tensor, dense: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the module's output; ``dense`` is its own forward pass, for what the kernels do not support."""
        if not is_tracing():
            check_untransformed()
        x = _in_float32(given)
        if not (_is_plain(x) and self._kind.supports(self._module, x)):
            return dense(given)
        if self._is_dense:
            with torch.autocast("cpu", enabled=False):
                return dense(x)
        self._check(self._tensor)
        computation = self._computed()
        values = self._read(self._module)
        if not _is_plain(values):  # the model has been moved
            return dense(given)
        bias: Any = self._module.bias

        def sparse(x: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
            return self._kind.run(x, lambda batch: sparse_layer(batch, values, bias, computation))

        if not self._takes_sparse(x, values, bias, sparse, dense):
            return dense(given)
        return sparse(x, values, bias)

    def _takes_sparse(
        self,
        x: Tensor,
        values: Tensor,
        bias: Tensor | None,
        sparse: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        dense: Callable[[Tensor], Tensor],
    ) -> bool:
        """Return whether the kernels compute the layer, as it was measured with an input of this shape."""
        is_differentiable = torch.is_grad_enabled() and (x.requires_grad or values.requires_grad)
        mode = "training" if is_differentiable else "evaluation"
        case = f"{self._tensor}: {size_class(x.shape)}, {mode}, {torch.get_num_threads()} threads"

        def run(forward: Callable[..., Tensor], trained: Sequence[Tensor | None], *others: Tensor | None) -> None:
            leaf = x.detach().requires_grad_(x.requires_grad)
            made = forward(leaf, *others)
            wanted = [one for one in (leaf, *trained) if one is not None and one.requires_grad]
            if made.requires_grad:
                torch.autograd.grad(made, wanted, made.detach(), allow_unused=True)

        return self._decisions.takes_sparse(
            case,
            [self._tensor],
            len(values),
            lambda: Ways(
                sparse=lambda: run(sparse, (values, bias), values, bias),
                dense=lambda: run(dense, (values, *self._module.parameters())),
            ),
        )

    def _computed(self) -> Computation:
        if self._computation is None:
            indices = active_indices(self._topology, self._topology.layout.index(self._tensor))
            self._computation = Computation(self._kind.layer(self._module, indices.numpy()), self._kind)
        return self._computation


@cache
def _routed(cls: type[nn.Module]) -> type[nn.Module]:
    """Return the class of modules that run through the kernels; copies of these are of the original class."""

    def run(self: Any, given: Tensor) -> Any:
        route: Route = self.__dict__[_ROUTE]
        return route(given, lambda batch: cls.forward(self, batch))

    run_as_is = untraced(run)

    def forward(self: Any, input: Tensor) -> Any:  # torch's name for it, which callers may use
        if torch.compiler.is_compiling() and sparse_weights.IS_CUTTING:
            return cls.forward(self, input)
        return run_as_is(self, input)

    return type(
        f"Sparse{cls.__name__}",
        (cls,),
        {"forward": forward, "__reduce_ex__": reduced_to(cls, _ROUTE), "__prepare_scriptable__": refuse_script},
    )


def _of_parameter(module: nn.Module) -> Tensor:
    weight: Any = module.weight
    declared = sparse_weights.find(weight)
    if declared is None:
        raise RuntimeError("a module with a route to the sparse kernels has a weight that is not declared to be sparse")
    return active_weights(weight, declared)


def _of_compact(module: nn.Module) -> Tensor:
    return active_values(module, "weight")


def _in_float32(x: Tensor) -> Tensor:
    """Return the input in float32 where autocast chooses the dtypes, as the kernels have no other."""
    is_cast = torch.is_autocast_enabled("cpu") and x.is_floating_point() and x.dtype is not torch.float64
    return x.float() if is_cast else x


def _is_plain(x: Tensor) -> bool:
    """Whether the kernels can read the tensor, unlike those by which torch traces or exports a model."""
    if type(x) not in {Tensor, nn.Parameter} or is_tracing():
        return False
    return x.dtype is torch.float32 and x.device.type == "cpu" and x.layout is torch.strided


@final
class RoutedStorage:
    """Sends modules through the kernels; a :class:`~sparsecore_torch.sparse_training.storage.storage.Storage`.

    The inner storage does all the work. The routes get each new topology. In steps that need dense gradients, modules
    compute with the inner storage's dense weights.

    Args:
        inner: keeps the weights.
        routes: of the modules; they are installed.
        compiled: runs the model in regions, and is installed; None for a model that is not compiled.
    """

    def __init__(self, inner: Storage, routes: Sequence[Route], compiled: CompiledModel | None) -> None:
        self._inner = inner
        self._compiled = compiled
        self._routes = tuple(routes)
        for route in self._routes:
            route.install(check=inner.check_written)
        if compiled is not None:
            compiled.install()

    def values(self) -> Tensor:
        """Return the N values in the order of the topology's positions."""
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
        """Check that nothing but the training has written weights that do not belong to the topology."""
        self._inner.check_written(name, thoroughly=thoroughly)

    def nonzero_positions(self) -> Tensor:
        """Return the positions of all nonzero weights, active or not; ascending, int64."""
        return self._inner.nonzero_positions()

    def expect_gradient(
        self,
        *,
        dense: bool,
        is_step_replaced: bool = False,
        active: bool = False,
        candidates: Topology | None = None,
    ) -> None:
        """Prepare for the gradients of the next step, and compute densely where inactive weights are to have some."""
        self._inner.expect_gradient(
            dense=dense, is_step_replaced=is_step_replaced, active=active, candidates=candidates
        )
        for route in self._routes:
            route.expect(dense=dense or candidates is not None)

    def active_gradient(self) -> Tensor:
        """Return the gradients of the active weights in the last step, (N,)."""
        return self._inner.active_gradient()

    def candidate_gradient(self) -> Tensor:
        """Return the gradients at the candidates in the last step, one entry for each."""
        return self._inner.candidate_gradient()

    def gradient(self, name: str) -> Tensor:
        """Return the dense gradient of a tensor in the last step, (D_i,)."""
        return self._inner.gradient(name)

    def weight_gradient(self) -> Tensor:
        """Return the gradients of the active weights, (N,)."""
        return self._inner.weight_gradient()

    def momentum(self, name: str) -> Tensor | None:
        """Return SGD's momentum of a tensor's active weights, (N_i,), or None."""
        return self._inner.momentum(name)

    def set_weight_gradient(self, weight_gradient: Tensor) -> None:
        """Replace the gradients of the active weights."""
        self._inner.set_weight_gradient(weight_gradient)

    def stepped_entries(self, name: str, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the optimizer has some weights of a tensor."""
        return self._inner.stepped_entries(name, indices)

    def squash(self) -> None:
        """Make modules what they were, and squash the inner storage."""
        if self._compiled is not None:
            self._compiled.uninstall()
        for route in self._routes:
            route.uninstall()
        self._inner.squash()

    def keep_state_dicts_plain(self) -> None:
        """Let the state dicts of model and optimizer be those of dense parameters."""
        self._inner.keep_state_dicts_plain()

    def ledger(self) -> Ledger:
        """Return the bytes of the inner storage; the kernels' lists made so far count as indices."""
        inner, lists = self._inner.ledger(), sum(route.nbytes for route in self._routes)
        indices = Bytes(inner.indices.theoretical + lists, inner.indices.measured + lists)
        return attrs.evolve(inner, indices=indices)

    def _move(self, topology: Topology) -> None:
        for route in self._routes:
            route.move(topology)
