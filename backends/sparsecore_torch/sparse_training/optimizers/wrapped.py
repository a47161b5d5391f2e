"""Optimizers inside wrappers: which one takes the step, and which objects keep state for a parameter."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

import attrs
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsecore.errors import InputError
from sparsecore_torch._torch_internals.optimizers import runs_step_hooks
from sparsecore_torch.sparse_training.model.parameters import NamedParameter

_OTHERS: WeakKeyDictionary[Optimizer, tuple[tuple[Any, ...], ...]] = WeakKeyDictionary()
"""Weak references to the wrappers and parts of an optimizer, by the optimizer that takes the step.

There is an entry for each training that the optimizer has a part in.
"""


@attrs.frozen(eq=False)
class OptimizerLayers:
    """An optimizer with its wrappers, and with the optimizers that it consists of.

    Attributes:
        stepping: the optimizer whose ``step()`` changes the weights, and whose hooks run.
        wrappers: around it, the outermost first: accelerate's AcceleratedOptimizer, SAM, Lookahead ...
        parts: optimizers inside it that hold some of its parameters each.
    """

    stepping: Optimizer
    wrappers: tuple[Any, ...]
    parts: tuple[Any, ...]

    @property
    def hooked_wrappers(self) -> tuple[Optimizer, ...]:
        """The wrappers that run hooks around their own steps; a wrapper that forwards attributes does not."""
        return tuple(wrapper for wrapper in self.wrappers if runs_step_hooks(wrapper))

    @property
    def hooked_parts(self) -> tuple[Optimizer, ...]:
        """The parts that run hooks around their steps."""
        return tuple(part for part in self.parts if runs_step_hooks(part))

    def remember(self) -> None:
        """Let :func:`states_of` find the state of wrappers and parts as well, from now on."""
        _OTHERS[self.stepping] = (*_OTHERS.get(self.stepping, ()), self._references)

    def forget(self) -> None:
        """Undo one :meth:`remember`."""
        remembered = list(_OTHERS.pop(self.stepping, ()))
        if self._references in remembered:
            remembered.remove(self._references)
        if remembered:
            _OTHERS[self.stepping] = tuple(remembered)

    @property
    def _references(self) -> tuple[Any, ...]:
        return tuple(ref(other) for other in (*self.wrappers, *self.parts))


def layers_of(optimizer: Any) -> OptimizerLayers:
    """Find the optimizer that takes the step inside its wrappers.

    An object is a wrapper if one of its attributes is an optimizer that holds the same parameters. This needs no
    knowledge of libraries: accelerate, Lightning, schedulefree and pytorch_optimizer all keep the inner one so.

    Args:
        optimizer: an optimizer of torch.optim, one derived from it, or a wrapper around one.

    Raises:
        InputError: it contains no optimizer of torch.optim, or one that never runs the hooks of its steps.
    """
    layers, parts = [optimizer], _inner_optimizers(optimizer)
    while len(parts) == 1 and parts[0] not in layers and _hold_the_same(layers[-1], parts[0]):
        layers.append(parts[0])
        parts = _inner_optimizers(parts[0])
    *wrappers, stepping = layers
    if not isinstance(stepping, Optimizer):
        inside = "; ".join(type(part).__name__ for part in parts)
        found = f", which is made of several optimizers ({inside}): give sparsify one of them" if inside else ""
        given = f"a module, {type(optimizer).__name__}" if isinstance(optimizer, nn.Module) else repr(optimizer)
        raise InputError(
            f"sparsify takes an optimizer of torch.optim, one derived from it, or a wrapper around one; "
            f"given {given}{found}"
        )
    if not runs_step_hooks(stepping):
        raise InputError(
            f"{type(stepping).__name__} never runs the hooks of its step(), so that nothing could follow its steps: it "
            "does not call __init__ of torch.optim.Optimizer; give sparsify an optimizer that does"
        )
    return OptimizerLayers(stepping, tuple(wrappers), tuple(parts))


def states_of(optimizer: Optimizer, parameter: Tensor) -> Iterator[dict[str, Any]]:
    """Iterate over all state that is kept for a parameter, each dict once.

    Args:
        optimizer: the one that takes the step; its wrappers and parts are looked up.
        parameter: the parameter.
    """
    found: list[dict[str, Any]] = []
    for layer in (optimizer, *others_of(optimizer)):
        state = getattr(layer, "state", {}).get(parameter)
        if isinstance(state, dict) and not any(state is one for one in found):
            found.append(state)
    return iter(found)


def others_of(optimizer: Optimizer) -> tuple[Any, ...]:
    """Return the wrappers and parts of an optimizer that may keep state for its parameters, too.

    Args:
        optimizer: that takes the step.

    Returns:
        Those that :meth:`OptimizerLayers.remember` has noted, as far as they still exist.
    """
    references = dict.fromkeys(reference for own in _OTHERS.get(optimizer, ()) for reference in own)
    return tuple(other for other in (reference() for reference in references) if other is not None)


def _inner_optimizers(layer: Any) -> list[Any]:
    """Return the distinct optimizers among an object's attributes, and in lists, tuples and dicts there."""
    found: list[Any] = []
    for value in getattr(layer, "__dict__", {}).values():
        for one in _flat(value):
            if looks_like_optimizer(one) and one is not layer and not any(one is other for other in found):
                found.append(one)
    return found


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        yield from value
    elif isinstance(value, dict):
        yield from value.values()
    else:
        yield value


