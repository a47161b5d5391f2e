"""Notices steps that sparse training misses: other optimizers, steps without effect, replaced Parameters."""

import gc
import warnings
import weakref
from collections.abc import Container, Sequence
from typing import Any, final

import attrs
import torch
from torch import Tensor, nn

from sparsecore.errors import InputError
from sparsecore_torch._torch_internals.autograd import tensor_hooks
from sparsecore_torch._torch_internals.modules import own_buffers, own_modules, own_parameters
from sparsecore_torch._torch_internals.tensors import write_count
from sparsecore_torch.sparse_training.model.parameters import NamedParameter, own_parameter
from sparsecore_torch.sparse_training.optimizers.wrapped import OptimizerLayers
from sparsecore_torch.sparse_training.storage.compact_modules import weights_of
from sparsecore_torch.tensors import is_sharded

_WATCHED = 16
"""The number of tensors that are watched, spread over the model: an unknown optimizer changes all of them."""
_ALLOWED_CHANGES = 3
"""How often in a row weights may change between two gradients without a step: loading or a perturbation does so."""
_STALLED = 10
"""How many steps in a row may change nothing: an optimizer may accumulate gradients."""
_CLOSURE = 100
"""How many gradients may arrive within one step, from its closure."""
_SAMPLE = 4096
"""The number of entries that are compared where torch has counted no write."""


