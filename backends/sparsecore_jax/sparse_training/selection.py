"""Selects the parameters that become sparse, and says why the others do not.

A tree has no modules: names and shapes tell what a parameter is for.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

import attrs

from sparsecore.errors import InputError, listed
from sparsecore.sparse_training.groups import Reasons, check_possible, reasons_in_groups
from sparsecore.sparse_training.names import (
    HEAD,
    NO_TOKENS,
    POSITION_NETWORKS,
    POSITIONS,
    TOKENS,
    TYPES,
    has_word,
    is_adapter,
    words,
)
from sparsecore_jax.sparse_training.orientation import orientation_of
from sparsecore_jax.sparse_training.parameters import Leaf, is_floating

_SHOWN = 30
"""The number of names that a sentence lists."""

Globs = str | Sequence[str] | None
"""One glob on names of parameters, several, or none."""

Rule = Callable[[Leaf], bool]


@attrs.frozen(eq=False)
class Selection:
    """The sparse parameters in the order of the tree, and why the others stay dense.

    Attributes:
        sparse: those that become sparse.
        left_out: why the others are dense, by name.
    """

    sparse: tuple[Leaf, ...]
    left_out: Mapping[str, str]


def select(leaves: Sequence[Leaf], include: Globs, exclude: Globs, groups: Iterable[str]) -> Selection:
    """Select the parameters that become sparse.

    Args:
        leaves: all parameters.
        include: globs on names, which replace the default choice.
        exclude: globs on names of parameters that stay dense.
        groups: globs on names, which choose among the parameters above: others stay dense. Where all that one of them
            matches are dense by default, it makes them sparse.

    Raises:
        InputError: a glob matches nothing, or no parameter is left.
    """
    by_glob, excluded_by = (
        [(one, matching(leaves, argument, one)) for one in several(given)]
        for argument, given in (("include", include), ("exclude", exclude))
    )
    included, excluded = (frozenset[str]().union(*(names for _, names in one)) for one in (by_glob, excluded_by))
    chosen: dict[str, Rule] = {**_VECTORS, "excluded": lambda one: one.name in excluded}
    last = _last_linear_layers(leaves)
    default: Mapping[str, Rule] = (
        {**_DEFAULT, "last linear layer, by its number": lambda one: one.name in last}
        if include is None
        else {"not included": lambda one: one.name not in included}
    )
    reasons = _reasons(leaves, {**_ALWAYS, **default, **chosen})
    check_possible(by_glob, reasons, _VECTORS, "parameter")
    groups = tuple(groups)
    if groups:
        always = reasons if include is not None else _reasons(leaves, {**_ALWAYS, **chosen})
        matched = ((glob, matching(leaves, "sparsity", glob)) for glob in groups)
        reasons = reasons_in_groups(matched, reasons, always, "parameter")
    left_out = {name: why for name, why in reasons.items() if why is not None}
    sparse = tuple(one for one in leaves if reasons[one.name] is None)
    if not sparse:
        why = listed([f"{name} ({reason})" for name, reason in left_out.items()], _SHOWN)
        raise InputError(f"no parameter can become sparse: {why}; include= takes globs on names")
    return Selection(sparse, MappingProxyType(left_out))


def several(given: Any) -> tuple[Any, ...]:
    """Return the globs that were given: none, one, or several."""
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else tuple(given)


def matching(leaves: Sequence[Leaf], argument: str, glob: Any) -> frozenset[str]:
    """Return the names of the parameters that a glob matches.

    Args:
        leaves: among which it chooses.
        argument: of ``sparsify``, for the error sentence.
        glob: on names.

    Raises:
        InputError: it is no glob, or matches none.
    """
    if not isinstance(glob, str):
        raise InputError(f"{argument} is a glob on parameter names such as 'encoder/*', or several; given {glob!r}")
    found = frozenset(one.name for one in leaves if one.name == glob or fnmatchcase(one.name, glob))
    if not found:
        names = listed([one.name for one in leaves], _SHOWN)
        raise InputError(f"{argument}={glob!r} matches no parameter; there are {names}")
    return found


def _reasons(leaves: Sequence[Leaf], rules: Mapping[str, Rule]) -> Reasons:
    return {one.name: next((why for why, holds in rules.items() if holds(one)), None) for one in leaves}


_MATRICES = frozenset({"kernel", "w", "weight", "embedding", "embeddings", "weight_ih", "weight_hh"})
"""The names that flax, haiku and equinox give to matrices, kernels and tables of embeddings."""
_TABLES = frozenset({"embedding", "embeddings"})
_NORM = r"\w*norm|bn|ln|batchnorm\w*|layernorm\w*|groupnorm\w*|rmsnorm\w*"
_IMAGE_CHANNELS = 4


def _is_bias(leaf: Leaf) -> bool:
    name = leaf.parts[-1]
    return name == "b" or name.startswith("bias") or name.endswith("_bias")


def _is_table(leaf: Leaf) -> bool:
    return leaf.parts[-1] in _TABLES or leaf.parts[-1] not in _MATRICES


def _table_names(leaf: Leaf) -> tuple[str, ...]:
    """The names that say what is looked up: the table's own and those around it, unless its own speaks of tokens."""
    own = leaf.parts[-2:] if leaf.parts[-1] in _MATRICES else leaf.parts[-1:]
    return own if has_word(TOKENS, *own) else leaf.parts[-3:]


