"""Settings by group of tensors: what an entry such as ``{"encoder.*": 0.9}`` says about each sparse tensor."""

from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, Generic, TypeVar

import attrs

from sparsecore.engine.distributions import check_sparsity
from sparsecore.errors import InputError, listed

Setting = TypeVar("Setting")

Selector = str | type
"""A glob on parameter names, or a class of modules where the framework has any."""

Reasons = Mapping[str, str | None]
"""Why parameters are dense, by name; None for those that are sparse."""

_SHOWN = 8
"""The number of tensors that an error sentence names."""

_MOST_REASONS = 30
"""The number of dense parameters that an error sentence gives reasons for."""


@attrs.frozen(eq=False)
class Group(Generic[Setting]):
    """The tensors to which one entry of a setting applies.

    Attributes:
        label: the entry's glob, or the name of its class; empty where there are no entries, and the setting is one for
            all tensors.
        tensors: the names of the tensors, in the order of the model.
        setting: what the entry says.
    """

    label: str
    tensors: tuple[str, ...]
    setting: Setting


@attrs.frozen(eq=False)
class Choice:
    """The sparse tensors of a model, among which the entries of a setting choose.

    Attributes:
        sparse: their names, in the order of the model.
        left_out: why the other parameters are dense, by name.
        matching: returns the names of the parameters that a selector of an argument matches, for which it raises an
            InputError if there are none.
    """

    sparse: tuple[str, ...]
    left_out: Mapping[str, str]
    matching: Callable[[str, Selector], frozenset[str]]


def check_possible(
    included: Iterable[tuple[Selector, frozenset[str]]], reasons: Reasons, never: Container[str], what: str
) -> None:
    """Check that each selector of ``include`` matches something that can be sparse.

    Args:
        included: each selector, and the names of the parameters that it matches.
        reasons: why parameters are dense.
        never: the reasons for which a parameter is dense whatever is asked for.
        what: what an error sentence calls a parameter.

    Raises:
        InputError: all parameters that one matches are dense for such a reason.
    """
    for selector, names in included:
        if all(reasons[name] in never for name in names):
            found = listed([f"{name} ({reasons[name]})" for name in sorted(names)], _SHOWN)
            raise InputError(f"include={selector_name(selector)!r} names no {what} that can be sparse: {found}")


def selector_name(selector: Selector) -> str:
    """Return a glob itself, or the name of a class."""
    return selector.__name__ if isinstance(selector, type) else selector


def groups_of(argument: str, given: Setting | Mapping[Any, Setting], choice: Choice) -> tuple[Group[Setting], ...]:
    """Return the groups into which a setting divides the sparse tensors.

    Of several entries that match a tensor, the last one applies to it.

    Args:
        argument: of ``sparsify``, for error sentences.
        given: one setting for all tensors, or one for each glob on parameter names or class of modules.
        choice: the sparse tensors, all of which must be in a group.

    Raises:
        InputError: an entry matches no sparse tensor, or later ones replace it everywhere; or a tensor is in no group.
    """
    if not isinstance(given, Mapping):
        return (Group("", choice.sparse, given),)
    if not given:
        raise InputError(f"{argument} is an empty dict; it has an entry for each group of tensors")
    matched = {selector: _matched(argument, selector, choice) for selector in given}
    chosen = {name: selector for selector, names in matched.items() for name in names}
    missing = [name for name in choice.sparse if name not in chosen]
    if missing:
        raise InputError(
            f"{argument} has no entry for {listed(missing, _SHOWN)}; an entry '*' before the others is for all that no "
            "later one matches, and exclude= leaves tensors dense"
        )
    groups = []
    for selector, setting in given.items():
        own = tuple(name for name in choice.sparse if chosen[name] == selector)
        if not own:
            raise InputError(_replaced(argument, selector, matched[selector], chosen))
        groups.append(Group(selector_name(selector), own, setting))
    return tuple(groups)


def _matched(argument: str, selector: Selector, choice: Choice) -> frozenset[str]:
    """Return the sparse tensors that an entry matches."""
    found = choice.matching(argument, selector)
    if not found & set(choice.sparse):
        why = {name: choice.left_out[name] for name in found if name in choice.left_out}
        dense = listed([f"{name} ({reason})" for name, reason in why.items()], _SHOWN)
        raise InputError(
            f"the entry {selector_name(selector)!r} of {argument}= matches no sparse tensor, but {dense}; sparse are "
            f"{listed(choice.sparse, _SHOWN)}"
        )
    return found & set(choice.sparse)


def _replaced(argument: str, selector: Selector, names: frozenset[str], chosen: Mapping[str, Selector]) -> str:
    later = dict.fromkeys(selector_name(chosen[name]) for name in names)
    return (
        f"the entry {selector_name(selector)!r} of {argument}= has no effect: of several entries that match a tensor "
        f"the last one applies, and {', '.join(map(repr, later))} match all of its tensors, "
        f"{listed(sorted(names), _SHOWN)}; put the general entry first"
    )


def check_sparsities(given: Any) -> None:
    """Check the sparsity that was given for each group.

    Args:
        given: the argument of ``sparsify``; anything but a mapping is left to later checks.

    Raises:
        InputError: one is no number in [0, 1); the message names its entry.
    """
    for selector, sparsity in given.items() if isinstance(given, Mapping) else ():
        try:
            check_sparsity(sparsity)
        except InputError as error:
            raise InputError(f"the entry {selector_name(selector)!r} of sparsity=: {error}") from None


def reasons_in_groups(
    groups: Iterable[tuple[str, frozenset[str]]], reasons: Reasons, always: Reasons, what: str
) -> Reasons:
    """Return the reasons where groups choose among the sparse parameters, and may name others.

    Args:
        groups: the label of each, and the names of the parameters that it matches.
        reasons: without groups.
        always: the reasons that hold even for a parameter that is named.
        what: what an error sentence calls a parameter.

    Raises:
        InputError: all that a group matches always stay dense.
    """
    named: set[str] = set()
    for label, matched in groups:
        sparse = {name for name in matched if reasons[name] is None}
        # a group that matches nothing but parameters that are dense by default makes these sparse
        chosen = sparse or {name for name in matched if always[name] is None}
        if not chosen:
            why = listed([f"{name} ({always[name]})" for name in reasons if name in matched], _MOST_REASONS)
            raise InputError(f"the entry {label!r} of sparsity= names no {what} that can be sparse: {why}")
        named |= chosen
    return {name: (always[name] if name in named else reasons[name] or "in no group of sparsity=") for name in reasons}
