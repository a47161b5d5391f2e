"""The summary of a training: which tensors are sparse, how dense they are, and why the others are dense."""

from collections.abc import Mapping
from types import MappingProxyType

import attrs

from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Topology
from sparsecore.errors import listed, printable
from sparsecore.notebook.html import TensorCounts, block, details, history_chart, note, tensor_table
from sparsecore.observers.history import History

_NUMBERS = ("shape", "weights", "density at start", "density now")
_SHOWN = 8
"""The number of dense parameters that are printed for one reason."""


@attrs.frozen(eq=False, repr=False)
class Summary:
    """The sparse tensors, and why the other parameters are dense; ``print`` shows a table.

    Where many parameters are dense for one reason, the first are printed; :meth:`reasons` has all.

    Attributes:
        topology: the active positions now.
        start: the number of active weights that each tensor had at the start.
        left_out: why the other parameters are dense, by name.
        clock: the steps and updates so far.
        zeros: the number of active weights that are exactly zero, as those are that no gradient reaches; None where it
            is not counted, since the values are sharded over ranks.
        silent: the number of active weights that are trained, and that the model does not compute with (``topkast``).
        by_name: the kind of those sparse tensors that are known by the names of modules and parameters.
        groups: the strategies of each tensor, where they differ.
        history: the updates so far, which notebooks show below the table.
    """

    topology: Topology
    start: tuple[int, ...]
    left_out: Mapping[str, str]
    clock: Clock
    zeros: int | None = None
    silent: int = 0
    by_name: Mapping[str, str] = MappingProxyType({})
    groups: Mapping[str, str] = MappingProxyType({})
    history: History | None = None

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table's rows.

        Returns:
            Name, shape, active weights, density at start and density now, as text, of each sparse tensor and of all
            together.
        """
        layout, counts = self.topology.layout, self.topology.counts
        columns = zip(layout.names, layout.shapes, layout.sizes, self.start, counts, strict=True)
        rows = [_row(name, "×".join(map(str, shape)), size, *weights) for name, shape, size, *weights in columns]
        return [*rows, _row("all", "", layout.size, sum(self.start), self.topology.size)]

    def reasons(self) -> dict[str, list[str]]:
        """Return why parameters are dense.

        Returns:
            From each reason to the names of all parameters that it applies to.
        """
        return _grouped(self.left_out)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        named = [f"  {kind}: {listed(names, _SHOWN)}" for kind, names in _grouped(self.by_name).items()]
        dense = [f"  {why}: {listed(names, _SHOWN)}" for why, names in self.reasons().items()]
        groups = [f"  {stack}: {listed(names, _SHOWN)}" for stack, names in _grouped(self.groups).items()]
        chosen = [
            *(["strategies:", *groups] if groups else []),
            *(["sparse by name:", *named] if named else []),
            *(["left dense:", *dense] if dense else []),
        ]
        return "\n".join([self._table(), *self._facts(), *chosen])

    def _repr_html_(self) -> str:
        """Return what notebooks show: the table with bars of densities, and the updates so far."""
        layout = self.topology.layout
        columns = zip(layout.names, layout.shapes, layout.sizes, self.start, self.topology.counts, strict=True)
        return block(
            "Sparse training",
            *map(note, self._facts()),
            tensor_table(
                [TensorCounts(name, shape, size, start, int(now)) for name, shape, size, start, now in columns]
            ),
            "" if self.history is None else history_chart(self.history),
            details("strategies", _grouped(self.groups)),
            details("sparse by name", _grouped(self.by_name)),
            details("left dense", self.reasons()),
        )

    def _facts(self) -> list[str]:
        """Return the lines below the table: time, sparsity, and the active weights that are zero or silent."""
        done = f"step {self.clock.step:,}, {self.clock.updates:,} updates, sparsity {self.topology.sparsity:.4f}"
        facts, size = [done], self.topology.size
        if self.zeros is not None:
            facts.append(f"{self.zeros:,} of {size:,} active weights are exactly zero")
        if self.silent:
            used = 1 - (size - self.silent) / self.topology.layout.size
            facts.append(
                f"{self.silent:,} of {size:,} active weights are silent: trained, but not computed with; "
                f"without them the sparsity is {used:.4f}"
            )
        return facts

    def _table(self) -> str:
        head, *rows = (("tensor", *_NUMBERS), *self.rows())
        rows = [(printable(name), *numbers) for name, *numbers in rows]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        first, *others = (
            "   ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in (head, *rows)
        )
        rule = "─" * (len(first) + 2)
        return "\n".join([f"  {first}", f" {rule}", *(f"  {row}" for row in others)])


def _grouped(by_name: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names by the text that belongs to them."""
    groups: dict[str, list[str]] = {}
    for name, text in by_name.items():
        groups.setdefault(text, []).append(name)
    return groups


def _row(name: str, shape: str, size: int, before: int, now: int) -> tuple[str, ...]:
    return name, shape, f"{now:,}", f"{before / size:.4f}", f"{now / size:.4f}"