def _is_table_of(pattern: str) -> Rule:
    return lambda leaf: _is_table(leaf) and has_word(pattern, *_table_names(leaf))


def _is_head(leaf: Leaf) -> bool:
    return any(HEAD.fullmatch(words(part)) or words(part) in {"logits", "output_layer"} for part in leaf.parts[-2:-1])


def _last_linear_layers(leaves: Sequence[Leaf]) -> frozenset[str]:
    """Return the matrix of the last linear layer, where numbers in names tell the order of layers.

    It is looked for among the matrices that are in the fewest modules, as ``Dense_2`` in a flax module of three layers.
    """
    linear = [one for one in leaves if len(one.shape) == 2 and one.parts[-1] in _MATRICES - _TABLES and _is_inside(one)]
    shallowest = [one for one in linear if len(one.parts) == min(len(other.parts) for other in linear)]
    numbers = {one.name: re.fullmatch(r"(.*?)(\d+)", one.parts[-2]) for one in shallowest}
    known = {name: found for name, found in numbers.items() if found is not None}
    if len(linear) == 1 and any(len(one.shape) > 2 and one.parts[-1] in _MATRICES for one in leaves):
        return frozenset({linear[0].name})  # what follows convolutions
    if len(linear) < 2 or len(known) < len(numbers) or len({found[1] for found in known.values()}) != 1:
        return frozenset()
    return frozenset({max(known, key=lambda name: int(known[name][2]))})


def _is_inside(leaf: Leaf) -> bool:
    """Whether the parameter is in a module that has a name."""
    return len(leaf.parts) > 1


def _is_first_convolution(leaf: Leaf) -> bool:
    """Whether a convolution sees the channels of images: the order of modules, which would tell, is not in a tree."""
    shape = orientation_of(leaf).engine_shape
    return leaf.parts[-1] in _MATRICES and len(shape) == 4 and 1 < shape[1] <= _IMAGE_CHANNELS


def _has_one_channel(leaf: Leaf) -> bool:
    shape = orientation_of(leaf).engine_shape
    return leaf.parts[-1] in _MATRICES and len(shape) > 2 and shape[1] == 1


_ALWAYS: Mapping[str, Rule] = MappingProxyType(
    {"not a floating-point array": lambda one: not is_floating(one), "empty": lambda one: 0 in one.shape}
)
_VECTORS: Mapping[str, Rule] = MappingProxyType(
    {"bias": _is_bias, "fewer than two dimensions": lambda one: len(one.shape) < 2}
)
_DEFAULT: Mapping[str, Rule] = MappingProxyType(
    {
        "norm": lambda one: any(re.fullmatch(_NORM, re.sub(r"_?\d+$", "", words(part))) for part in one.parts[-2:-1]),
        **_VECTORS,
        "output layer, by its name": _is_head,
        "first convolution, by its inputs of at most 4 channels": _is_first_convolution,
        "a vector: at most one side is longer than one": lambda one: sum(side > 1 for side in one.shape) < 2,
        "embedding of types": _is_table_of(TYPES),
        "relative or absolute positions": lambda one: (
            _is_table_of(POSITIONS)(one) or has_word(POSITION_NETWORKS, *one.parts[-4:])
        ),
        "embedding of something else than tokens": _is_table_of(NO_TOKENS),
        "low-rank adapter": lambda one: is_adapter(one.name),
        "router of experts": lambda one: has_word(r"router|routers|routing", *one.parts[-3:]),
        "one input channel: depthwise, or the first convolution": _has_one_channel,
        "no weight matrix, by its name": lambda one: one.parts[-1] not in _MATRICES,
    }
)
