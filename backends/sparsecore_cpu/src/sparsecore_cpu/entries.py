"""The weights of a layer as the kernels' lists take them: the entries that exist, their values and gradients."""

from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore_cpu.lists import Strides, Taps, WeightList, Window
from sparsecore_numpy.memory import Memory
from sparsecore_numpy.tied import TiedWeight
from sparsecore_numpy.weights import Operand, Weight


class Entries(Protocol):
    """Which entries of a tensor exist, and what they are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Dense."""
        ...

    @property
    def owner(self) -> Any:
        """What lives as long as the positions stay the same."""
        ...

    @property
    def positions(self) -> NDArray[np.integer]:
        """Row-major, ascending."""
        ...

    def values(self) -> NDArray[Any]:
        """One for each position."""
        ...

    def accumulate(self, gradient: NDArray[Any]) -> None:
        """Add to the gradients; one for each position."""
        ...


@attrs.frozen(eq=False)
class Own:
    """The entries of a parameter."""

    weight: Weight

    @property
    def shape(self) -> tuple[int, ...]:
        """Dense."""
        return self.weight.shape

    @property
    def owner(self) -> Weight:
        """The parameter, which a reallocation replaces."""
        return self.weight

    @property
    def positions(self) -> NDArray[np.integer]:
        """Row-major, ascending."""
        return self.weight.positions

    def values(self) -> NDArray[Any]:
        """One for each position."""
        return self.weight.values

    def accumulate(self, gradient: NDArray[Any]) -> None:
        """Add to the gradients."""
        np.add(self.weight.gradient, gradient, out=self.weight.gradient)


@attrs.frozen(eq=False)
class Tied:
    """All entries of a tensor that are those of a shorter vector by a hash."""

    weight: TiedWeight
    _memory: Memory = attrs.field(factory=lambda: Memory(np.float32))

    @property
    def shape(self) -> tuple[int, ...]:
        """Dense."""
        return self.weight.shape

    @property
    def owner(self) -> Operand:
        """The shorter vector."""
        return self.weight.values

    @property
    def positions(self) -> NDArray[np.integer]:
        """All of them."""
        return np.arange(np.prod(self.shape))

    def values(self) -> NDArray[Any]:
        """One for each position."""
        return self.weight.dense(self._memory, self.weight.positions)

    def accumulate(self, gradient: NDArray[Any]) -> None:
        """Add to the vector's gradients."""
        self.weight.accumulate(gradient)


@attrs.frozen(eq=False)
class Lists:
    """The lists that were made so far; those of positions that are gone go with them.

    Attributes:
        threads: how many fill them.
    """

    threads: int = 1
    _made: WeakKeyDictionary[Any, dict[Any, list[WeightList]]] = attrs.field(factory=WeakKeyDictionary)

    def forward(self, entries: Entries, window: Window, x: Strides) -> WeightList:
        """Filled with the values of now."""
        weights = self.gradients(entries, window, x)
        weights.fill(entries.values(), self.threads)
        return weights

    def gradients(self, entries: Entries, window: Window, x: Strides) -> WeightList:
        """The same list, whatever its values are: for the weights' gradients."""
        key = ("forward", entries.shape, window, x)
        (weights,) = self._kept(entries, key, lambda taps: [taps.forward(window, x)])
        return weights

    def backward(self, entries: Entries, window: Window, gradient: Strides) -> list[WeightList]:
        """Filled with the values of now, too."""
        key = ("backward", entries.shape, window, gradient)
        lists, values = self._kept(entries, key, lambda taps: list(taps.backward(window, gradient))), entries.values()
        for weights in lists:
            weights.fill(values, self.threads)
        return lists

    def of(self, owner: Any) -> list[WeightList]:
        """All that there are of the entries with this owner."""
        return [weights for some in self._made.get(owner, {}).values() for weights in some]

    def _kept(self, entries: Entries, key: Any, make: Callable[[Taps], list[WeightList]]) -> list[WeightList]:
        made = self._made.setdefault(entries.owner, {})
        if key not in made:
            made[key] = make(Taps.of(entries.shape, entries.positions))
        return made[key]
