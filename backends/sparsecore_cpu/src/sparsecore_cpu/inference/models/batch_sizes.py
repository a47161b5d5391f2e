"""Exports a PyTorch module for batches of any size, and refuses one that computes something else for some of them."""

import io
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from typing import Any

from sparsecore.errors import InputError

_MOST_EXAMPLES = 2**31
"""A module that asks for larger batches than a lower number of examples is not the same for all batches."""

_SAMPLES = (*range(2, 34), *(2**power + more for power in range(6, 21, 2) for more in (-1, 0, 1)))
"""Numbers of examples for which the conditions of an export are checked, besides those that the conditions name."""

_FEW_SAMPLES = (2, 3, 5, 64)
"""Numbers of examples by which a size is recognized as a multiple of them."""


def exported_for_any_batch(model: Any, example: Any) -> tuple[Any, Mapping[Any, Any]]:
    """The exported program of a module.

    PyTorch traces the module by calling it, which fixes the number of examples where the module asks for ``len(x)``.
    Where this does not give a program for all batches, the module is traced by its code, as ``torch.compile`` does.

    Args:
        model: a ``torch.nn.Module`` in evaluation.
        example: an input of it, with three examples at least.

    Returns:
        The program, and by each node the shape of its tensor, or those of its tensors: lists of sizes, negative ones
        for multiples of the number of examples.

    Raises:
        InputError: PyTorch cannot export it, or it computes something else for some numbers of examples.
    """
    errors = []
    for reads_code in (False, True):
        try:
            exported = _export(model, example, reads_code=reads_code)
        except Exception as error:  # the exporter has many error classes
            errors.append(error)
            continue
        refusal = _refusal(exported)
        if refusal is None:
            return exported, _shapes(exported)
        errors.append(refusal)
    refused = next((error for error in reversed(errors) if isinstance(error, InputError)), None)
    if refused is not None:
        raise refused
    text = str(errors[0]).strip() or type(errors[0]).__name__
    hint = "A model in sparse training is taken over from export.squashed_copy(training)"
    if "specialized" in text or "SymInt" in text:
        hint = "It makes a plain number of the number of examples, as len(x) does; x.shape[0] may help"
    first = text.splitlines()[0].rstrip(".")
    raise InputError(f"torch.export cannot export {type(model).__name__}: {first}. {hint}") from errors[0]


def _export(model: Any, example: Any, *, reads_code: bool) -> Any:
    import warnings

    import torch

    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    with warnings.catch_warnings(), _quiet(), _without_fast_path():
        warnings.simplefilter("ignore")  # the exporter's own, of parts of torch that it uses
        # a clone, because the exporter marks the tensor's sizes as dynamic for good
        exported = torch.export.export(model, (example.clone(),), dynamic_shapes=dynamic, strict=reads_code)
        return exported.run_decompositions({})


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither logs nor prints what the exporter cannot do, with whole graphs: its error says the same."""
    loggers = [logging.getLogger(name) for name in ("torch._guards", "torch.fx.experimental.symbolic_shapes")]

    def drop(_: logging.LogRecord) -> bool:
        return False

    for logger in loggers:
        logger.addFilter(drop)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(drop)


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Layers of transformers as operations of their own: older releases of torch cannot export their fast path."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _refusal(exported: Any) -> InputError | None:
    """Why a program is not the same for all batches; None where it is."""
    import sympy

    batch = _batch(exported)
    if isinstance(batch, int):
        return InputError(f"the model computes something else for batches of another size than {batch}")
    most = exported.range_constraints[batch.node.expr].upper
    if most < _MOST_EXAMPLES:
        return InputError(f"the model computes something else for batches of more than {most} examples")
    for condition in {guard.expr: None for guard in batch.node.shape_env.guards}:
        for examples in _candidates(condition):
            if condition.subs(batch.node.expr, examples) == sympy.false:
                return InputError(
                    f"the model computes something else for batches of some sizes, such as {examples} examples"
                )
    return None


def _batch(exported: Any) -> Any:
    """The number of examples, as the shape of the input has it."""
    names = exported.graph_signature.user_inputs
    return next(
        node.meta["val"].shape[0] for node in exported.graph.nodes if node.op == "placeholder" and node.name in names
    )


def _candidates(condition: Any) -> list[int]:
    """Numbers of examples for which a condition may not hold: samples, and what its own numbers may stand for."""
    import sympy

    own = {abs(int(one)) for one in condition.atoms(sympy.Integer)} - {0}
    quotients = {one // other for one in own for other in own}
    around = {one + more for one in own | quotients for more in (-1, 0, 1)}
    return sorted({*_SAMPLES, *(one for one in around if one >= 2)})


def _shapes(exported: Any) -> dict[Any, Any]:
    """The sizes of the tensor, or of each of the tensors, that a node computes."""
    batch = _batch(exported)
    return {
        node: _of_tensors(node.meta["val"], lambda value: [_multiple(size, batch) for size in value.shape])
        for node in exported.graph.nodes
        if has_tensors(node)
    }


def _of_tensors(value: Any, function: Callable[[Any], Any]) -> Any:
    return [function(one) for one in value] if isinstance(value, tuple | list) else function(value)


def _multiple(size: Any, batch: Any) -> Any:
    """A size that does not depend on the batch, or the negative number of times that it is the batch; else itself."""
    if isinstance(size, int):
        return size
    sizes = [size.node.expr.subs(batch.node.expr, examples) for examples in _FEW_SAMPLES]
    times = {one / examples for one, examples in zip(sizes, _FEW_SAMPLES, strict=True)}
    constant, factor = (found.pop() if len(found) == 1 else None for found in (set(sizes), times))
    if constant is not None and constant.is_Integer:
        return int(constant)
    return -int(factor) if factor is not None and factor.is_Integer else size


def has_tensors(node: Any) -> bool:
    """Whether a node of an exported graph computes a tensor or several.

    Args:
        node: the node.
    """
    value = node.meta.get("val")
    return hasattr(value, "dtype") or (isinstance(value, tuple | list) and all(hasattr(one, "dtype") for one in value))
