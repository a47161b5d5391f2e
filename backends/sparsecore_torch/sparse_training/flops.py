"""The floating-point operations of a model's forward pass for each weight tensor, counted in a pass of a plain copy."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparsecore.engine.arrays import Counts
from sparsecore.engine.groups import GroupPlans, GroupStates
from sparsecore.errors import InputError
from sparsecore.learning.flops import Flops, ForwardPass, StepSums, flops
from sparsecore_torch._torch_internals.autograd import TorchDispatchMode
from sparsecore_torch._torch_internals.tensors import storage_identity
from sparsecore_torch.sparse_training.model.parameters import named_parameters
from sparsecore_torch.sparse_training.storage.compact_modules import plain_copy
from sparsecore_torch.tensors import is_sharded


def forward_pass(model: nn.Module, inputs: tuple[Any, ...], by_keyword: Mapping[str, Any]) -> ForwardPass:
    """Run a plain copy of a model in evaluation mode and count the operations of its products.

    Args:
        model: in any storage; it is not changed.
        inputs: the positional arguments of a call.
        by_keyword: the other arguments.

    Raises:
        InputError: a parameter is sharded, or no product with a parameter was seen.
    """
    sharded = [name for name, parameter in model.named_parameters() if is_sharded(parameter)]
    if sharded:
        raise InputError(f"{sharded[0]} is sharded; operations are counted in a copy of the model on one rank")
    copied = plain_copy(model).eval()
    names = {storage_identity(one.parameter): one.name for one in named_parameters(copied)}
    counter = _ProductCounter(names)
    with (
        torch.enable_grad(),  # without gradients, layers such as nn.MultiheadAttention take shortcuts past the products
        torch.backends.cudnn.flags(enabled=False),  # it has recurrent layers of its own
        sdpa_kernel(SDPBackend.MATH),
        torch.compiler.set_stance("force_eager"),
        counter,
    ):
        copied(*inputs, **by_keyword)
    if not counter.counts:
        raise InputError("no linear layer and no convolution has computed with these inputs")
    sizes = _sizes(copied)
    return ForwardPass(counter.counts, {name: sizes[name] for name in counter.counts}, counter.without_weights)


class FlopCount:
    """Counts the operations of a training.

    Args:
        tensors: the number of sparse tensors.
    """

    def __init__(self, tensors: int) -> None:
        self._sums: StepSums | None = StepSums.none(tensors)
        self._measured: ForwardPass | None = None

    def step(self, plan: GroupPlans, silent: Counts | None) -> None:
        """Count a step.

        Args:
            plan: of the step: the active weights, and the gradients that strategies asked for.
            silent: the number of active weights of each tensor that the model did not compute with; None for none.
        """
        if self._sums is not None:
            candidates = None if plan.candidates is None else plan.candidates.counts
            self._sums = self._sums.after(
                plan.state.topology.counts, dense_gradient=plan.wants_gradient, candidates=candidates, silent=silent
            )

    def count(
        self,
        model: nn.Module,
        inputs: tuple[Any, ...],
        by_keyword: Mapping[str, Any],
        state: GroupStates,
        silent: Counts | None,
    ) -> Flops:
        """Return the operations of a batch, in inference and in all steps.

        Args:
            model: in any storage; it is not changed.
            inputs: the positional arguments of a call; with no arguments at all, those of the last count.
            by_keyword: the other arguments.
            state: the present one: the active weights, and the steps so far.
            silent: the number of active weights of each tensor that the model does not compute with; None for none.

        Raises:
            InputError: there are no arguments, and none were given before.
        """
        if inputs or by_keyword:
            self._measured = forward_pass(model, inputs, by_keyword)
        if self._measured is None:
            raise InputError(
                "the operations of a forward pass are not known yet; give a batch as in training.flops(images)"
            )
        return flops(self._measured, state.topology, self._sums, state.clock.step, silent)

    def dump(self) -> dict[str, Any]:
        """Return what has been counted, as dicts, lists and numbers."""
        measured = None if self._measured is None else attrs.asdict(self._measured)
        return {"sums": None if self._sums is None else self._sums.dump(), "forward_pass": measured}

    @classmethod
    def load(cls, saved: Any, tensors: int, steps: int, *, has_silent: bool) -> "FlopCount":
        """Return the count of :meth:`dump`.

        Args:
            saved: what was dumped; None where there is nothing, as in state dicts of before operations were counted.
            tensors: the number of sparse tensors.
            steps: the number of steps of the training.
            has_silent: whether a strategy makes weights silent.

        Raises:
            InputError: it is damaged.
        """
        saved = {"sums": None, "forward_pass": None} if saved is None else saved
        count = cls(tensors)
        try:
            count._sums = StepSums.load(saved["sums"], tensors, steps, has_silent=has_silent)
            count._measured = None if saved["forward_pass"] is None else ForwardPass.load(saved["forward_pass"])
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise InputError(
                f"the state dict of sparse training is damaged: its operations are not valid: {error}"
            ) from error
        return count


def _sizes(model: nn.Module) -> dict[str, int]:
    return {one.name: one.parameter.numel() for one in named_parameters(model)}


class _ProductCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees all operations of torch and counts those of products.

    Args:
        names: the names of parameters by the identity of their memory.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: dict[str, int] = {}
        self.without_weights = 0
        self._names = names

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        product = _PRODUCTS.get(function.overloadpacket)
        if product is not None:
            for operands, operations in product(args, result):
                self._count(operands, operations)
        return result

    def _count(self, operands: tuple[Tensor, ...], operations: int) -> None:
        known = [name for one in operands if (name := self._names.get(storage_identity(one))) is not None]
        if known:
            self.counts[known[-1]] = self.counts.get(known[-1], 0) + operations
        else:
            self.without_weights += operations


Products = tuple[tuple[tuple[Tensor, ...], int], ...]
"""Products of tensors: the operands of each, and the number of its multiplications and additions."""

CountProducts = Callable[[tuple[Any, ...], Any], Products]
"""From the arguments and the result of an operation to its products."""


def _matrices(first: int) -> CountProducts:
    """Return the count of a product of (batches of) matrices or vectors that are the arguments from ``first`` on."""

    def count(args: tuple[Any, ...], result: Tensor) -> Products:
        operands = args[first : first + 2]
        return ((operands, 2 * result.numel() * operands[0].shape[-1]),)

    return count


def _convolution(args: tuple[Any, ...], result: Tensor) -> Products:
    images, weight, is_transposed = args[0], args[1], args[6]
    # a weight is used once for each pixel of the result, or of the input of a transposed convolution
    pixels = images if is_transposed else result
    return (((weight,), 2 * weight.numel() * (pixels.numel() // pixels.shape[1])),)


def _recurrent_layer(args: tuple[Any, ...], _: Any) -> Products:
    vectors = args[0].numel() // args[0].shape[-1]
    return tuple(((weight,), 2 * vectors * weight.numel()) for weight in args[1:3])


_aten: Any = torch.ops.aten
_PRODUCTS: Mapping[Any, CountProducts] = MappingProxyType(
    {
        **dict.fromkeys((_aten.mm, _aten.bmm, _aten.mv), _matrices(0)),
        **dict.fromkeys((_aten.addmm, _aten.baddbmm, _aten.addmv), _matrices(1)),
        _aten.convolution: _convolution,
        _aten.mkldnn_rnn_layer: _recurrent_layer,
    }
)
