"""How many multiplications each weight of a model takes part in, counted in one forward pass."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from sparsecore.errors import InputError, listed
from sparsecore_torch._torch_internals.tensors import COPYING_OPERATIONS, RAW_FORMULA
from sparsecore_torch.sparse_training.model.parameters import NamedParameter
from sparsecore_torch.sparse_training.optimizers.copies import undisturbed
from sparsecore_torch.tensors import has_memory

_SHOWN = 8
"""The number of tensors that an error sentence names."""


def multiplications_per_weight(
    model: nn.Module, tensors: Sequence[NamedParameter], example: Any
) -> dict[str, Fraction]:
    """Run a model once, and count the multiplications of each tensor in matrix products and convolutions.

    The model runs in evaluation mode; parameters, buffers, gradients and random states stay as they are.

    Args:
        model: may be wrapped.
        tensors: those whose multiplications are counted.
        example: inputs of the model: a tensor, a tuple of positional arguments, or a dict of keyword arguments.

    Returns:
        By the tensor's name, its multiplications divided by its number of positions.

    Raises:
        InputError: the model cannot be run on the example, or does not multiply by one of the tensors.
    """
    counter = _Counter(tensors)
    arguments, named = _arguments(example)
    mode = FlopCounterMode(display=False, custom_mapping=counter.formulas())
    with undisturbed(tensors[0].parameter.device), _evaluating(model), torch.backends.mkldnn.flags(enabled=False):
        try:
            with mode:
                model(*arguments, **named)
        except Exception as error:
            raise InputError(
                f"the model cannot be run on example= to count multiplications: {type(error).__name__}: {error}"
            ) from error
    unseen = [one.name for one in tensors if not counter.counts[one.name]]
    if unseen:
        raise InputError(
            "distribution='flops' counts multiplications, and the forward pass of example= has no matrix product or "
            f"convolution with {listed(unseen, _SHOWN)} (embeddings look rows up); leave such tensors dense with "
            "exclude=, or take another distribution"
        )
    return {one.name: Fraction(counter.counts[one.name], one.parameter.numel()) for one in tensors}


class _Counter:
    """Adds up the multiplications of each tensor, which is recognised by the memory of an operation's arguments.

    Attributes:
        counts: the multiplications so far, by the tensor's name.
    """

    def __init__(self, tensors: Sequence[NamedParameter]) -> None:
        self.counts = dict.fromkeys((one.name for one in tensors), 0)
        self._known = [(one.name, one.parameter.detach()) for one in tensors if has_memory(one.parameter)]

    def formulas(self) -> dict[Any, Callable[..., int]]:
        """Return what torch's counter is to call for each operation."""
        return {
            **{operation: self._counting(formula) for operation, formula in flop_registry.items()},
            **dict.fromkeys(COPYING_OPERATIONS, self._copying()),
        }

    def _counting(self, formula: Any) -> Callable[..., int]:
        def count(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
            flops: int = formula(*args, out_val=out_val, **kwargs)
            names = {name for argument in args if isinstance(argument, Tensor) for name in self._names(argument)}
            for name in names:
                self.counts[name] += flops // 2
            return flops

        return _raw(count)

    def _copying(self) -> Callable[..., int]:
        """Recognise copies of tensors, too: weights are made contiguous, or cast."""

        def count(tensor: Tensor, *_: Any, out_val: Any = None, **__: Any) -> int:
            self._known += [(name, out_val) for name in list(self._names(tensor))]
            return 0

        return _raw(count)

    def _names(self, tensor: Tensor) -> Iterator[str]:
        address = tensor.data_ptr()
        for name, known in self._known:
            first = known.data_ptr()
            if first <= address < first + known.numel() * known.element_size():
                yield name


def _raw(formula: Callable[..., int]) -> Callable[..., int]:
    """Mark a formula as one that takes tensors and not their shapes."""
    setattr(formula, RAW_FORMULA, True)
    return formula


def _arguments(example: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(example, Mapping):
        return (), example
    return (tuple(example) if isinstance(example, tuple | list) else (example,)), {}


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Run the model in evaluation mode, and leave modes and buffers as they were."""
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
