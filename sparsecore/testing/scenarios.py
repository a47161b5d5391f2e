"""Scenarios: everything that determines what a strategy does in an update, drawn anywhere in a run."""

import json
from collections.abc import Mapping
from types import MappingProxyType
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
from sparsecore.testing.generators import clocks, dtypes, gradients, layouts, topologies, values
from sparsecore.testing.peak_memory import needs_memory_for_weights_only, sparsity_with_few_weights
from sparsecore.testing.subjects import Stack, StrategySubject, oracle_arrays


@attrs.frozen(eq=False)
class Scenario:
    """A run up to the update that is checked: an example for the promises of a strategy.

    Attributes:
        stack: the strategies by name, with their hyperparameters, bottom first.
        layout: the sparse tensors.
        positions: the active positions at the beginning, ascending, of the layout's position dtype.
        values: the values before the update, float32 or float64, one for each position. Where earlier updates have
            changed the number of weights of a tensor, its values are repeated or cut off.
        gradients: the dense gradient of each tensor by name, from which those of active weights and of candidates are
            taken; empty if no strategy requests any.
        clock: the time before the update.
        seed: the engine's seed.
        learning_rate: the learning rate of each step.
        noise_seed: the seed of the noise by which training changes the values.
        sparsity: the sparsity requested at the start.
        previous_updates: how many steps of training, each with an update, lead from the beginning to this update.
    """

    stack: Stack
    layout: Layout
    positions: NDArray[Any]
    values: NDArray[Any]
    gradients: Mapping[str, NDArray[Any]]
    clock: Clock = Clock(total_steps=100)
    seed: int = 0
    learning_rate: float = 0.1
    noise_seed: int = 0
    sparsity: float = 0.8
    previous_updates: int = 0

    def topology_on(self, arrays: Arrays) -> Topology:
        """Return the active positions at the beginning, on a backend.

        Args:
            arrays: the backend's operations; positions are copied, so that a strategy that writes to them spoils no
                example.
        """
        return Topology.of(self.layout, arrays.from_numpy(self.positions.copy()), arrays)

    def gradients_on(self, arrays: Arrays) -> Mapping[str, Array]:
        """Return copies of the dense gradients, on a backend.

        Args:
            arrays: the backend's operations.

        Returns:
            For each tensor's name (D_i,) entries in the dtype of the values; empty if no strategy requests them.
        """
        return {name: arrays.from_numpy(dense.copy()) for name, dense in self.gradients.items()}

    def to_json(self) -> str:
        """Return the scenario as one line of JSON, exactly; fields that have their default are left out."""
        plain = {
            "options": {name: _options(plugin) for name, plugin in self.stack.items()},
            "layout": dict(zip(self.layout.names, map(list, self.layout.shapes), strict=True)),
            "positions": self.positions.tolist(),
            "values": self.values.tolist(),
            "dtype": str(self.values.dtype),
            "gradients": {name: dense.tolist() for name, dense in self.gradients.items()},
            "clock": {name: value for name, value in attrs.asdict(self.clock).items() if value != _CLOCK[name]},
            **{key: getattr(self, field) for key, field in _NUMBERS.items()},
        }
        written = {key: value for key, value in plain.items() if value != _DEFAULTS.get(key, self)}
        return json.dumps(written, separators=(",", ":"))

    def __repr__(self) -> str:
        return self.to_json()


_NUMBERS: Mapping[str, str] = MappingProxyType(
    {
        "seed": "seed",
        "learning_rate": "learning_rate",
        "noise": "noise_seed",
        "sparsity": "sparsity",
        "past": "previous_updates",
    }
)
"""The fields that are numbers, by their key in JSON."""

_CLOCK = attrs.asdict(Clock(total_steps=100))

_DEFAULTS: Mapping[str, Any] = {
    "dtype": "float32",
    "gradients": {},
    "clock": {},
    **{key: getattr(attrs.fields(Scenario), field).default for key, field in _NUMBERS.items()},
}
"""The values that are left out of JSON."""


