"""The moment before an update: all that decides what a strategy does, as plain values that can be written down."""

import json
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from numpy.typing import NDArray

from sparsecore.engine.arrays import Array, Arrays
from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError
from sparsecore.experiment.conversion import structure, unstructure
from sparsecore.testing.backend_subjects import oracle_arrays
from sparsecore.testing.frugality import few, is_frugal
from sparsecore.testing.generators import clocks, dtypes, gradients, layouts, topologies, values
from sparsecore.testing.stacks import Stack, Subject


@attrs.frozen(eq=False)
class Scene:
    """A moment of a run.

    Attributes:
        stack: the strategies, with their hyperparameters.
        layout: the sparse tensors.
        positions: the active positions, where the past begins.
        values: one a weight, float32 or float64, at the moment; of weights that have moved to a tensor, its own again.
        gradients: the dense gradient of each tensor; none where no strategy asks for it.
        clock: the time.
        seed: of the engine's draws.
        learning_rate: of the step just taken.
        noise: seed of what training does to the values.
        sparsity: to start at.
        past: steps of training before this moment, each with an update, that lead there from the positions.
    """

    stack: Stack
    layout: Layout
    positions: NDArray[Any]
    values: NDArray[Any]
    gradients: Mapping[str, NDArray[Any]]
    clock: Clock = Clock(total_steps=100)
    seed: int = 0
    learning_rate: float = 0.1
    noise: int = 0
    sparsity: float = 0.8
    past: int = 0

    def topology(self, arrays: Arrays) -> Topology:
        """The active positions, on a backend."""
        return Topology.of(self.layout, arrays.from_numpy(self.positions.copy()), arrays)

    def gradient(self, arrays: Arrays) -> Mapping[str, Array]:
        """The dense gradients, on a backend."""
        return {name: arrays.from_numpy(dense.copy()) for name, dense in self.gradients.items()}

    def to_json(self) -> str:
        """The scene on one line, exactly; what is as a scene has it by default is left out."""
        plain = {
            "options": {name: _options(plugin) for name, plugin in self.stack.items()},
            "layout": dict(zip(self.layout.names, map(list, self.layout.shapes), strict=True)),
            "positions": self.positions.tolist(),
            "values": self.values.tolist(),
            "dtype": str(self.values.dtype),
            "gradients": {name: dense.tolist() for name, dense in self.gradients.items()},
            "clock": {name: value for name, value in attrs.asdict(self.clock).items() if value != _CLOCK[name]},
            **{name: getattr(self, name) for name in _SCALARS},
        }
        told = {name: value for name, value in plain.items() if value != _DEFAULTS.get(name, self)}
        return json.dumps(told, separators=(",", ":"))

    def __repr__(self) -> str:
        return self.to_json()


_SCALARS = ("seed", "learning_rate", "noise", "sparsity", "past")

_CLOCK = attrs.asdict(Clock(total_steps=100))

_DEFAULTS: Mapping[str, Any] = {
    "dtype": "float32",
    "gradients": {},
    "clock": {},
    **{field.name: field.default for field in attrs.fields(Scene) if field.name in _SCALARS},
}
"""What is not written down."""


def from_json(text: str, sample: Stack) -> Scene:
    """The scene that :meth:`Scene.to_json` wrote.

    Args:
        text: what it wrote.
        sample: the stack that it was written of.

    Raises:
        InputError: it is no such text.
    """
    try:
        plain = {**_DEFAULTS, **json.loads(text)}
        layout, dtype = Layout.of(plain["layout"]), plain["dtype"]
        return Scene(
            stack={name: _with_options(plugin, plain["options"][name]) for name, plugin in sample.items()},
            layout=layout,
            positions=np.array(plain["positions"], layout.position_dtype),
            values=np.array(plain["values"], dtype),
            gradients={name: np.array(dense, dtype) for name, dense in plain["gradients"].items()},
            clock=Clock(**{**_CLOCK, **plain["clock"]}),
            **{name: plain[name] for name in _SCALARS},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"an example is what `sparsecore check` has printed; this one cannot be read: {error}"
        ) from error


def _options(plugin: Any) -> Any:
    return unstructure(plugin) if attrs.has(type(plugin)) else None


def _with_options(plugin: Any, options: Any) -> Any:
    return plugin if options is None else structure(options, type(plugin), type(plugin).__name__)


