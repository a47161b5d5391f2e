"""A part of a compiled model that runs on the kernels as a whole, as one function of autograd."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, groupby
from operator import itemgetter
from typing import Any
from weakref import WeakValueDictionary

import attrs
import numpy as np
import torch
from torch import Tensor, fx, nn

from sparsecore_torch._torch_internals.autograd import keeps_graph
from sparsecore_torch._torch_internals.compilation import untraced
from sparsecore_torch.sparse_training.regions.decisions import Decisions, Ways, size_class
from sparsecore_torch.sparse_training.regions.execution import Execution, KernelTensor
from sparsecore_torch.sparse_training.regions.joined_products import is_joined, joined_products, with_joined_products
from sparsecore_torch.sparse_training.regions.passing import Passed, tensor_of
from sparsecore_torch.sparse_training.regions.program import Program, masked_weights
from sparsecore_torch.sparse_training.regions.results import Output, Result
from sparsecore_torch.sparse_training.regions.transforms import check_first_order
from sparsecore_torch.sparse_training.regions.unbinding import with_unbind
from sparsecore_torch.sparse_training.regions.weights import RegionInput
from sparsecore_torch.sparse_training.storage.compact_weights import compact_weights
from sparsecore_torch.sparse_training.storage.sparse_weights import SparseWeight


class Region(nn.Module):
    """Computes a part of a graph by the kernels, or by torch where that is faster or the kernels cannot.

    Args:
        graph: the part, which returns all outputs as torch has them.
        results: what the region returns; together as many outputs.
        tensors: the names of the sparse tensors that it multiplies by.
        decisions: whether the kernels compute it.
    """

    def __init__(
        self, graph: fx.GraphModule, results: Sequence[Result], tensors: Sequence[str], decisions: Decisions
    ) -> None:
        super().__init__()
        self.graph = with_joined_products(with_unbind(graph))
        self.tensors = tuple(dict.fromkeys(tensors))
        self._decisions = decisions
        self.results = tuple(results)
        self._program = Program.of(graph.graph, self.results)

    def forward(self, *given: Any) -> Sequence[Output]:
        """Compute the outputs; results of other regions are given as they return them."""
        program = self._program
        is_differentiable = torch.is_grad_enabled() and any(
            tensor.requires_grad for one in given if (tensor := _tensor_of(one)) is not None
        )
        masked = masked_weights(given)
        is_half = torch.is_autocast_enabled("cpu")
        # without autocast torch has its own rules for bfloat16 beside float32, and errors
        is_mixed = not is_half and any(given[number].dtype is torch.bfloat16 for number in program.activations)
        if is_mixed or program.needs_torch(given) or not self._takes_sparse(given, masked, is_differentiable):
            in_torch: tuple[Tensor, ...] = self.graph(*_in_torch(given, Execution(is_half=is_half)))
            return in_torch
        run = Execution(is_differentiable=is_differentiable, is_half=is_half, gives_all_gradients=True)
        given = tuple(one.unpacked(run) if isinstance(one, Passed) and not one.suits(run) else one for one in given)
        return _run_region(program, run, given) if is_differentiable else _run_forward(program, run, given)

    def _takes_sparse(self, given: Sequence[Any], masked: Sequence[SparseWeight], is_differentiable: bool) -> bool:
        sizes = [size_class(given[number].shape) for number in self._program.activations]
        mode = ["training" if is_differentiable else "evaluation", f"{torch.get_num_threads()} threads"]
        mode += ["bfloat16"] if torch.is_autocast_enabled("cpu") else []
        more = f" and {len(self.tensors) - 1} more" if len(self.tensors) > 1 else ""
        case = f"{self.tensors[0]}{more}: {', '.join([*sizes, *mode])}"
        weights = self._program.weights(masked)
        return self._decisions.takes_sparse(case, self.tensors, weights, lambda: self._ways(given, is_differentiable))

    def _ways(self, given: Sequence[Any], is_differentiable: bool) -> Ways:
        """Return both ways to compute the results, and their gradients, from copies of what they write to."""
        program, written = self._program, self._program.written
        is_half = torch.is_autocast_enabled("cpu")
        copies = [one.clone() if number in written else one for number, one in enumerate(given)]
        needs_gradient = [tensor is not None and tensor.requires_grad for tensor in map(_tensor_of, given)]
        leaves = [
            one.detach().requires_grad_(needed) if isinstance(one, Tensor) and number not in written else one
            for number, (one, needed) in enumerate(
                zip(_in_torch(copies, Execution(is_half=is_half)), needs_gradient, strict=True)
            )
        ]

        def sparse() -> None:
            run = Execution(is_differentiable=is_differentiable, is_half=is_half)
            with torch.no_grad(), _unchanged_generator():
                inputs, made = program.run(run, copies, needs_gradient)
                results = map(_tensor_of, program.outputs(run, made))
                if is_differentiable:
                    wanted = program.is_differentiable(made)
                    gradients = [one if is_wanted else None for one, is_wanted in zip(results, wanted, strict=True)]
                    _Forward(program, run, inputs, made).backward(gradients, keep=False)

        def dense() -> None:
            with _unchanged_generator(), _uncollected(program.compact):
                results: tuple[Tensor, ...] = self.graph(*leaves)
                if any(one.requires_grad for one in results):
                    wanted = [one for one, needed in zip(leaves, needs_gradient, strict=True) if needed]
                    values = _differentiated(program.compact, joined_products(self.graph.graph))
                    wanted += [piece for piece, _ in values]
                    made = [one for one in results if one.requires_grad]
                    gradients = [one.detach() for one in made]
                    found = torch.autograd.grad(made, wanted, gradients, allow_unused=True)
                    pieces = zip(found[len(found) - len(values) :], values, strict=True)
                    copied = [one for one, (_, is_copied) in pieces if one is not None and is_copied]
                    if copied:  # which the kernels do not need, as they write into the joined gradient itself
                        torch.cat(copied)

        return Ways(sparse, dense)


def _differentiated(
    compact: Iterable[tuple[int, int]], joined: Container[tuple[int, int]]
) -> list[tuple[Tensor, bool]]:
    """Return the values that dense weights of compact storage are made of, and whether their gradients are copied.

    They are not those that a region is given for them.
    """
    found: list[tuple[Tensor, bool]] = []
    for key, several in groupby(sorted(compact), key=itemgetter(0)):
        weights, indices = compact_weights(key), [index for _, index in several]
        is_copied = not all((key, index) in joined and is_joined(weights, index) for index in indices)
        found += [(piece, is_copied) for piece in weights.differentiated(indices)]
    return found


@contextmanager
def _unchanged_generator() -> Iterator[None]:
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


@contextmanager
def _uncollected(compact: Iterable[tuple[int, int]]) -> Iterator[None]:
    """Keep the gradients of a measurement from those that are collected for a strategy."""
    weights = [compact_weights(key) for key in {key for key, _ in compact}]
    collected = [one.dense_gradients for one in weights]
    try:
        for one in weights:
            one.dense_gradients = None
        yield
    finally:
        for one, gradients in zip(weights, collected, strict=True):
            one.dense_gradients = gradients


def _tensor_of(given: Any) -> Tensor | None:
    """The tensor by which autograd knows what a region is given or returns; None for what is no tensor."""
    found = given.tensor if isinstance(given, Passed) else given
    return found if isinstance(found, Tensor) else None


def _in_torch(given: Sequence[Any], run: Execution) -> list[Any]:
    """Return what a region is given as tensors of torch's."""
    return [one.unpacked(run) if isinstance(one, Passed) else one for one in given]


