"""``sparsecore check``: check the promises of a strategy or a backend without writing a test."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from sparsecore.cli.output import console, print_message, print_table, result_stream
from sparsecore.errors import InputError, printable_lines
from sparsecore.extras import require

if TYPE_CHECKING:
    from sparsecore.testing.checking import PluginCheck
    from sparsecore.testing.search import CheckResult


_MAX_EXAMPLE_LENGTH = 500
"""Maximum number of characters of an example that is printed within a command line."""


@click.command()
@click.argument("selections", metavar="NAME|FILE.py:Class...", nargs=-1, required=True)
@click.option(
    "--backend",
    "backends",
    metavar="NAME",
    multiple=True,
    help="Compare on this backend. Repeatable.  [default: all]",
)
@click.option("--examples", metavar="N", type=click.IntRange(1), help="Examples per promise.")
@click.option("--seed", metavar="N", type=int, default=0, help="Random seed of the examples  [default: 0]")
@click.option("--promise", "promises", metavar="NAME", multiple=True, help="Check only this promise. Repeatable.")
@click.option(
    "--example",
    metavar="JSON|FILE",
    help="Check only this example, printed by an earlier check, or a file with it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
def check(
    *,
    selections: tuple[str, ...],
    backends: tuple[str, ...],
    examples: int | None,
    seed: int,
    promises: tuple[str, ...],
    example: str | None,
    as_json: bool,
) -> int:
    """Check the promises of a strategy or a backend.

    The promises are checked on random examples. Several strategies are stacked, bottom first; each is checked with all
    hyperparameters that its class accepts.

    Exit status: 0 if every promise is kept, 1 if one is broken, 2 for wrong input.
    """
    require("hypothesis", extra="testing", purpose="`sparsecore check`")
    from sparsecore.testing.checking import plugin_check
    from sparsecore.testing.search import DEFAULT_EXAMPLES

    text = None if example is None else _example_text(example)
    with result_stream() as stream:
        checks = plugin_check(*selections, backends=backends or None, promises=promises)
        warning = checks.slowness_warning(examples or DEFAULT_EXAMPLES) if example is None else None
        if warning:
            print_message(f"sparsecore: {warning}")
        checked: list[CheckResult] = []
        for result in checks.results(examples or DEFAULT_EXAMPLES, seed, text):
            alike = (other for other in checked if (other.status, other.reason) == (result.status, result.reason))
            earlier = next((other.promise.name for other in alike if other.status.value == "not checked"), None)
            checked.append(result)
            if not as_json:
                _print_result(result, checks, examples, seed, stream, earlier)
        if as_json:
            click.echo(json.dumps(_as_json(checked, checks, examples, seed), indent=1), file=stream)
        else:
            print_message(_conclusion(checked), stream)
            for sentence in checks.not_checked():
                print_message(sentence[0].upper() + sentence[1:], stream)
    return 0 if all(result.is_kept for result in checked) else 1


def _example_text(example: str) -> str:
    """Return the example itself, or the contents of the file of this name."""
    if example.lstrip().startswith("{"):
        return example
    try:
        return Path(example).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"--example is JSON or a file of JSON; {example} cannot be read: {error}") from error


def _print_result(
    result: "CheckResult", checks: "PluginCheck", examples: int | None, seed: int, stream: TextIO, earlier: str | None
) -> None:
    """Print a promise and its result; a reason that an earlier promise has is not repeated."""
    from rich.text import Text

    promise, status = result.promise, result.status
    out = console(stream, soft_wrap=True)
    mark, style = status.mark if out.is_terminal else (f"{status.value:<14}", "")
    explanation = f"as for {earlier}" if earlier else result.reason
    reason = f" ({explanation})" if result.reason and result.example is None else ""
    out.print(
        Text.assemble((mark, style), printable_lines(f" {promise.name:<{checks.width}} {promise.sentence}{reason}")),
        highlight=False,
    )
    if result.example is not None:
        out.print(Text(printable_lines(f"  {result.reason}")), highlight=False)
        head, rows = checks.table(result.example)
        print_table(head, rows, file=stream)
        out.print(Text(printable_lines(f"  again: {_rerun_command(result, checks, examples, seed)}")), highlight=False)


def _rerun_command(result: "CheckResult", checks: "PluginCheck", examples: int | None, seed: int) -> str:
    """Return the command that shows the same counterexample: from its text, or by a new search if the text is long."""
    line = ["sparsecore", "check", *checks.selections, "--promise", result.promise.name]
    line += [part for name in checks.backends for part in ("--backend", name)]
    text = checks.to_json(result.example)
    if text is not None and len(text) <= _MAX_EXAMPLE_LENGTH:
        return shlex.join([*line, "--example", text])
    return shlex.join([*line, "--seed", str(seed), *(["--examples", str(examples)] if examples else [])])


def _as_json(
    results: Sequence["CheckResult"], checks: "PluginCheck", examples: int | None, seed: int
) -> dict[str, Any]:
    return {
        "plugin": checks.plugin,
        "not_checked": checks.not_checked(),
        "kept": all(result.is_kept for result in results),
        "promises": [
            {
                "name": result.promise.name,
                "promise": result.promise.sentence,
                "status": result.status.value,
                "reason": result.reason,
                "examples": result.examples,
                **(_counterexample(result, checks, examples, seed) if result.example is not None else {}),
            }
            for result in results
        ],
    }


def _counterexample(result: "CheckResult", checks: "PluginCheck", examples: int | None, seed: int) -> dict[str, Any]:
    head, rows = checks.table(result.example)
    text = checks.to_json(result.example)
    return {
        **({} if text is None else {"example": json.loads(text)}),
        "counterexample": [dict(zip(head, row, strict=True)) for row in rows],
        "again": _rerun_command(result, checks, examples, seed),
    }


def _conclusion(results: Sequence["CheckResult"]) -> str:
    kept = sum(result.status.value == "kept" for result in results)
    broken = sum(result.status.value == "broken" for result in results)
    others = len(results) - kept - broken
    return f"{kept} kept, {broken} broken" + (f", {others} not applicable or not checked" if others else "")
