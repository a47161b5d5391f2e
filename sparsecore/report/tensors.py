"""The table of a report: where each tensor started, and where it is now."""

from html import escape

from sparsecore.report.reading import Run

_HEAD = ("tensor", "shape", "active at start", "active now", "sparsity at start", "sparsity now")


def tensor_table(run: Run) -> str:
    """A row for each tensor in network order, and their sum; nothing if there is no sparse tensor."""
    if not run.tensors:
        return ""
    rows = [
        _row(tensor.name, " × ".join(map(str, tensor.shape)), tensor.active, now, tensor.size)
        for tensor, now in zip(run.tensors, run.active, strict=True)
    ]
    start, size = (sum(tensor.active for tensor in run.tensors), sum(tensor.size for tensor in run.tensors))
    head = "".join(f'<th scope="col">{name}</th>' for name in _HEAD)
    return (
        f'<section class="tensors">\n<h2>Sparse tensors</h2>\n<table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{''.join(rows)}</tbody>\n"
        f"<tfoot>\n{_row('all', f'{size:,} positions', start, sum(run.active), size)}</tfoot>\n"
        "</table>\n</section>"
    )


def _row(name: str, shape: str, start: int, now: int, size: int) -> str:
    numbers = (f"{start:,}", f"{now:,}", f"{1 - start / size:.2%}", f"{1 - now / size:.2%}")
    cells = "".join(f"<td>{entry}</td>" for entry in (shape, *numbers))
    return f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>\n'
