"""Tables on standard output."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from sparsecore.cli.execution import CompletedRun, describe_backend
from sparsecore.cli.output import print_message
from sparsecore.errors import printable
from sparsecore.learning.ledger import format_memory

if TYPE_CHECKING:
    from rich.console import Console


def print_table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: Iterable[int] = (),
    file: TextIO | None = None,
    width: int = 1000,
) -> None:
    """Print a table; columns listed in ``numbers`` are aligned at the right. Nothing is ever cut off.

    Args:
        head: titles of the columns.
        rows: of texts.
        numbers: indices of columns.
        file: standard output, if None.
        width: of a line at most, where no terminal says how wide it is.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    right = set(numbers)
    table = Table(box=SIMPLE_HEAD)
    for i, title in enumerate(head):
        table.add_column(title, justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(entry)) for entry in row))  # as text: names may look like markup
    out = console(file)
    # where there is no terminal, lines are as long as they must be, so that other programs can read them
    (out if out.is_terminal else console(file, width=width)).print(table)


def console(file: TextIO | None, **options: Any) -> "Console":
    """A console of rich that leaves the error of a reader that went away to others, as it is."""
    from rich.console import Console

    class _Console(Console):
        def on_broken_pipe(self) -> None:
            raise  # noqa: PLE0704  (it is called where the error is handled)

    return _Console(file=file, **options)


def print_run(done: CompletedRun, file: TextIO) -> None:
    """Print where a run's parameters are, and how well it did."""
    start, now, result = done.start, done.end, done.result
    layout = start.layout
    columns = zip(layout.names, layout.shapes, layout.sizes, start.counts, now.counts, strict=True)
    rows = [
        (name, "×".join(map(str, shape)), f"{before:,}", f"{after:,}", f"{1 - after / size:.4f}")
        for name, shape, size, before, after in columns
    ]
    rows.append(("all", "", f"{start.size:,}", f"{now.size:,}", f"{now.sparsity:.4f}"))
    print_table(("tensor", "shape", "active at start", "active now", "sparsity"), rows, numbers=(2, 3, 4), file=file)
    print(f"test accuracy  {result.test_accuracy:.4f}   test loss  {result.test_loss:.4f}", file=file)
    print(
        f"{result.sparse_parameters:,} sparse and {result.dense_parameters:,} dense parameters, "
        f"{result.reallocations} {'update' if result.reallocations == 1 else 'updates'}, "
        f"{result.seconds:.0f} s",
        file=file,
    )
    print(format_memory(result.memory), file=file)
    told = "the last digits vary with processor, backend and threads"
    print_message(f"{describe_backend(done.experiment)}; {told}", file)
    if done.report is not None:
        print_message(f"report: {result.run}/report.html", file)
