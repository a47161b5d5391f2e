"""What can be said of a strategy without judging it: which of its steps nobody judges, and how long they take."""

import functools
from collections.abc import Mapping
from contextlib import suppress
from time import perf_counter
from types import MappingProxyType
from typing import Any

import numpy as np

from sparsecore._registration import MARK
from sparsecore.clock import Clock
from sparsecore.layout import Layout
from sparsecore.testing.pruning import RandomPruning
from sparsecore.testing.runs import begun, engine, judged_update
from sparsecore.testing.scenes import Scene
from sparsecore.testing.stacks import Stack, Subject, declared, fresh, hooks_of, topmost

_DECLARED: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "prune": ("which weights are pruned first", "smallest_first"),
        "allocate": ("how many weights grow in each tensor", "shares"),
        "initial_values": ("the values that grown weights start with", "grown_value"),
    }
)
"""What is judged only where it is declared, and by what."""

_NEVER: Mapping[str, str] = MappingProxyType(
    {
        "grow": "which of the free positions grow",
        "perturb": "which values perturbation leads to",
        "observe": "what is remembered of gradients",
        "adjust": "what is remembered of pruning",
        "remember": "what is remembered of an update",
    }
)
"""What no promise says anything about, since it makes the strategy what it is."""


def undeclared(subject: Subject) -> list[str]:
    """What the strategies decide that is not judged because nothing is declared of it."""
    return [
        f"{what} ({hook!r}; declare {name})"
        for hook, (what, name) in _DECLARED.items()
        if _decides(subject.sample, hook) and getattr(declared(subject, subject.sample, hook), name) is None
    ]


def never_judged(subject: Subject) -> list[str]:
    """What the strategies decide that only a test of their author's can judge."""
    return [f"{what} ({hook!r})" for hook, what in _NEVER.items() if _decides(subject.sample, hook)]


def _decides(stack: Stack, hook: str) -> bool:
    decider = topmost(stack, hook)
    return decider is not None and not isinstance(decider, RandomPruning)


def slowest_hook(subject: Subject) -> tuple[str, float]:
    """The hook whose call takes longest in a step and an update of a small network, and its seconds.

    Whatever goes wrong there is for the promises to tell.
    """
    seconds: dict[str, float] = {"": 0.0}
    scene = _small(subject)
    with suppress(Exception):
        algorithm = engine(scene, stack={name: _timed(plugin, seconds) for name, plugin in fresh(scene.stack).items()})
        judged_update(algorithm, scene, begun(algorithm, scene))
    slowest = max(seconds, key=lambda hook: seconds[hook])
    return slowest, seconds[slowest]


def _small(subject: Subject) -> Scene:
    layout = Layout.of({"first": (4, 5), "second": (20,)})
    draws = np.random.default_rng(0)
    return Scene(
        stack=subject.sample,
        layout=layout,
        positions=np.arange(0, layout.size, 4).astype(layout.position_dtype),
        values=draws.standard_normal(layout.size // 4),
        gradients={name: draws.standard_normal(20) for name in layout.names} if subject.asks_for("gradient") else {},
        clock=Clock(step=1, updates=1, total_steps=100),
        past=1,
    )


def _timed(plugin: Any, seconds: dict[str, float]) -> Any:
    """A plugin that answers as this one does, and notes the longest call of each hook."""

    def timed(hook: str, method: Any) -> Any:
        @functools.wraps(method)
        def answer(**given: Any) -> Any:
            since = perf_counter()
            try:
                return method(**given)
            finally:
                seconds[hook] = max(seconds.get(hook, 0.0), perf_counter() - since)

        setattr(answer, MARK, getattr(method, MARK))
        return answer

    hooks = {hook: staticmethod(timed(hook, method)) for hook, method in hooks_of(plugin).items()}
    return type(type(plugin).__name__, (), hooks)()