def _run_forward(program: Program, run: Execution, given: Sequence[Any]) -> Sequence[Output]:
    with torch.no_grad():
        _, made = program.run(run, given, [False] * len(given))
        return program.outputs(run, made)


def _run_region(program: Program, run: Execution, given: Sequence[Any]) -> Sequence[Output]:
    outputs: list[Output] = []  # which the function fills, as autograd takes and returns nothing but tensors
    passed = {number: one for number, one in enumerate(given) if isinstance(one, Passed)}
    tensors = _region_function(program, run, passed, outputs, *(_tensor_or_itself(one) for one in given))
    return [
        attrs.evolve(one, tensor=tensor) if isinstance(one, Passed) else tensor
        for one, tensor in zip(outputs, tensors, strict=True)
    ]


def _tensor_or_itself(given: Any) -> Any:
    return given.tensor if isinstance(given, Passed) else given


@attrs.frozen(eq=False)
class _Forward:
    """A forward pass that has been run, and whose backward pass may follow.

    Attributes:
        program: was run.
        run: has the tape.
        inputs: the tensors that the region was given.
        made: its results.
    """

    program: Program
    run: Execution
    inputs: list[RegionInput]
    made: list[KernelTensor]

    def backward(self, gradients: Sequence[Tensor | None], *, keep: bool) -> list[Tensor | None]:
        """Compute the gradients of the inputs, in their order.

        Args:
            gradients: of the outputs; None for those that the loss does not depend on.
            keep: whether another backward pass may follow.
        """
        uses = self.run.weights.values()
        for use in uses:
            use.reset()
        self.program.start_gradients(self.run, self.made, gradients)
        self.run.tape.run_backward(keep=keep)
        # the gradients of weights are complete only when those of the inputs have been computed
        owned = {gradient.data_ptr() for gradient in gradients if gradient is not None}
        read = [self._gradient_of(given, owned) if given.needs_gradient else None for given in self.inputs]
        wanted = [use for use in uses if use.source.needs_gradient]
        # dense gradients take the place of activations, so that a step needs no more memory than without the kernels
        self.run.runtime.buffers.release(sum(use.dense_bytes for use in wanted))
        for use in wanted:
            if use.has_gradient:  # a weight that the loss does not depend on has none, and no step of an optimizer
                use.finish(keep=keep)
        totals: list[Tensor | None] = []
        for given, total in zip(self.inputs, read, strict=True):
            own, given.gradient = given.gradient, None
            both = total if own is None or total is None else total + own
            found = own if both is None else both
            totals.append(None if found is None else found.to(given.tensor.dtype))
        return totals

    def _gradient_of(self, given: RegionInput, owned: set[int]) -> Tensor | None:
        """Return the gradient of an input as an activation.

        Args:
            given: the input.
            owned: the addresses of memory that belongs to other tensors; autograd may add to what it is given.
        """
        if given.buffer is None:
            return self.run.gradient_of(given)
        buffer = self.run.packed_gradient_of(given)
        if buffer is None:
            return None
        tensor = tensor_of(buffer)
        if tensor.data_ptr() in owned:
            return tensor.clone()
        owned.add(tensor.data_ptr())
        return tensor


