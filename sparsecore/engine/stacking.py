"""Checks of stacks: strategies that contradict each other are refused before the start, by a sentence."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from sparsecore.engine.stack import StrategyStack
from sparsecore.errors import InputError

_DECISIONS: Mapping[str, str] = MappingProxyType(
    {
        "initial_topology": "which weights there are at the start",
        "prune": "which weights are pruned",
        "revise_pruning": "which weights are pruned in the end",
        "target_size": "how many weights there are after an update",
        "allocate": "how many weights grow in each tensor",
        "grow": "where weights grow",
    }
)


def check_stack(stack: StrategyStack, strategies: Mapping[str, object]) -> None:
    """Check that no strategy takes a decision that one below it must take itself.

    Args:
        stack: the registered strategies.
        strategies: these, by name, bottom first. The attribute ``decides_alone`` of one has the names of hooks that no
            strategy above it may implement, as its other hooks would no longer do what they say. Those that only look
            on, and return None from every hook, say so by ``only_looks_on``.

    Raises:
        InputError: one does, or a strategy decides the number of weights whose ``allocate`` does not take it.
    """
    names = list(strategies)
    for name, strategy in strategies.items():
        alone: Sequence[str] = getattr(strategy, "decides_alone", ())
        above = [other for other in names[names.index(name) + 1 :] if not _only_looks_on(strategies[other])]
        for hook in alone:
            deciding = next((other for other in stack.implementers(hook) if other in above), None)
            if deciding is not None:
                raise InputError(
                    f"the strategy {deciding!r} cannot be stacked on {name!r}, which has to decide itself "
                    f"{_DECISIONS.get(hook, 'this')} ({hook!r})"
                )
    _check_growth_is_decided_once(stack)


def _only_looks_on(strategy: object) -> bool:
    return bool(getattr(strategy, "only_looks_on", False))


def _check_growth_is_decided_once(stack: StrategyStack) -> None:
    """Check that no strategy grows as many weights as it counts itself where one above it decides their number."""
    sizing, allocating = stack.implementers("target_size"), stack.implementers("allocate")
    if not sizing or not allocating or allocating[0] not in sizing[1:]:
        return
    if allocating[0] not in stack.plugins_requesting("total", "allocate"):
        raise InputError(
            f"the strategies {allocating[0]!r} and {sizing[0]!r} cannot be stacked: each decides by itself how many "
            "weights there are after an update"
        )
