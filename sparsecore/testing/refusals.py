"""What a strategy may refuse, and what is a mistake of its own."""

from collections.abc import Iterable

from sparsecore.engine import Engine
from sparsecore.errors import InputError
from sparsecore.testing.oracle import oracle_arrays
from sparsecore.testing.scenes import Scene
from sparsecore.testing.stacks import Stack, fresh

_RAISED_IN_A_HOOK = "raised in the hook "
"""How the note begins that the engine adds to an error of a plugin's."""

_OF_THE_START = ("initial_topology", "initial_memory", "start_values")
"""Hooks that may refuse what a run is given."""


def hook_of(error: BaseException) -> str | None:
    """The note that says which hook of which plugin raised this; None where none did."""
    notes: Iterable[str] = getattr(error, "__notes__", ())
    return next((note for note in notes if note.startswith(_RAISED_IN_A_HOOK)), None)


def is_mistake(error: Exception, scene: Scene) -> bool:
    """Whether an error that the library has words for is all the same a strategy's own mistake.

    The engine may refuse an update: it has looked before it asks whether what was pruned can grow. A strategy may
    refuse a layout at the start; if it does, it may do so again in an update of a run that was started elsewhere.
    """
    place = hook_of(error)
    if place is None:
        return False
    if not isinstance(error, InputError):
        return True
    if any(place.startswith(f"{_RAISED_IN_A_HOOK}{hook!r} ") for hook in _OF_THE_START):
        return False
    return not any(_refuses_to_start({name: plugin}, scene) for name, plugin in scene.stack.items())


def _refuses_to_start(stack: Stack, scene: Scene) -> bool:
    try:
        Engine(scene.layout, fresh(stack), arrays=oracle_arrays(), seed=scene.seed).start(scene.sparsity)
    except InputError:
        return True
    return False