def from_json(text: str, sample: Stack) -> Scenario:
    """Read a scenario that :meth:`Scenario.to_json` has written.

    Args:
        text: the JSON.
        sample: a stack of the same strategies, with any hyperparameters.

    Raises:
        InputError: the text is not such JSON, or is of other strategies.
    """
    try:
        plain = {**_DEFAULTS, **json.loads(text)}
        layout, dtype = Layout.of(plain["layout"]), plain["dtype"]
        return Scenario(
            stack={name: _with_options(plugin, plain["options"][name]) for name, plugin in sample.items()},
            layout=layout,
            positions=np.array(plain["positions"], layout.position_dtype),
            values=np.array(plain["values"], dtype),
            gradients={name: np.array(dense, dtype) for name, dense in plain["gradients"].items()},
            clock=Clock(**{**_CLOCK, **plain["clock"]}),
            **{field: plain[key] for key, field in _NUMBERS.items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"it has no key {error}" if isinstance(error, KeyError) else error
        raise InputError(
            f"an example is what `sparsecore check` has printed; this one cannot be read: {reason}"
        ) from error


def _options(plugin: Any) -> Any:
    return unstructure(plugin) if attrs.has(type(plugin)) else None


def _with_options(plugin: Any, options: Any) -> Any:
    return plugin if options is None else structure(options, type(plugin), type(plugin).__name__)


@st.composite
def scenarios(draw: DrawFn, subject: StrategySubject, *, min_tensors: int = 1) -> Scenario:
    """Draw scenarios of a stack of strategies.

    Args:
        draw: given by hypothesis.
        subject: the strategies.
        min_tensors: how many sparse tensors there are at least.
    """
    stack = draw(subject.stacks)
    if min_tensors == 1 and draw(st.sampled_from(_ONE_OF_THREE)):
        topology = draw(_one_nearly_full_tensor())
    elif draw(st.sampled_from(_EVERY_SECOND)):
        topology = draw(_tensors_with_much_or_little_room(max(2, min_tensors)))
    else:
        tensors = max(min_tensors, draw(st.sampled_from([1, 2, 3])))
        topology = draw(topologies(layout=draw(layouts(min_tensors=tensors, max_tensors=4, max_side=4))))
    layout, dtype = topology.layout, draw(dtypes())
    sparsity = draw(st.sampled_from([0.8, 0.0, 0.3, 0.5, 0.95, 0.999]))
    if draw(st.sampled_from(_ONE_OF_FOUR)) and subject.needs_no_dense_memory and needs_memory_for_weights_only(stack):
        topology = draw(_beside_a_vast_tensor(topology))
        sparsity = sparsity_with_few_weights(topology.layout)
    # a vast tensor has no dense gradient; those of few weights and candidates are drawn for each step
    has_gradients = subject.requests_gradients and "vast" not in topology.layout.names
    clock = draw(clocks(max_steps=draw(st.sampled_from(_MAX_STEPS))))
    previous_updates = draw(st.sampled_from(_PREVIOUS_UPDATES))
    drawn = Scenario(
        stack=stack,
        layout=topology.layout,
        positions=topology.host_positions,
        values=np.asarray(draw(values(topology=topology, dtype=dtype))),
        gradients=_on_host(draw(gradients(layout=layout, dtype=dtype))) if has_gradients else {},
        clock=_later(clock, previous_updates),
        seed=draw(st.integers(0, 2**16)),
        learning_rate=draw(st.sampled_from([0.1, 1.0, 1e-3])),
        noise_seed=draw(st.integers(0, 2**16)),
        sparsity=sparsity,
        previous_updates=previous_updates,
    )
    return _with_unknown_end(drawn) if drawn.noise_seed % _UNKNOWN_ENDS == _UNKNOWN_ENDS - 1 else drawn


def _on_host(arrays: Mapping[str, Array]) -> dict[str, NDArray[Any]]:
    return {name: np.asarray(array) for name, array in arrays.items()}


def _later(clock: Clock, updates: int) -> Clock:
    """Advance the clock, and the end of the run, by steps that have an update each."""
    total = None if clock.total_steps is None else clock.total_steps + updates
    return attrs.evolve(clock, step=clock.step + updates, updates=clock.updates + updates, total_steps=total)


def _with_unknown_end(scenario: Scenario) -> Scenario:
    return attrs.evolve(scenario, clock=attrs.evolve(scenario.clock, total_steps=None))


_UNKNOWN_ENDS = 8
"""In one of so many scenarios it is not known when the run ends.

The seed of the noise decides which, so that this takes no draw of its own and the other draws of a seed stay the same.
"""

_EVERY_SECOND = (False, True, False, True)

_ONE_OF_THREE = (False, True, False)

_ONE_OF_FOUR = (False, False, False, True)

_MAX_STEPS = (1_000, 10, 100_000)
"""How many steps a run has at most."""

_PREVIOUS_UPDATES = (0, 4, 1, 12, 0, 6, 2, 4)

VAST_SIZE = 3 * 10**9
"""Positions of a vast tensor: more than signed 32-bit integers can count."""


@st.composite
def _one_nearly_full_tensor(draw: DrawFn) -> Topology:
    """Draw a tensor with one or two free positions, which growth fills completely."""
    size = draw(st.integers(4, 9))
    free = draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=2))
    layout, arrays = Layout.of({"tensor0": (size,)}), oracle_arrays()
    positions = np.array([index for index in range(size) if index not in free], layout.position_dtype)
    return Topology.of(layout, arrays.from_numpy(positions), arrays)


