"""All numbers of a study's report as plain values, for other programs."""

from collections.abc import Mapping
from typing import Any

import attrs

from sparsecore.study.authors import source
from sparsecore.study.comparison import Compared
from sparsecore.study.report.account import Account
from sparsecore.study.statistics import Difference, Pair, pairs


def numbers(account: Account) -> dict[str, Any]:
    """What results.json holds; accuracies are shares in 0..1, differences are in percentage points."""
    return {
        "study": account.study.name,
        "title": account.study.title,
        "protocol": account.protocol,
        "images": attrs.asdict(account.images),
        "missing": [trial.name for trial in account.missing],
        "authors": source() if any(row.theirs for row in account.rows) else None,
        "cells": [cell_numbers(row) for row in account.rows],
        "pairs": [
            {"sparsity": sparsity, **_pair(pair)}
            for sparsity in account.study.sparsities
            for pair in pairs_at(account, sparsity)
        ],
        "courses": {trial.name: attrs.asdict(course) for trial, course in account.courses.items()},
    }


def cell_numbers(row: Compared) -> dict[str, Any]:
    """The numbers of a cell; the authors' are None where they have none to compare with."""
    cell = row.cell
    beside = {"accuracies": [accuracy / 100 for accuracy in row.theirs], **_difference(row.difference)}
    return {
        "arm": cell.arm.name,
        "sparsity": cell.sparsity,
        "accuracies": cell.accuracies,
        "mean": cell.mean,
        "std": cell.std,
        "wanted": cell.wanted,
        "authors": {**beside, "remark": row.remark} if row.theirs else None,
    }


def pairs_at(account: Account, sparsity: float) -> list[Pair]:
    """Every two arms at a sparsity, by name, the surest difference first; arms that run once are at each."""
    return pairs({row.cell.arm.name: row.ours for row in account.at(sparsity)})


def _pair(pair: Pair) -> Mapping[str, Any]:
    return {"better": pair.better, "worse": pair.worse, **_difference(pair.difference)}


def _difference(found: Difference | None) -> Mapping[str, float | None]:
    if found is None:
        return dict.fromkeys(("difference", "standard_errors", "t", "p"))
    return {
        "difference": found.of_means,
        "standard_errors": found.in_standard_errors,
        "t": found.t,
        "p": found.p,
    }