class _Token(np.ndarray[Any, np.dtype[np.int64]]):
    """The memory of a tensor that stands for a forward pass, which lives as long as that memory."""

    forward: _Forward


_numbers = count()
_tokens: WeakValueDictionary[int, _Token] = WeakValueDictionary()


def _token_of(forward: _Forward) -> Tensor:
    """Return a tensor that autograd can save in place of the forward pass.

    So the pass is freed when autograd frees what it has saved, and is run again where saved tensors are computed again
    (activation checkpointing).
    """
    token = np.array([next(_numbers)]).view(_Token)
    token.forward = forward
    _tokens[int(token[0])] = token
    return torch.from_numpy(token)


def _forward_of(token: Tensor) -> _Forward:
    try:
        return _tokens[int(token)].forward
    except KeyError:
        raise RuntimeError(
            "what a region of sparse layers saved for the backward pass has been copied elsewhere, as "
            "torch.autograd.graph.save_on_cpu does; take kernels='dense' with it"
        ) from None


class _RegionFunction(torch.autograd.Function):
    """A region's arguments to its results."""

    @staticmethod
    def forward(
        ctx: Any, program: Program, run: Execution, passed: Mapping[int, Passed], outputs: list[Output], *given: Any
    ) -> tuple[Tensor, ...]:
        needs_gradient = ctx.needs_input_grad[4:]
        inputs, made = program.run(run, [passed.get(number, one) for number, one in enumerate(given)], needs_gradient)
        outputs += program.outputs(run, made)
        results = tuple(map(_tensor_or_itself, outputs))
        # the weights are saved for autograd's check that nothing has written to them before the backward pass
        weights = [use.source.tensor for use in run.weights.values()]
        ctx.save_for_backward(_token_of(_Forward(program, run, inputs, made)), *weights)
        ctx.is_tensor = [isinstance(one, Tensor) for one in given]
        ctx.set_materialize_grads(False)
        differentiable = program.is_differentiable(made)
        constant = [one for one, is_wanted in zip(results, differentiable, strict=True) if not is_wanted]
        ctx.mark_non_differentiable(*constant)
        return results

    @staticmethod
    @untraced  # Dynamo traces the backward pass, too, where a model or a compiled function calls it
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        for gradient in gradients:
            if gradient is not None:
                check_first_order(gradient)
        token, *_ = ctx.saved_tensors
        found = iter(_forward_of(token).backward(gradients, keep=keeps_graph()))
        return None, None, None, None, *(next(found) if is_tensor else None for is_tensor in ctx.is_tensor)


_region_function: Callable[..., tuple[Tensor, ...]] = _RegionFunction.apply