def looks_like_optimizer(value: Any) -> bool:
    """Return whether an object of any class has the methods and attributes of an optimizer."""
    return not isinstance(value, type) and all(hasattr(value, name) for name in ("step", "param_groups", "state"))


def _hold_the_same(outer: Any, inner: Any) -> bool:
    """Whether both hold the same parameters; a wrapper without param groups holds those of the optimizer inside."""
    return not hasattr(outer, "param_groups") or parameter_ids(outer) == parameter_ids(inner)


def parameter_ids(optimizer: Any) -> set[int]:
    """Return the ids of all Parameters that an optimizer, or a wrapper with param groups, holds."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def check_wrappers(layers: OptimizerLayers, trained: Sequence[Tensor]) -> None:
    """Check that no wrapper keeps copies of weights where they cannot be masked.

    Copies in its ``state``, by parameter, can be masked. Some wrappers make their copies at the first step.

    Args:
        layers: the optimizer and its wrappers.
        trained: the sparse Parameters, or the one of compact storage.

    Raises:
        InputError: a wrapper does.
    """
    shapes = {tuple(parameter.shape) for parameter in trained}
    parameters = parameter_ids(layers.stepping)
    for wrapper in layers.wrappers:
        for name, tensor in (*_attribute_tensors(wrapper), *_state_tensors(wrapper)):
            if tuple(tensor.shape) in shapes and id(tensor) not in parameters:
                raise InputError(
                    f"{type(wrapper).__name__} keeps tensors of the shapes of weights in {name!r}, where sparse "
                    "training cannot keep inactive entries at zero; a wrapper that keeps them in its state, by "
                    f"parameter, can be used, and so can {type(layers.stepping).__name__} without it"
                )


def check_replaceable(layers: OptimizerLayers, tensors: Sequence[NamedParameter]) -> None:
    """Check that Parameters can be replaced in the param groups of the stepping optimizer, as compact storage does.

    Args:
        layers: the optimizer and its wrappers.
        tensors: the sparse tensors.

    Raises:
        InputError: an optimizer holds Parameters elsewhere, and would go on with the replaced ones.
    """
    stepping, parameters = layers.stepping, {id(one.parameter) for one in tensors}
    groups = [group["params"] for group in stepping.param_groups]
    for layer in (stepping, *layers.wrappers, *layers.parts):
        kept = [name for name, tensor in _attribute_tensors(layer) if id(tensor) in parameters]
        lists = [group["params"] for group in getattr(layer, "param_groups", [])]
        if not all(any(own is theirs for theirs in groups) for own in lists):
            kept.append("param_groups")
        if getattr(layer, "state", stepping.state) is not stepping.state:
            kept.append("state")
        if kept:
            raise InputError(
                f"{type(layer).__name__} keeps the model's parameters, or what belongs to them, in {kept[0]!r} of its "
                "own; compact storage replaces parameters, which it would not see; take storage='masked', or give "
                "sparsify the optimizer without it"
            )


def tensors_outside_of_state(layer: Any, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Iterate over the tensors that an optimizer keeps outside of its state for a parameter, by name.

    Args:
        layer: the optimizer, or a part of it.
        parameter: the parameter, which may have tensors among its attributes.
    """
    yield from _attribute_tensors(layer)
    yield from _state_tensors(layer)
    for group in layer.param_groups:
        for key, value in group.items():
            yield from ((f"param_groups[...][{key!r}]", tensor) for tensor in tensors_in(value, set()))
    yield from ((name, tensor) for name, tensor in vars(parameter).items() if isinstance(tensor, Tensor))


def _attribute_tensors(layer: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors in an optimizer's attributes, by the name of the attribute, other than groups and state."""
    for name, value in getattr(layer, "__dict__", {}).items():
        if name not in {"param_groups", "state"}:
            yield from ((name, tensor) for tensor in tensors_in(value, set()))


def _state_tensors(layer: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors in an optimizer's state that are not kept by parameter, by their key."""
    for key, value in getattr(layer, "state", {}).items():
        if not isinstance(key, Tensor):
            yield from ((f"state[{key!r}]", tensor) for tensor in tensors_in(value, set()))


def tensors_in(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Iterate over the tensors in a value, also within dicts, lists and the like.

    Args:
        value: any value.
        seen: identities of containers that are skipped; extended.
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple | set | frozenset | deque) and id(value) not in seen:
        seen.add(id(value))
        for part in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from tensors_in(part, seen)
