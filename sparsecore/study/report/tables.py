"""The tables of a study's report: accuracies beside the authors', which arms differ, and every trial."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from sparsecore.study.arms import Arm
from sparsecore.study.comparison import Compared, mean_and_spread
from sparsecore.study.report.account import Account
from sparsecore.study.report.looks import full_name
from sparsecore.study.report.numbers import pairs_at
from sparsecore.study.statistics import LEVEL, Difference, Pair

_BESIDE = (
    "the authors', mean ± std (%)",
    "difference (points)",
    "in pooled standard errors",
    "Welch's t",
    "p",
    "to be known",
)


def accuracies(account: Account) -> str:
    """A row a cell; the authors have columns where they have measured any of them."""
    beside = any(row.theirs for row in account.rows)
    head = ("arm", "sparsity", "trials", f"ours on {account.images.title}, mean ± std (%)")
    rows = ((*_ours(row, account), *(_theirs(row) if beside else ())) for row in account.rows)
    return table((*head, *(_BESIDE if beside else ())), rows)


def differing(account: Account) -> str:
    """Which arms differ at each sparsity, and how many pairs do not."""
    return "\n".join(_differing(account, sparsity) for sparsity in account.study.sparsities)


def trials(account: Account) -> str:
    """The accuracy of every single trial."""
    head = ("arm", "sparsity", *(f"trial {number}" for number in range(account.study.trials)))
    return table(head, (_single(row, account) for row in account.rows))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first cells are elements already, and whose others are text."""
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in others)}</tr>\n'
        for first, *others in rows
    )
    return f'<div class="wide"><table>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>'


def arm_element(arm: Arm, account: Account) -> str:
    """The arm's name beside its colour."""
    swatch = f'<span class="swatch" style="background: {account.look(arm).colour}"></span>'
    return f"{swatch}{escape(full_name(arm))}"


def _ours(row: Compared, account: Account) -> tuple[str, ...]:
    cell = row.cell
    counted = f"{len(cell.accuracies)} of {cell.wanted}"
    return arm_element(cell.arm, account), _sparsity(row), counted, mean_and_spread(row.ours) or "none yet"


def _theirs(row: Compared) -> tuple[str, ...]:
    counted = f" ({len(row.theirs)})" if row.theirs else ""
    return mean_and_spread(row.theirs) + counted, *difference_cells(row.difference), row.remark


def difference_cells(found: Difference | None) -> tuple[str, str, str, str]:
    """Difference, the same in standard errors, t and p; empty where nothing can be said."""
    if found is None:
        return "", "", "", ""
    return f"{found.of_means:+.2f}", f"{found.in_standard_errors:+.1f}", f"{found.t:+.2f}", f"{found.p:.2g}"


def _differing(account: Account, sparsity: float) -> str:
    found = pairs_at(account, sparsity)
    sure = [pair for pair in found if pair.difference.is_significant]
    told = f"<p>At sparsity {sparsity:g}, {len(sure)} of {len(found)} pairs differ at p &lt; {LEVEL:g}.</p>"
    if not sure:
        return told
    head = ("more accurate", "less accurate", "difference (points)", "in pooled standard errors", "Welch's t", "p")
    return told + table(head, _pair_rows(sure, account))


def _pair_rows(found: Iterable[Pair], account: Account) -> Iterator[tuple[str, ...]]:
    for pair in found:
        better, worse = (account.study.arm(name) for name in (pair.better, pair.worse))
        yield arm_element(better, account), full_name(worse), *difference_cells(pair.difference)


def _single(row: Compared, account: Account) -> tuple[str, ...]:
    return arm_element(row.cell.arm, account), _sparsity(row), *(f"{accuracy:.2f}" for accuracy in row.ours)


def _sparsity(row: Compared) -> str:
    return "" if row.cell.sparsity is None else f"{row.cell.sparsity:g}"
