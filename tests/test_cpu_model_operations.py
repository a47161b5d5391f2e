"""Single operations of programs, by the kernels and by NumPy: those of torch in double precision."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import MACHINES, drawn
from inference_examples import close
from torch.nn import functional

from sparsecore_cpu.inference.models.definitions import DEFINITIONS
from sparsecore_cpu.inference.models.execution import ModelExecution
from sparsecore_cpu.inference.models.program import Call, ModelProgram
from sparsecore_cpu.inference.network import FixedTensor

machines = st.sampled_from(MACHINES)


def predicted(
    operation: str,
    x: NDArray[Any],
    attributes: Mapping[str, Any],
    shape: tuple[int, ...],
    machine: Any,
    weight: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """What a program of one operation computes, by kernels where there are any."""
    weights = {} if weight is None else {"weight": _fixed(weight)}
    operands = (0, "weight", None) if weights else (0,)
    call = Call(operation, operands, attributes, (-1, *shape))
    program = ModelProgram((-1, *x.shape[1:]), "float32", (call,), 1, weights, {})
    return ModelExecution.of(program, machine).predict(x)


def _fixed(array: NDArray[Any]) -> FixedTensor:
    positions = np.flatnonzero(array)
    return FixedTensor(array.shape, positions, array.reshape(-1)[positions])


@pytest.mark.parametrize("function", ["sigmoid", "softplus", "hardsigmoid"])
@given(sides=st.tuples(st.integers(1, 20), st.integers(1, 20)), machine=machines)
@settings(max_examples=20)
def test_zeros_around_images_stay_zero_behind_functions_that_are_not_zero_at_zero(
    function: str, sides: tuple[int, int], machine: Any
) -> None:
    x, weight = drawn(0, 2, 3, *sides), drawn(1, 4, 3, 3, 3)
    window = {"stride": [1, 1], "padding": [1, 1, 1, 1], "dilation": [1, 1], "groups": 1}
    calls = (
        Call(function, (0,), {"beta": 1.0} if function == "softplus" else {}, (-1, 3, *sides)),
        Call("conv2d", (1, "weight", None), window, (-1, 4, *sides)),
    )
    program = ModelProgram((-1, 3, *sides), "float32", calls, 2, {"weight": _fixed(weight)}, {})
    before = getattr(functional, function)(torch.from_numpy(x).double())
    expected = functional.conv2d(before, torch.from_numpy(weight).double(), padding=1).numpy()
    assert close(ModelExecution.of(program, machine).predict(x), expected)


@settings(max_examples=60)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(*[st.integers(0, 3)] * 4),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2, 4]),
    sides=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    density=st.floats(0.05, 1),
    machine=machines,
)
def test_convolutions_with_any_window_equal_torchs(
    kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int, sides: Any, density: float, machine: Any
) -> None:
    top, bottom, left, right = padding
    wide = sides[0] + top + bottom, sides[1] + left + right
    assume(all(size > step * (taps - 1) for size, step, taps in zip(wide, dilation, kernel, strict=True)))
    x, weight = drawn(0, 2, 4, *sides), drawn(1, 8, 4 // groups, *kernel)
    weight *= np.random.default_rng(2).random(weight.shape) < density
    padded = functional.pad(torch.from_numpy(x).double(), (left, right, top, bottom))
    expected = functional.conv2d(
        padded, torch.from_numpy(weight).double(), stride=stride, dilation=dilation, groups=groups
    ).numpy()
    attributes = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    assert close(predicted("conv2d", x, attributes, expected.shape[1:], machine, weight), expected)
    assert close(DEFINITIONS["conv2d"](x, weight, None, **attributes), expected)


@settings(max_examples=60)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    halves=st.tuples(st.booleans(), st.booleans()),
    dilation=st.integers(1, 2),
    ceil=st.booleans(),
    sides=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    machine=machines,
)
def test_poolings_with_any_window_equal_torchs(
    kernel: Any, stride: Any, halves: Any, dilation: int, ceil: bool, sides: Any, machine: Any
) -> None:
    padding = tuple(side // 2 if half else 0 for side, half in zip(kernel, halves, strict=True))
    wide = [side + 2 * pad for side, pad in zip(sides, padding, strict=True)]
    assume(all(size > dilation * (taps - 1) for size, taps in zip(wide, kernel, strict=True)))
    x = drawn(0, 2, 3, *sides)
    given_ = torch.from_numpy(x).double()
    common = {"kernel": kernel, "stride": stride, "padding": padding, "ceil": ceil}
    expected = functional.max_pool2d(given_, kernel, stride, padding, dilation, ceil_mode=ceil).numpy()
    assume(np.isfinite(expected).all())  # a window may be in the padding alone
    attributes = {**common, "dilation": (dilation, dilation)}
    assert close(predicted("max_pool2d", x, attributes, expected.shape[1:], machine), expected)
    assume(all(size >= taps for size, taps in zip(wide, kernel, strict=True)))
    for include in (True, False):
        expected = functional.avg_pool2d(given_, kernel, stride, padding, ceil, include).numpy()
        attributes = {**common, "include_padding": include, "divisor": None}
        assert close(predicted("avg_pool2d", x, attributes, expected.shape[1:], machine), expected)


@settings(max_examples=30)
@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    sides=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    machine=machines,
)
def test_adaptive_poolings_equal_torchs(size: Any, sides: Any, machine: Any) -> None:
    x = drawn(0, 2, 3, *sides)
    given_ = torch.from_numpy(x).double()
    for name in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        expected = getattr(functional, name)(given_, size).numpy()
        assert close(predicted(name, x, {"size": size}, expected.shape[1:], machine), expected)


FUNCTIONS: dict[str, tuple[Any, Mapping[str, Any]]] = {
    "relu": (torch.relu, {}),
    "clamp": (lambda x: torch.clamp(x, -0.5, 0.7), {"least": -0.5, "most": 0.7}),
    "leaky_relu": (lambda x: functional.leaky_relu(x, 0.3), {"slope": 0.3}),
    "silu": (functional.silu, {}),
    "gelu": (functional.gelu, {"tanh": False}),
    "gelu, tanh": (lambda x: functional.gelu(x, approximate="tanh"), {"tanh": True}),
    "hardswish": (functional.hardswish, {}),
    "hardsigmoid": (functional.hardsigmoid, {}),
    "sigmoid": (torch.sigmoid, {}),
    "tanh": (torch.tanh, {}),
    "elu": (lambda x: functional.elu(x, 0.5), {"alpha": 0.5}),
    "softplus": (lambda x: functional.softplus(x, 2.0), {"beta": 2.0}),
    "mish": (functional.mish, {}),
    "exp": (torch.exp, {}),
    "power": (lambda x: x**3, {"exponent": 3.0}),
    "add_number": (lambda x: x + 0.3, {"number": 0.3}),
    "multiply_number": (lambda x: x * 0.3, {"number": 0.3}),
    "softmax": (lambda x: torch.softmax(x, 1), {"axis": 1}),
    "mean": (lambda x: x.mean(1), {"axes": [1], "keep": False}),
    "max": (lambda x: x.amax(1, keepdim=True), {"axes": [1], "keep": True}),
    "sum": (lambda x: x.sum(1), {"axes": [1], "keep": False}),
}


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.kernels.name)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [(3, 5, 7), (6, 9), (11,)], ids=["images", "sequences", "vectors"])
def test_functions_equal_torchs_and_their_definition(shape: tuple[int, ...], name: str, machine: Any) -> None:
    function, attributes = FUNCTIONS[name]
    x = 3 * drawn(0, 5, *shape)
    operation = name.partition(",")[0]
    expected = function(torch.from_numpy(x).double()).numpy()
    assert close(predicted(operation, x, attributes, expected.shape[1:], machine), expected)
    if operation in DEFINITIONS:
        assert close(DEFINITIONS[operation](x, **attributes), expected)
