"""A PyTorch module as a program, through ``torch.export``; PyTorch is imported when a module is taken over."""

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore_cpu.inference.models.aten import SPLITS, TRANSLATIONS
from sparsecore_cpu.inference.models.batch_sizes import exported_for_any_batch, has_tensors
from sparsecore_cpu.inference.models.program import Call, ModelProgram, Operand, Shape
from sparsecore_cpu.inference.models.traced import Step, Traced, TranslationError
from sparsecore_cpu.inference.network import FixedTensor

_EXAMPLES = 3
"""The examples that a module is exported with, at least: sizes of 1 would be taken for sizes that are always 1."""

_OF_BATCH = "it computes with the number of examples of a batch, which are predicted independently of each other"


def program_of(model: Any, example: Any) -> ModelProgram:
    """The program of a module in evaluation.

    Args:
        model: a ``torch.nn.Module``, whose mode and parameters stay as they are.
        example: one input of it: a tensor whose first dimension is that of the batch, float32 or int64.

    Returns:
        The program, for batches of any size.

    Raises:
        InputError: this is no module or no such tensor, PyTorch cannot export it, or an operation of it cannot be taken
            over; the message names the operation and the module that it is part of.
    """
    check_given(model, example)
    with evaluation(model):
        exported, shapes = exported_for_any_batch(model, several(example))
    return _Translator(exported, shapes).program()


def check_given(model: Any, example: Any) -> None:
    """Check a module and an input of it.

    Args:
        model: what is given as the module.
        example: what is given as the input.

    Raises:
        InputError: this is no module, it is on another device or in another precision, or this is no batch.
    """
    import torch

    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"a network is taken over from a torch.nn.Module; given {type(model).__name__}. A model in sparse training "
            "is taken over from export.squashed_copy(training)"
        )
    if not isinstance(example, torch.Tensor) or not example.ndim or not len(example):
        raise InputError(
            "the example is one tensor of inputs whose first dimension is that of the batch; given "
            f"{tuple(example.shape) if isinstance(example, torch.Tensor) else type(example).__name__}"
        )
    if example.dtype not in {torch.float32, torch.int64}:
        raise InputError(f"inputs are torch.float32 or torch.int64; given an example of {example.dtype}")
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
            raise InputError(
                f"predictions are computed in torch.float32 on the CPU; {name} is {parameter.dtype} on "
                f"{parameter.device}: give a copy, copy.deepcopy(model).float().cpu()"
            )