@st.composite
def scenes(draw: DrawFn, subject: Subject, *, min_tensors: int = 1) -> Scene:
    """Moments of a run of this strategy, anywhere in it."""
    stack = draw(subject.stacks)
    if min_tensors == 1 and draw(st.sampled_from(_IS_TIGHT)):
        topology = draw(_tight())
    elif draw(st.sampled_from(_IS_ROOMY)):
        topology = draw(_roomy(max(2, min_tensors)))
    else:
        least = max(min_tensors, draw(st.sampled_from([1, 2, 3])))
        topology = draw(topologies(layout=draw(layouts(min_tensors=least, max_tensors=4, max_side=4))))
    layout, dtype = topology.layout, draw(dtypes())
    sparsity = draw(st.sampled_from([0.8, 0.0, 0.3, 0.5, 0.95, 0.999]))
    if draw(st.sampled_from(_IS_VAST)) and subject.is_sparse_throughout and is_frugal(stack):
        topology = draw(_beside_a_vast_tensor(topology))
        sparsity = few(topology.layout)
    clock, past = draw(clocks(max_steps=draw(st.sampled_from(_RUNS)))), draw(st.sampled_from(_PASTS))
    return Scene(
        stack=stack,
        layout=topology.layout,
        positions=topology.host_positions,
        values=np.asarray(draw(values(topology=topology, dtype=dtype))),
        gradients=_host(draw(gradients(layout=layout, dtype=dtype))) if subject.asks_for("gradient") else {},
        clock=_later(clock, past),
        seed=draw(st.integers(0, 2**16)),
        learning_rate=draw(st.sampled_from([0.1, 1.0, 1e-3])),
        noise=draw(st.integers(0, 2**16)),
        sparsity=sparsity,
        past=past,
    )


def _later(clock: Clock, updates: int) -> Clock:
    """The clock so many steps later, with an update in each."""
    total = None if clock.total_steps is None else clock.total_steps + updates
    return attrs.evolve(clock, step=clock.step + updates, updates=clock.updates + updates, total_steps=total)


_IS_TIGHT = (False, True, False)

_IS_ROOMY = (False, True, False, True)

_IS_CROWDED = (False, True, False)

_IS_VAST = (False, False, False, True)

_RUNS = (1_000, 10, 100_000)
"""So many steps a run has at most."""

_PASTS = (0, 4, 1, 12, 0, 6, 2, 4)
"""How many updates lead to a scene."""

_VAST = 3 * 10**9
"""More positions than 32 bits with a sign can count."""


@st.composite
def _tight(draw: DrawFn) -> Topology:
    """A tensor with one or two free positions, which what is pruned fills to the last."""
    size = draw(st.integers(4, 9))
    free = draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=2))
    layout, arrays = Layout.of({"tensor0": (size,)}), oracle_arrays()
    positions = np.array([place for place in range(size) if place not in free], layout.position_dtype)
    return Topology.of(layout, arrays.from_numpy(positions), arrays)


@st.composite
def _roomy(draw: DrawFn, least: int) -> Topology:
    """Several tensors with weights enough to lose some; most have room, some have hardly any, so that shares matter."""
    sizes = draw(st.lists(st.integers(6, 12), min_size=least, max_size=4))
    layout, arrays = Layout.of({f"tensor{number}": (size,) for number, size in enumerate(sizes)}), oracle_arrays()
    parts = [
        np.array(sorted(draw(_crowded(size) if draw(st.sampled_from(_IS_CROWDED)) else _half(size)))) + offset
        for size, offset in zip(layout.sizes, layout.offsets, strict=False)
    ]
    return Topology.of(layout, arrays.from_numpy(np.concatenate(parts).astype(layout.position_dtype)), arrays)


def _half(size: int) -> SearchStrategy[set[int]]:
    """From three positions up to a half of them."""
    return st.sets(st.integers(0, size - 1), min_size=3, max_size=size // 2)


def _crowded(size: int) -> SearchStrategy[set[int]]:
    """All positions, or all but one."""
    return st.sets(st.integers(0, size - 1), max_size=1).map(lambda free: set(range(size)) - free)


@st.composite
def _beside_a_vast_tensor(draw: DrawFn, topology: Topology) -> Topology:
    """The same with another tensor, of few weights among more positions than 32 bits can count."""
    layout, arrays = topology.layout, topology.arrays
    tensor = draw(st.sampled_from([0, *range(len(layout) + 1)]))
    wider = Layout(
        (*layout.names[:tensor], "vast", *layout.names[tensor:]),
        (*layout.shapes[:tensor], (_VAST,), *layout.shapes[tensor:]),
    )
    places = sorted(draw(st.sets(st.integers(0, _VAST - 1), min_size=1, max_size=6)))
    own = topology.host_positions.astype(np.int64)
    first = layout.offsets[tensor]
    parts = (own[own < first], np.array(places, np.int64) + first, own[own >= first] + _VAST)
    return Topology.of(wider, arrays.from_numpy(np.concatenate(parts).astype(wider.position_dtype)), arrays)


def _host(arrays: Mapping[str, Array]) -> dict[str, NDArray[Any]]:
    return {name: np.asarray(array) for name, array in arrays.items()}
