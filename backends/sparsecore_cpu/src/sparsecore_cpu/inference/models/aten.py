"""PyTorch's operations (ATen) as those of a program, one function for each.

Nothing is imported from PyTorch: a function gets the arguments of one node by name. An argument is a number, a list, or
a :class:`Traced` tensor.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sparsecore_cpu.inference.models.program import Shape
from sparsecore_cpu.inference.models.traced import Step, Traced, TranslationError

Arguments = Mapping[str, Any]
Translation = Callable[[Arguments, Shape], Step]


def _same(a: Arguments, _: Shape) -> Step:
    return Step("", alias=a.get("self", a.get("input")))


def _function(operation: str) -> Translation:
    """A function of one tensor without settings."""
    return lambda a, _: Step(operation, (a["self"],))


def _conv2d(a: Arguments, _: Shape) -> Step:
    stride, dilation = (_pair(a[name]) for name in ("stride", "dilation"))
    rows, columns = _paddings(a["padding"], a["weight"].shape[2:], dilation)
    return _convolution(a, stride, [*rows, *columns], dilation)


def _convolution(a: Arguments, stride: Any, padding: Any, dilation: Any) -> Step:
    if len(a["input"].shape) != 4:
        raise TranslationError("its input is no batch of images (batch, channels, height, width)")
    attributes = {"stride": stride, "padding": padding, "dilation": dilation, "groups": a["groups"]}
    return Step("conv2d", (a["input"], a["weight"], a["bias"]), attributes)


def _paddings(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """The padding before and after, along both axes."""
    if padding == "valid":
        return [(0, 0), (0, 0)]
    if padding == "same":
        totals = [step * (taps - 1) for step, taps in zip(dilation, kernel, strict=True)]
        return [(whole // 2, whole - whole // 2) for whole in totals]
    return [(side, side) for side in _pair(padding)]


def _linear(a: Arguments, _: Shape) -> Step:
    return Step("linear", (a["input"], a["weight"], a["bias"]))


def _batch_norm(a: Arguments, _: Shape) -> Step:
    operands = tuple(a[name] for name in ("input", "weight", "bias", "running_mean", "running_var"))
    return Step("batch_norm", operands, {"epsilon": a["eps"]})


def _layer_norm(a: Arguments, _: Shape) -> Step:
    attributes = {"dimensions": len(a["normalized_shape"]), "epsilon": a["eps"]}
    _check_examples(a["input"], range(-len(a["normalized_shape"]), 0))
    return Step("layer_norm", (a["input"], a["weight"], a["bias"]), attributes)


def _rms_norm(a: Arguments, _: Shape) -> Step:
    epsilon = 2.0**-23 if a["eps"] is None else a["eps"]  # that of float32, as in PyTorch
    _check_examples(a["input"], range(-len(a["normalized_shape"]), 0))
    return Step("rms_norm", (a["input"], a["weight"]), {"dimensions": len(a["normalized_shape"]), "epsilon": epsilon})


def _group_norm(a: Arguments, _: Shape) -> Step:
    return Step("group_norm", (a["input"], a["weight"], a["bias"]), {"groups": a["num_groups"], "epsilon": a["eps"]})


def _clamp(a: Arguments, _: Shape) -> Step:
    least, most = (a.get(name, a.get(other)) for name, other in (("min", "min_val"), ("max", "max_val")))
    return Step("clamp", (a["self"],), {"least": None if least is None else float(least), "most": _float_or_none(most)})


def _float_or_none(number: Any) -> float | None:
    return None if number is None else float(number)


def _leaky_relu(a: Arguments, _: Shape) -> Step:
    return Step("leaky_relu", (a["self"],), {"slope": float(a["negative_slope"])})


def _elu(a: Arguments, _: Shape) -> Step:
    if (a["scale"], a["input_scale"]) != (1, 1):
        raise TranslationError("an elu with scales")
    return Step("elu", (a["self"],), {"alpha": float(a["alpha"])})


def _softplus(a: Arguments, _: Shape) -> Step:
    return Step("softplus", (a["self"],), {"beta": float(a["beta"])})


def _gelu(a: Arguments, _: Shape) -> Step:
    return Step("gelu", (a["self"],), {"tanh": a["approximate"] == "tanh"})


def _power(a: Arguments, _: Shape) -> Step:
    return Step("power", (a["self"],), {"exponent": float(a["exponent"])})


def _add(a: Arguments, _: Shape) -> Step:
    return _sum(a["self"], a["other"], a.get("alpha", 1))


def _subtract(a: Arguments, _: Shape) -> Step:
    other, factor = a["other"], a.get("alpha", 1)
    if _number(other) is None and factor == 1:
        return Step("subtract", (a["self"], other))
    return _sum(a["self"], other, -factor)


def _sum(x: Traced, y: Any, factor: float) -> Step:
    number = _number(y)
    if number is not None:
        return Step("add_number", (x,), {"number": factor * number})
    if factor != 1:
        raise TranslationError("a sum of tensors with a factor (alpha)")
    if x.number is not None:
        return Step("add_number", (y,), {"number": x.number})
    return Step("add", (x, y))


def _multiply(a: Arguments, _: Shape) -> Step:
    for factor, x in ((a["other"], a["self"]), (a["self"], a["other"])):
        number = _number(factor)
        if number is not None:
            return Step("multiply_number", (x,), {"number": number})
    return Step("multiply", (a["self"], a["other"]))


def _divide(a: Arguments, _: Shape) -> Step:
    number = _number(a["other"])
    if number is not None:
        return Step("multiply_number", (a["self"],), {"number": 1 / number})
    return Step("divide", (a["self"], a["other"]))


def _number(given: Any) -> float | None:
    """A number, or the entry of a constant of one entry; None for other tensors."""
    return given.number if isinstance(given, Traced) else float(given)


def _masked_fill(a: Arguments, _: Shape) -> Step:
    return Step("masked_fill", (a["self"], a["mask"]), {"value": _number(a["value"])})


def _max_pool2d(a: Arguments, _: Shape) -> Step:
    kernel = _pair(a["kernel_size"])
    attributes = {
        "kernel": kernel,
        "stride": _pair(a["stride"] or kernel),
        "padding": _pair(a["padding"]),
        "dilation": _pair(a["dilation"]),
        "ceil": a["ceil_mode"],
    }
    return Step("max_pool2d", (a["self"],), attributes)


def _avg_pool2d(a: Arguments, _: Shape) -> Step:
    kernel = _pair(a["kernel_size"])
    attributes = {
        "kernel": kernel,
        "stride": _pair(a["stride"] or kernel),
        "padding": _pair(a["padding"]),
        "ceil": a["ceil_mode"],
        "include_padding": a["count_include_pad"],
        "divisor": a["divisor_override"],
    }
    return Step("avg_pool2d", (a["self"],), attributes)


def _adaptive(operation: str) -> Translation:
    return lambda a, shape: Step(operation, (a["self"],), {"size": list(shape[2:])})


def _reduction(operation: str) -> Translation:
    def translate(a: Arguments, _: Shape) -> Step:
        x, dims = a["self"], a.get("dim")
        given = range(len(x.shape)) if dims is None or dims == [] else dims
        axes = sorted(axis % len(x.shape) for axis in ([given] if isinstance(given, int) else given))
        _check_examples(x, axes)
        return Step(operation, (x,), {"axes": axes, "keep": bool(a.get("keepdim", False))})

    return translate


def _concatenate(a: Arguments, _: Shape) -> Step:
    tensors = [x for x in a["tensors"] if x.shape != (0,)]
    axis = a["dim"] % len(tensors[0].shape)
    _check_examples(tensors[0], [axis])
    return Step("concatenate", tuple(tensors), {"axis": axis})


def _reshape(a: Arguments, shape: Shape) -> Step:
    return Step("reshape", (a["self"],), {"shape": list(shape)})


def _expand(a: Arguments, shape: Shape) -> Step:
    return Step("expand", (a["self"],), {"shape": list(shape)})


def _permute(a: Arguments, _: Shape) -> Step:
    dims = [axis % len(a["self"].shape) for axis in a["dims"]]
    return Step("permute", (a["self"],), {"order": dims})


def _transpose(a: Arguments, _: Shape) -> Step:
    order = list(range(len(a["self"].shape)))
    one, other = a["dim0"] % len(order), a["dim1"] % len(order)
    order[one], order[other] = order[other], order[one]
    return Step("permute", (a["self"],), {"order": order})


def _slice(a: Arguments, shape: Shape) -> Step:
    x, axis = a["self"], a["dim"] % len(a["self"].shape)
    if shape == x.shape:
        return Step("", alias=x)
    _check_examples(x, [axis])
    size = x.shape[axis]
    start, stop, _ = slice(a["start"], a["end"]).indices(size)
    return Step("slice", (x,), {"axis": axis, "start": start, "stop": stop, "step": a["step"]})


def _select(a: Arguments, _: Shape) -> Step:
    x, axis = a["self"], a["dim"] % len(a["self"].shape)
    _check_examples(x, [axis])
    return Step("select", (x,), {"axis": axis, "index": a["index"] % x.shape[axis]})


def _pad(a: Arguments, _: Shape) -> Step:
    if a.get("mode", "constant") != "constant":
        raise TranslationError(f"padding by the mode {a['mode']!r}; there is 'constant'")
    x, given = a["self"], list(a["pad"])
    pairs = [[before, after] for before, after in zip(given[::2], given[1::2], strict=True)][::-1]
    padding = [[0, 0]] * (len(x.shape) - len(pairs)) + pairs
    _check_examples(x, [axis for axis, pair in enumerate(padding) if pair != [0, 0]])
    if min(given) < 0:
        raise TranslationError("a negative padding")
    return Step("pad", (x,), {"padding": padding, "value": float(a["value"] or 0)})


def _upsample(a: Arguments, shape: Shape) -> Step:
    x = a.get("self", a.get("input"))
    scale = [new // old for new, old in zip(shape[2:], x.shape[2:], strict=True)]
    if [old * times for old, times in zip(x.shape[2:], scale, strict=True)] != list(shape[2:]):
        raise TranslationError("nearest upsampling to a size that is no multiple")
    return Step("upsample_nearest2d", (x,), {"scale": scale})


def _embedding(a: Arguments, _: Shape) -> Step:
    return Step("embedding", (a["indices"], a["weight"]))


def _softmax(a: Arguments, _: Shape) -> Step:
    x, axis = a["self"], a["dim"] % len(a["self"].shape)
    _check_examples(x, [axis])
    return Step("softmax", (x,), {"axis": axis})


def _attention(a: Arguments, _: Shape) -> Step:
    if a["enable_gqa"]:
        raise TranslationError("attention with fewer heads of keys than of queries (enable_gqa)")
    if a["dropout_p"]:
        raise TranslationError("attention that drops weights at random in evaluation, too (dropout_p)")
    operands = (a["query"], a["key"], a["value"], a["attn_mask"])
    return Step("attention", operands, {"causal": a["is_causal"], "scale": a["scale"]})


def _matmul(a: Arguments, _: Shape) -> Step:
    x, y = a["self"], a.get("other", a.get("mat2"))
    if min(len(x.shape), len(y.shape)) < 2:
        raise TranslationError("a product with a vector")
    _check_examples(x, [-1])
    return Step("matmul", (x, y))


def _check_examples(x: Traced, axes: Sequence[int]) -> None:
    if any(x.shape[axis] < 0 for axis in axes):
        raise TranslationError("it combines the examples of a batch, which are predicted independently of each other")


def _pair(given: Any) -> list[int]:
    numbers = list(given) if isinstance(given, list | tuple) else [given]
    return numbers * 2 if len(numbers) == 1 else numbers


_POINTWISE = ("silu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "mish", "exp", "sqrt", "rsqrt", "reciprocal")

TRANSLATIONS: Mapping[str, Translation] = MappingProxyType(
    {
        **{f"aten.{name}.default": _function(name) for name in _POINTWISE},
        "aten.relu.default": _function("relu"),
        "aten.neg.default": _function("negative"),
        "aten.abs.default": _function("absolute"),
        "aten.conv2d.default": _conv2d,
        "aten.conv2d.padding": _conv2d,
        "aten.linear.default": _linear,
        "aten._native_batch_norm_legit_no_training.default": _batch_norm,
        "aten.layer_norm.default": _layer_norm,
        "aten.rms_norm.default": _rms_norm,
        "aten.group_norm.default": _group_norm,
        "aten.relu6.default": lambda a, _: Step("clamp", (a["self"],), {"least": 0.0, "most": 6.0}),
        "aten.hardtanh.default": _clamp,
        "aten.clamp.default": _clamp,
        "aten.clamp_min.default": _clamp,
        "aten.clamp_max.default": _clamp,
        "aten.leaky_relu.default": _leaky_relu,
        "aten.elu.default": _elu,
        "aten.softplus.default": _softplus,
        "aten.gelu.default": _gelu,
        "aten.pow.Tensor_Scalar": _power,
        "aten.square.default": lambda a, _: Step("power", (a["self"],), {"exponent": 2.0}),
        "aten.add.Tensor": _add,
        "aten.add.Scalar": _add,
        "aten.sub.Tensor": _subtract,
        "aten.sub.Scalar": _subtract,
        "aten.mul.Tensor": _multiply,
        "aten.mul.Scalar": _multiply,
        "aten.div.Tensor": _divide,
        "aten.div.Scalar": _divide,
        "aten.masked_fill.Scalar": _masked_fill,
        "aten.masked_fill.Tensor": _masked_fill,
        "aten.max_pool2d.default": _max_pool2d,
        "aten.avg_pool2d.default": _avg_pool2d,
        "aten.adaptive_avg_pool2d.default": _adaptive("adaptive_avg_pool2d"),
        "aten.adaptive_max_pool2d.default": _adaptive("adaptive_max_pool2d"),
        "aten.mean.dim": _reduction("mean"),
        "aten.sum.dim_IntList": _reduction("sum"),
        "aten.amax.default": _reduction("max"),
        "aten.cat.default": _concatenate,
        **{
            f"aten.{name}": _reshape
            for name in (
                "view.default",
                "_unsafe_view.default",
                "reshape.default",
                "flatten.using_ints",
                "unflatten.int",
                "unsqueeze.default",
                "squeeze.default",
                "squeeze.dim",
                "squeeze.dims",
            )
        },
        "aten.expand.default": _expand,
        "aten.permute.default": _permute,
        "aten.transpose.int": _transpose,
        "aten.slice.Tensor": _slice,
        "aten.select.int": _select,
        "aten.constant_pad_nd.default": _pad,
        "aten.pad.default": _pad,
        "aten.upsample_nearest2d.vec": _upsample,
        "aten.upsample_nearest2d.default": _upsample,
        "aten.embedding.default": _embedding,
        "aten.softmax.int": _softmax,
        "aten._softmax.default": _softmax,
        "aten.scaled_dot_product_attention.default": _attention,
        "aten.matmul.default": _matmul,
        "aten.bmm.default": _matmul,
        **{
            f"aten.{name}.default": _same
            for name in ("dropout", "alias", "clone", "contiguous", "detach", "lift_fresh_copy", "feature_dropout")
        },
    }
)
"""How each operation is taken over, from its arguments and the shape of its output."""

SPLITS: Mapping[str, str] = MappingProxyType(
    {
        "aten.split.Tensor": "split",
        "aten.split_with_sizes.default": "split",
        "aten.chunk.default": "split",
        "aten.unbind.int": "unbind",
    }
)
"""Operations with several outputs, which are slices or entries along an axis."""