@final
class StepWatch:
    """Watches weights as gradients arrive and as steps end, and raises an error if something else trains them.

    Torch counts the writes to each tensor. Where weights have been written to between the gradients of two batches
    without a step of the optimizer in between, something else trains them. Where a step leaves the count as it was, the
    optimizer does not train them. Writes that torch does not count (``weight.data``, kernels of other libraries) are
    found by comparing some entries, where there is reason to.

    Args:
        model: without wrappers.
        tensors: the sparse tensors.
        layers: the optimizer and its wrappers.
    """

    def __init__(self, model: nn.Module, tensors: Sequence[NamedParameter], layers: OptimizerLayers) -> None:
        self._model = model
        self._layers = layers
        self._is_within_step = False
        self._handles: list[Any] = []
        self._uses = _uses(tensors)
        self._holders = {module: one.name for one in tensors for module, _ in one.holders}
        self._links = _links(model, self._holders)
        named = {use.name: use.parameter for use in self._uses}
        # a hook may outlive the watch, and warns then
        gone, watch = _GoneTraining(type(layers.stepping).__name__), weakref.ref(self)
        self._watched = [_Watched(name, parameter) for name, parameter in _spread(list(named.items()))]
        for seen in self._watched:
            _remove_old_hooks(seen.parameter)
            register: Any = seen.parameter.register_hook
            self._handles.append(register(_GradientHook(watch, seen, gone)))

    def end(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()

    def begin_step(self) -> None:
        """Note that a step of the optimizer begins, whose closure may change weights."""
        self._is_within_step = True

    def end_step(self, *, is_taken: bool) -> None:
        """Note that a step has ended, and check its effect.

        Args:
            is_taken: whether it should have changed weights, and was neither skipped by a GradScaler nor replaced.

        Raises:
            InputError: the optimizer does not train the sparse tensors, or they are no longer the model's.
        """
        begun, self._is_within_step = self._is_within_step, False
        if begun and is_taken:
            self._check_trained([seen for seen in self._watched if seen.arrivals])
        for seen in self._watched:
            seen.arrivals = seen.passed_by = 0
            seen.sample = None
        self.check_parameters()

    def check_parameters(self) -> None:
        """Check that the model still holds the Parameters that were made sparse, without masks of its own.

        Raises:
            InputError: a Parameter or a module has been replaced, or torch.nn.utils.prune masks a Parameter.
        """
        for parent, name, module in self._links:
            children = own_modules(parent)
            if name not in children or children[name] is not module:  # scripted modules have no get
                self._check_modules()
                break
        for use in self._uses:
            if not use.is_unchanged():  # this runs for each tensor and step
                self._check_use(use)

    def _check_use(self, use: "_ParameterUse") -> None:
        if _hides_weights(use.module, use.mask):
            raise InputError(
                f"{use.name} has a mask of torch.nn.utils.prune in addition to that of sparse training, and two masks "
                "together zero more weights than either alone; remove the mask with prune.remove, or call squash() "
                "before pruning"
            )
        held = own_parameter(use.module, use.attribute)
        if held is not use.parameter and self._is_replaced(held, use.parameter):
            raise InputError(
                f"{use.name} was replaced by a new Parameter after it was made sparse, so the original is no longer "
                "trained; write into the Parameter instead (with torch.no_grad(): parameter.copy_(...); "
                "load_state_dict without assign=True), or call squash() before replacing it and sparsify after"
            )

    def _check_modules(self) -> None:
        """Check modules that are no longer where they were: they may be wrapped or moved, but must be in the model."""
        modules, parameters = set(self._model.modules()), set(self._model.parameters())
        trained = {use.name: use.parameter for use in self._uses}
        for module, name in self._holders.items():
            if module not in modules and trained.get(name) not in parameters:
                raise InputError(
                    f"the module with {name} is no longer in the model, and a module that may have replaced it is not "
                    "sparse; call squash() before modules are replaced and sparsify after"
                )
        self._links = _links(self._model, self._holders)

    def _is_replaced(self, held: Tensor | None, parameter: nn.Parameter) -> bool:
        if held is not None:
            return True
        # a parametrization, or torch.nn.utils.prune, keeps it under another name
        return all(one is not parameter for one in self._model.parameters())

    def arrived(self, seen: "_Watched") -> str | None:
        """Note that a gradient arrives at a tensor, before it is accumulated.

        Args:
            seen: the tensor.

        Returns:
            A sentence for the user if the weights have changed several times without a step of the optimizer.
        """
        parameter, version = seen.parameter, write_count(seen.parameter)
        seen.arrivals += 1
        if self._is_within_step and seen.arrivals < _CLOSURE:
            pass
        elif seen.arrivals > 1 and self._has_changed(seen, version) and _is_cleared(parameter.grad):
            seen.passed_by += 1
            if seen.passed_by >= _ALLOWED_CHANGES:
                return self._passed_by(seen)
        seen.version = version
        return None

    def _has_changed(self, seen: "_Watched", version: int) -> bool:
        """Whether the weights have changed since the last gradient arrived; entries are compared now and then."""
        if version != seen.version:
            return True
        count, parameter = seen.arrivals, seen.parameter
        # when twice as many have arrived; where the comparison has to wait for a device, only with reason
        is_time = seen.passed_by or not count & (count - 1)
        if not is_time or (parameter.grad is not None and parameter.device.type != "cpu"):
            return False
        before, seen.sample = seen.sample, _sample(parameter)
        return before is not None and not torch.equal(before, seen.sample)

    def _check_trained(self, given: Sequence["_Watched"]) -> None:
        """Check that steps train the tensors that had a gradient.

        Where torch has counted no write, tensors are compared with their entries after the last step; this waits for a
        device once.
        """
        doubtful = [seen for seen in given if self._is_in_doubt(seen)]
        samples = [_sample(seen.parameter) for seen in doubtful]
        for seen, now, is_same in zip(doubtful, samples, _are_same(doubtful, samples), strict=True):
            if not is_same:
                seen.writes_are_uncounted = True
                continue
            seen.before = now
            seen.stalled += 1
            if seen.stalled > _STALLED:
                raise InputError(
                    f"{_STALLED} steps of {type(self._layers.stepping).__name__} in a row have left {seen.name} as it "
                    "was, although it had a gradient: the optimizer trains other tensors than those in its param "
                    "groups, such as a list of its own; take storage='masked', which keeps the model's Parameters, or "
                    "another optimizer"
                )

    def _is_in_doubt(self, seen: "_Watched") -> bool:
        """Return whether torch has counted no write to a tensor in a step that was to change it."""
        parameter = seen.parameter
        if write_count(parameter) != seen.version or parameter.grad is None or seen.writes_are_uncounted:
            seen.stalled, seen.before = 0, None
            return False
        groups = [group for group in self._layers.stepping.param_groups if _holds(group, parameter)]
        if not groups:
            raise InputError(
                f"{type(self._layers.stepping).__name__} no longer holds {seen.name} in its param groups, so that "
                "nothing trains it; put the Parameter back, or call squash() before groups are changed and sparsify "
                "after"
            )
        return bool(groups[0].get("lr", 1.0))

    def _passed_by(self, seen: "_Watched") -> str:
        optimizer = type(self._layers.stepping).__name__
        return (
            f"{seen.name} has changed between the gradients of {_ALLOWED_CHANGES + 1} batches in a row, but step() of "
            f"the {optimizer} that sparsify was given has not run, so pruned weights are not kept at zero. "
            "If another optimizer trains the model now, call training.follow(optimizer). "
            "If the optimizer is wrapped, give sparsify the wrapper. "
            "A step() that is set on the instance has to call the one of its class. "
            "Perturbations of weights belong in the closure of step(closure)"
        )


@attrs.define(eq=False)
class _Watched:
    """A watched tensor.

    Attributes:
        name: of the tensor.
        parameter: the tensor.
        version: its write count when the last gradient arrived.
        arrivals: the number of gradients since the last step.
        passed_by: how often the weights have changed between two of these without a step.
        sample: some entries when a gradient arrived.
        stalled: the number of steps in a row that have changed nothing.
        before: some entries after the last of them.
        writes_are_uncounted: whether the optimizer has been seen to write past torch's count.
    """

    name: str
    parameter: nn.Parameter
    version: int = -1
    arrivals: int = 0
    passed_by: int = 0
    sample: Tensor | None = None
    stalled: int = 0
    before: Tensor | None = None
    writes_are_uncounted: bool = False


@attrs.frozen(eq=False)
class _ParameterUse:
    """A module that holds a watched Parameter.

    Attributes:
        name: of the Parameter in the model.
        module: the module.
        attribute: the Parameter's name there.
        parameter: the Parameter.
        mask: the name that torch.nn.utils.prune would give to the buffer of its mask.
    """

    name: str
    module: nn.Module
    attribute: str
    parameter: nn.Parameter
    mask: str = attrs.field(init=False)

    @mask.default
    def _mask_name(self) -> str:
        return f"{self.attribute}_mask"

    def is_unchanged(self) -> bool:
        """Return whether the module holds the Parameter, and no buffer that looks like a mask of it."""
        module, name = self.module, self.attribute
        held = own_parameters(module)
        return name in held and held[name] is self.parameter and self.mask not in own_buffers(module)


def _hides_weights(module: nn.Module, name: str) -> bool:
    """Return whether a module has a mask of this name that contains zeros."""
    return name in own_buffers(module) and not bool(own_buffers(module)[name].all())  # type: ignore[union-attr]


def trained_parameters(tensors: Sequence[NamedParameter]) -> list[nn.Parameter]:
    """Return what the optimizer trains for the sparse tensors.

    Args:
        tensors: the sparse tensors.

    Returns:
        Their Parameters, or the one Parameter of compact storage.
    """
    weights = weights_of(tensors)
    return [one.parameter for one in tensors] if weights is None else [weights.values]


def _uses(tensors: Sequence[NamedParameter]) -> list[_ParameterUse]:
    """The modules that hold the trained Parameters, except sharded ones, which fully_shard replaces as it computes."""
    weights = weights_of(tensors)
    if weights is not None:
        name = weights.values_name
        return [_ParameterUse(name, weights.model, name, weights.values)]
    return [
        _ParameterUse(one.name, module, attribute, one.parameter)
        for one in tensors
        for module, attribute in one.holders
        if not is_sharded(one.parameter) and getattr(module, "max_norm", None) is None  # that writes in each batch
    ]


def _links(model: nn.Module, holders: Container[nn.Module]) -> list[tuple[nn.Module, str, nn.Module]]:
    """Parent, name and child for every step on the way from the model to the modules that hold sparse tensors."""
    found: dict[tuple[nn.Module, str], nn.Module] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if path and module in holders:
            parent = model
            for name in path.split("."):
                child: Any = own_modules(parent)[name]
                found[parent, name] = child
                parent = child
    return [(parent, name, module) for (parent, name), module in found.items()]


def _spread(items: list[tuple[str, nn.Parameter]]) -> list[tuple[str, nn.Parameter]]:
    return items[:: max(1, -(-len(items) // _WATCHED))]


def _holds(group: dict[str, Any], parameter: Tensor) -> bool:
    return any(held is parameter for held in group["params"])


def _is_cleared(gradient: Tensor | None) -> bool:
    """Return whether a gradient has been set to zero, so that the next one is the first to be accumulated."""
    return gradient is None or not bool(gradient.any())


def _are_same(seen: Sequence["_Watched"], samples: Sequence[Tensor]) -> list[bool]:
    """Return whether each sample is equal to the last one, or is the first; this waits for a device once."""
    pairs = [(one.before, now) for one, now in zip(seen, samples, strict=True) if one.before is not None]
    equal = iter(torch.stack([(a == b).all().to(pairs[0][1].device) for a, b in pairs]).tolist() if pairs else ())
    return [one.before is None or next(equal) for one in seen]


def _sample(parameter: Tensor) -> Tensor:
    """Some entries of a tensor, in the order of memory."""
    return parameter.detach().as_strided((min(parameter.numel(), _SAMPLE),), (1,)).clone()


@attrs.define(eq=False)
class _GoneTraining:
    """Warns once that a training no longer exists, because its optimizer does not."""

    optimizer: str
    has_warned: bool = False

    def warn(self, name: str) -> None:
        if not self.has_warned:
            self.has_warned = True
            warnings.warn(
                f"the {self.optimizer} that sparsify was given no longer exists, and with it the sparse training of "
                f"{name} has ended: the model trains densely. Keep what sparsify returns: its follow(optimizer) "
                "continues with another optimizer, and its squash() ends it without a warning",
                stacklevel=2,
            )


@attrs.frozen(eq=False)
class _GradientHook:
    """A hook on a tensor, which refers to the watch weakly."""

    watch: "weakref.ref[StepWatch]"
    seen: _Watched
    gone: _GoneTraining

    def __call__(self, gradient: Tensor | None) -> None:
        if gradient is None:  # of a function of autograd whose result does not depend on the tensor
            return
        watch = self.watch()
        sentence = None if watch is None else watch.arrived(self.seen)
        if sentence is not None:
            del watch
            gc.collect()  # a training without references may be part of a reference cycle
            watch = self.watch()
        if watch is None:
            self.gone.warn(self.seen.name)
        elif sentence is not None:
            raise InputError(sentence)


def _remove_old_hooks(parameter: Any) -> None:
    """Remove the hooks of trainings that no longer exist."""
    hooks = tensor_hooks(parameter)["_backward_hooks"] or {}
    for key in [key for key, hook in hooks.items() if isinstance(hook, _GradientHook) and hook.watch() is None]:
        del hooks[key]