@st.composite
def _tensors_with_much_or_little_room(draw: DrawFn, min_tensors: int) -> Topology:
    """Draw several tensors, each at most half full or nearly full, so that the room matters for the allocation."""
    sizes = draw(st.lists(st.integers(6, 12), min_size=min_tensors, max_size=4))
    layout, arrays = Layout.of({f"tensor{number}": (size,) for number, size in enumerate(sizes)}), oracle_arrays()
    parts = [
        np.array(sorted(draw(_nearly_full(size) if draw(st.sampled_from(_ONE_OF_THREE)) else _at_most_half(size))))
        + offset
        for size, offset in zip(layout.sizes, layout.offsets, strict=False)
    ]
    return Topology.of(layout, arrays.from_numpy(np.concatenate(parts).astype(layout.position_dtype)), arrays)


def _at_most_half(size: int) -> SearchStrategy[set[int]]:
    """Draw three or more positions of a tensor, at most half of all."""
    return st.sets(st.integers(0, size - 1), min_size=3, max_size=size // 2)


def _nearly_full(size: int) -> SearchStrategy[set[int]]:
    """Draw all positions of a tensor, or all but one."""
    return st.sets(st.integers(0, size - 1), max_size=1).map(lambda free: set(range(size)) - free)


@st.composite
def _beside_a_vast_tensor(draw: DrawFn, topology: Topology) -> Topology:
    """Insert another tensor among those of the topology, with few weights among more positions than 32 bits count."""
    layout, arrays = topology.layout, topology.arrays
    tensor = draw(st.sampled_from([0, *range(len(layout) + 1)]))
    wider = Layout(
        (*layout.names[:tensor], "vast", *layout.names[tensor:]),
        (*layout.shapes[:tensor], (VAST_SIZE,), *layout.shapes[tensor:]),
    )
    inserted = sorted(draw(st.sets(st.integers(0, VAST_SIZE - 1), min_size=1, max_size=6)))
    own = topology.host_positions.astype(np.int64)
    first = layout.offsets[tensor]
    parts = (own[own < first], np.array(inserted, np.int64) + first, own[own >= first] + VAST_SIZE)
    return Topology.of(wider, arrays.from_numpy(np.concatenate(parts).astype(wider.position_dtype)), arrays)