def several(example: Any) -> Any:
    """The examples repeated until there are three at least.

    Args:
        example: a tensor, (batch, ...).
    """
    times = -(-_EXAMPLES // len(example))
    return example.repeat(times, *(1,) * (example.ndim - 1)) if times > 1 else example


@contextmanager
def evaluation(model: Any) -> Iterator[None]:
    """A module in evaluation, without gradients; each submodule gets its own mode back.

    Args:
        model: a ``torch.nn.Module``.
    """
    import torch

    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


class _Translator:
    """Translates an exported program node by node."""

    def __init__(self, exported: Any, shapes: Mapping[Any, Any]) -> None:
        self._exported, self._shapes = exported, shapes
        self._traced: dict[Any, Any] = {}
        self._calls: list[Call] = []
        self._tensors: dict[str, Any] = {}
        self._names: dict[int, str] = {}
        self._input: Any = None

    def program(self) -> ModelProgram:
        """Translate all nodes."""
        self._check_signature()
        for node in self._exported.graph.nodes:
            _BY_KIND[node.op](self, node)
        (output,) = self._exported.graph.output_node().args[0]
        result = self._traced[output]
        if result.is_constant:
            raise InputError("what the model returns does not depend on its input")
        weights, constants = _by_kind(self._tensors)
        value = self._input.meta["val"]
        dtype = str(value.dtype).removeprefix("torch.")
        return _pruned(
            ModelProgram(self._shape(self._input), dtype, tuple(self._calls), result.operand, weights, constants)
        )

    def placeholder(self, node: Any) -> None:
        """A parameter, a buffer, a constant, or the input."""
        spec = next(one for one in self._exported.graph_signature.input_specs if one.arg.name == node.name)
        if spec.target is None:
            self._input = node
            self._traced[node] = Traced(self._shape(node), 0)
            return
        stored = {**self._exported.state_dict, **self._exported.constants}[spec.target]
        self._names.setdefault(id(stored), spec.target)
        self._traced[node] = Traced(tuple(stored.shape), stored)

    def called(self, node: Any) -> None:
        """An operation."""
        if node.target is operator.getitem:
            self._traced[node] = self._traced[node.args[0]][node.args[1]]
        elif not has_tensors(node):
            return  # the number of examples, and what is computed of it: the shapes of outputs tell it
        elif self._is_constant(node):
            self._fold(node)
        else:
            self._translate(node)

    def attribute(self, node: Any) -> None:
        """A tensor that the module of the graph holds."""
        raise InputError(f"the attribute {node.target} of the exported graph is no parameter, buffer or constant")

    def end(self, node: Any) -> None:
        """The outputs, which were checked before."""

    def _check_signature(self) -> None:
        signature = self._exported.graph_signature
        if signature.buffers_to_mutate:
            names = ", ".join(signature.buffers_to_mutate.values())
            raise InputError(f"the model changes its buffers {names} in evaluation, which a prediction cannot")
        outputs, inputs = signature.user_outputs, signature.user_inputs
        if len(outputs) != 1 or len(inputs) != 1:
            raise InputError(
                f"a model with one input and one output is taken over; this one has {len(inputs)} and {len(outputs)}"
            )

    def _is_constant(self, node: Any) -> bool:
        if any(isinstance(size, int) and size < 0 for size in _flat(self._shapes[node])):
            return False
        reads = node.all_input_nodes
        return all(isinstance(self._traced.get(one), Traced) and self._traced[one].is_constant for one in reads)

    def _fold(self, node: Any) -> None:
        """Compute a node that depends on no input now."""
        import torch

        if torch.Tag.nondeterministic_seeded in node.target.tags:
            raise self._refusal(node, "it draws random numbers")
        with torch.no_grad():
            args, kwargs = _map((node.args, node.kwargs), lambda one: self._traced[one].operand)
            result = node.target(*args, **kwargs)
        is_several = isinstance(result, tuple | list)
        traced = [Traced(tuple(one.shape), one) for one in (result if is_several else [result])]
        self._traced[node] = traced if is_several else traced[0]

    def _translate(self, node: Any) -> None:
        name = str(node.target)
        if any(isinstance(one, type(node)) and not has_tensors(one) for one in (*node.args, *node.kwargs.values())):
            raise self._refusal(node, _OF_BATCH)
        arguments = self._arguments(node)
        if name in SPLITS:
            self._traced[node] = self._split(node, SPLITS[name], arguments)
            return
        if name not in TRANSLATIONS:
            exist = ", ".join(sorted({one.removeprefix("aten.").partition(".")[0] for one in TRANSLATIONS}))
            raise self._refusal(node, f"this operation is not taken over; those that are: {exist}")
        value = node.meta["val"]
        is_several = isinstance(value, tuple | list)
        first, shape = (value[0], self._shape(node, 0)) if is_several else (value, self._shape(node))
        try:
            step = TRANSLATIONS[name](arguments, shape)
        except TranslationError as error:
            raise self._refusal(node, str(error)) from None
        if str(first.dtype) != "torch.float32" and step.alias is None:
            raise self._refusal(node, f"its output is {first.dtype}; operations on inputs compute torch.float32")
        traced = step.alias or self._emit(step, shape, node)
        self._traced[node] = [traced] if is_several else traced

    def _split(self, node: Any, kind: str, arguments: Mapping[str, Any]) -> list[Traced]:
        x, parts = arguments["self"], []
        axis = arguments.get("dim", 0) % len(x.shape)
        if x.shape[axis] < 0:
            raise self._refusal(node, "it separates the examples of a batch, which are predicted independently")
        start = 0
        for number in range(len(node.meta["val"])):
            shape = self._shape(node, number)
            if kind == "unbind":
                step = Step("select", (x,), {"axis": axis, "index": number})
            else:
                step = Step("slice", (x,), {"axis": axis, "start": start, "stop": start + shape[axis], "step": 1})
                start += shape[axis]
            parts.append(self._emit(step, shape, node))
        return parts

    def _emit(self, step: Step, shape: Shape, node: Any) -> Traced:
        operands = tuple(self._operand(one) for one in step.operands)
        self._calls.append(Call(step.operation, operands, dict(step.attributes), shape, _path(node)))
        return Traced(shape, len(self._calls))

    def _operand(self, traced: Traced | None) -> Operand:
        if traced is None or isinstance(traced.operand, int):
            return None if traced is None else traced.operand
        tensor = traced.operand
        name = self._names.setdefault(id(tensor), f"constant {len(self._names)}")
        self._tensors[name] = tensor
        return name

    def _arguments(self, node: Any) -> dict[str, Any]:
        """The arguments of a node by name, with tensors that are traced."""
        schema = node.target._schema.arguments
        given = dict(zip((one.name for one in schema), node.args, strict=False)) | dict(node.kwargs)
        defaults = {one.name: one.default_value for one in schema if one.has_default_value()}
        mapped: dict[str, Any] = _map(defaults | given, self._traced.get)
        return mapped

    def _shape(self, node: Any, number: int | None = None) -> Shape:
        """The shape of what a node computes, or of its output of this number."""
        sizes = self._shapes[node] if number is None else self._shapes[node][number]
        for size in sizes:
            if not isinstance(size, int) or size == 0:
                raise self._refusal(node, f"its output has a size of {size}, which no prediction can have")
        return tuple(sizes)

    def _refusal(self, node: Any, reason: str) -> InputError:
        return InputError(f"{node.name} ({node.target}) in {_path(node) or 'the model itself'}: {reason}")


_BY_KIND = {
    "placeholder": _Translator.placeholder,
    "call_function": _Translator.called,
    "get_attr": _Translator.attribute,
    "output": _Translator.end,
}


def _flat(shapes: Any) -> list[Any]:
    """The sizes of one tensor or of several."""
    return [size for one in shapes for size in (one if isinstance(one, list) else [one])]


def _map(tree: Any, function: Any) -> Any:
    """Arguments of a node with all nodes in them replaced."""
    import torch

    return torch.fx.node.map_aggregate(tree, lambda one: function(one) if isinstance(one, torch.fx.Node) else one)


def _path(node: Any) -> str:
    """The module that a node is part of, as named_modules() names it."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


def _by_kind(tensors: Mapping[str, Any]) -> tuple[dict[str, FixedTensor], dict[str, NDArray[Any]]]:
    weights, constants = {}, {}
    for name, tensor in tensors.items():
        array = tensor.detach().numpy()
        if array.dtype == np.float32 and array.ndim > 1:
            flat = np.ascontiguousarray(array).reshape(-1)
            positions = np.flatnonzero(flat)
            weights[name] = FixedTensor(array.shape, positions, flat[positions])
        else:
            constants[name] = np.array(array)
    return weights, constants


def _pruned(program: ModelProgram) -> ModelProgram:
    """The program without operations and tensors that the output does not depend on."""
    needed = {program.output}
    for number in range(program.output, 0, -1):
        if number in needed:
            needed |= {one for one in program.calls[number - 1].operands if isinstance(one, int)}
    numbers = {old: new for new, old in enumerate([0, *sorted(needed - {0})])}
    calls = []
    for old in sorted(needed - {0}):
        call = program.calls[old - 1]
        operands = tuple(numbers[one] if isinstance(one, int) else one for one in call.operands)
        calls.append(Call(call.operation, operands, call.attributes, call.shape, call.source))
    named = {one for call in calls for one in call.operands if isinstance(one, str)}
    return ModelProgram(
        program.shape,
        program.dtype,
        tuple(calls),
        numbers[program.output],
        {name: weight for name, weight in program.weights.items() if name in named},
        {name: constant for name, constant in program.constants.items() if name in named},
    )
