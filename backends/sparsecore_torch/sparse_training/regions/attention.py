"""Causal attention in compiled models, by kernels that leave out the keys that no query of a block may read.

PyTorch's attention on the CPU computes the scores of all keys of a block, of which it masks half if the block is a
whole sequence. Attention is causal where it is called so, or with a mask that turns out to be the causal one, as models
of transformers make it. Other attention stays PyTorch's, and so does attention with dropout.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from sparsecore_cpu._kernels import attend_in_training, attention_gradients
from sparsecore_cpu.runtime import Runtime
from sparsecore_torch._torch_internals.compilation import untraced
from sparsecore_torch.sparse_training.regions.decisions import Decisions, Ways, size_class
from sparsecore_torch.sparse_training.regions.transforms import check_first_order

_NAME = "causal attention"

_PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
"""Of torch's function, by position."""

_DEFAULTS = {"attn_mask": None, "dropout_p": 0.0, "is_causal": False, "scale": None, "enable_gqa": False}


def replace_attention(graph: fx.Graph, decisions: Decisions) -> set[fx.Node]:
    """Let nodes of causal attention call the kernels where these are faster.

    Args:
        graph: of torch's; its nodes are changed.
        decisions: whether the kernels compute attention.

    Returns:
        The nodes.
    """
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.target is functional.scaled_dot_product_attention:
            given = {**_DEFAULTS, **dict(zip(_PARAMETERS, node.args, strict=False)), **node.kwargs}
            if _may_be_causal(given):
                node.target = _causal_attention(decisions, given["scale"])
                node.args, node.kwargs = tuple(given[name] for name in _PARAMETERS[:4]), {}
                found.add(node)
    return found


def _may_be_causal(given: Mapping[str, Any]) -> bool:
    """Return whether the arguments are those of causal attention, if the mask among them is a causal one."""
    is_masked = isinstance(given["attn_mask"], fx.Node) and given["is_causal"] is False
    is_causal = given["attn_mask"] is None and given["is_causal"] is True
    is_plain = given["dropout_p"] == 0 and given["enable_gqa"] is False
    return is_plain and (is_masked or is_causal) and isinstance(given["scale"], float | None)


def _causal_attention(decisions: Decisions, scale: float | None) -> Callable[..., Tensor]:
    def causal_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        given = (query, key, value)
        factor = 1 / math.sqrt(max(query.shape[-1], 1)) if scale is None else scale

        def in_torch(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return functional.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None, scale=scale)

        def by_kernels(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return _attention(query, key, value, factor)

        is_causal = _fits(given) and (mask is None or _is_causal(mask, query.shape[2], key.shape[2]))
        if not is_causal or not _takes_kernels(decisions, given, by_kernels, in_torch):
            return in_torch(*given)
        return by_kernels(*given)

    return causal_attention


def _fits(given: Sequence[Tensor]) -> bool:
    """Return whether the kernels compute with these queries, keys and values."""
    query, key, value = given
    return (
        all(one.dtype is torch.float32 and one.device.type == "cpu" and one.ndim == 4 for one in given)
        and not torch.is_autocast_enabled("cpu")
        and key.shape == value.shape
        and (*query.shape[:2], query.shape[3]) == (*key.shape[:2], key.shape[3])
        and all(one.numel() for one in given)
    )


def _is_causal(mask: Tensor, queries: int, keys: int) -> bool:
    """Return whether a mask of booleans, or one that is added, lets each token read the keys up to its own number."""
    if mask.requires_grad or mask.shape[-2:] != (queries, keys):
        return False
    read = torch.ones(queries, keys, dtype=torch.bool).tril()
    if mask.dtype is torch.bool:
        return bool((mask == read).all())
    if not mask.is_floating_point():  # torch refuses it
        return False
    return bool(torch.where(read, mask == 0, mask <= torch.finfo(mask.dtype).min).all())


def _takes_kernels(
    decisions: Decisions, given: Sequence[Tensor], by_kernels: Callable[..., Tensor], in_torch: Callable[..., Tensor]
) -> bool:
    is_differentiable = torch.is_grad_enabled() and any(one.requires_grad for one in given)
    mode = ["training" if is_differentiable else "evaluation", f"{torch.get_num_threads()} threads"]
    case = f"{_NAME}: {', '.join([*(size_class(one.shape) for one in given[:2]), *mode])}"

    def run(attention: Callable[..., Tensor]) -> Callable[[], None]:
        leaves = [one.detach().requires_grad_(is_differentiable and one.requires_grad) for one in given]

        def run_once() -> None:
            out = attention(*leaves)
            if out.requires_grad:
                torch.autograd.grad(out, [one for one in leaves if one.requires_grad], out.detach())

        return run_once

    return decisions.takes_sparse(case, (_NAME,), 1, lambda: Ways(run(by_kernels), run(in_torch)))


@cache
def _instruction_set() -> str:
    return Runtime.of(1).kernels.name


class _Attention(torch.autograd.Function):
    """Queries, keys and values, (examples, heads, tokens, features), to outputs."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        ctx.threads, ctx.scale = torch.get_num_threads(), scale
        out, log_sums = _by_token(query), query.new_empty(query.shape[:3])
        arrays = [_array(one) for one in (query, key, value, out, log_sums)]
        attend_in_training(*[_instruction_set(), *arrays, True, scale, ctx.threads])
        ctx.save_for_backward(query, key, value, out, log_sums)
        return out

    @staticmethod
    @untraced
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        check_first_order(gradient)
        saved = ctx.saved_tensors
        made = [_by_token(one) for one in saved[:3]]
        arrays = [_array(one) for one in (*saved, gradient, *made)]
        attention_gradients(*[_instruction_set(), *arrays, True, ctx.scale, ctx.threads])
        return *(one if needed else None for one, needed in zip(made, ctx.needs_input_grad, strict=False)), None


_attention: Callable[..., Tensor] = _Attention.apply


def _by_token(like: Tensor) -> Tensor:
    """Return memory for a tensor of a shape, (examples, heads, tokens, features), in which each token is in one piece.

    So torch returns attention, and what joins the heads of a token copies nothing.
    """
    examples, heads, tokens, features = like.shape
    return like.new_empty(examples, tokens, heads, features).transpose(1, 2)


def _array(tensor: Tensor) -> Any:
    """Return the memory of a tensor; of a copy where the features of a token do not lie behind each other."""
    plain = tensor.detach()
    return (plain if plain.stride(-1) == 1 else plain.contiguous()).numpy()
