"""``sparsecore check``: whether a strategy or a backend keeps its promises, without a test file."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from sparsecore.cli.output import print_message, result_stream
from sparsecore.cli.tables import console, print_table
from sparsecore.errors import InputError, printable_lines
from sparsecore.extras import require

if TYPE_CHECKING:
    from sparsecore.testing.checking import PluginCheck
    from sparsecore.testing.search import CheckResult


_LONGEST = 500
"""Characters of an example that is part of a command line."""


@click.command()
@click.argument("selections", metavar="NAME|FILE.py:Class...", nargs=-1, required=True)
@click.option("--backend", "backends", metavar="NAME", multiple=True, help="Compare decisions on it; default: on all.")
@click.option("--examples", metavar="N", type=click.IntRange(1), help="Examples a promise.")
@click.option("--seed", metavar="N", type=click.IntRange(0), default=0, help="Seed of the examples; 0 by default.")
@click.option("--promise", "promises", metavar="NAME", multiple=True, help="Check only this promise; repeatable.")
@click.option(
    "--example",
    metavar="JSON|FILE",
    help="Try this example only, as an earlier check has printed it, or a file with it.",
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
) -> None:
    """Check the promises of a strategy or a backend on drawn examples.

    Several strategies are stacked, the bottom first. A strategy is tried with any hyperparameters that its class
    admits. Exit status: 0 if every promise is kept, 1 if one is broken, 2 for wrong input.
    """
    require("hypothesis", extra="testing", purpose="`sparsecore check`")
    from sparsecore.testing.checking import plugin_check
    from sparsecore.testing.search import DEFAULT_EXAMPLES

    text = None if example is None else _text_of(example)
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
                _print(result, checks, examples, seed, stream, earlier)
        if as_json:
            click.echo(json.dumps(_plain(checked, checks, examples, seed), indent=1), file=stream)
        else:
            print_message(_conclusion(checked), stream)
            for sentence in checks.not_checked():
                print_message(sentence[0].upper() + sentence[1:], stream)
    raise click.exceptions.Exit(0 if all(result.is_kept for result in checked) else 1)


def _text_of(example: str) -> str:
    """The example itself, or what the file of this name holds."""
    if example.lstrip().startswith("{"):
        return example
    try:
        return Path(example).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"--example is JSON or a file with it; {example} cannot be read: {error}") from error


def _print(
    result: "CheckResult", checks: "PluginCheck", examples: int | None, seed: int, stream: TextIO, earlier: str | None
) -> None:
    """Print a promise and how it came out; a reason that an earlier promise has given is not repeated."""
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
        out.print(Text(printable_lines(f"  again: {_again(result, checks, examples, seed)}")), highlight=False)


def _again(result: "CheckResult", checks: "PluginCheck", examples: int | None, seed: int) -> str:
    """The line that shows the same counterexample: with the example itself, or, where it is long, found anew."""
    line = ["sparsecore", "check", *checks.selections, "--promise", result.promise.name]
    line += [part for name in checks.backends for part in ("--backend", name)]
    text = checks.to_json(result.example)
    if text is not None and len(text) <= _LONGEST:
        return shlex.join([*line, "--example", text])
    return shlex.join([*line, "--seed", str(seed), *(["--examples", str(examples)] if examples else [])])


def _plain(results: Sequence["CheckResult"], checks: "PluginCheck", examples: int | None, seed: int) -> dict[str, Any]:
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
        "again": _again(result, checks, examples, seed),
    }


def _conclusion(results: Sequence["CheckResult"]) -> str:
    kept = sum(result.status.value == "kept" for result in results)
    broken = sum(result.status.value == "broken" for result in results)
    others = len(results) - kept - broken
    return f"{kept} kept, {broken} broken" + (f", {others} not applicable or not checked" if others else "")
