"""``sparsecore lottery``: the lottery ticket as a row of runs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import click

from sparsecore.cli.asking import begun_before
from sparsecore.cli.carrying import ranks_for
from sparsecore.cli.legs import LegResult, carry_out, plan
from sparsecore.cli.options import Given, describes_dense_experiment, sets_and_tells
from sparsecore.cli.output import results, say
from sparsecore.cli.tables import print_table
from sparsecore.errors import InputError
from sparsecore.experiment.text import read_toml

_DECIDED = ("sparsity", "strategy", "start")


@click.command()
@describes_dense_experiment
@click.option("--rounds", type=int, metavar="R", help="How many times weights are taken away; 10 by default.")
@click.option(
    "--prune", type=float, metavar="P", help="Share of its weights that each round takes away; 0.2 by default."
)
@click.option(
    "--rewind",
    type=int,
    metavar="EPOCH",
    help="Epoch of round 0 to whose end weights return; 0, its start, by default.",
)
@click.option("--control", is_flag=True, help="Train each ticket from fresh values, too.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the runs; a new one in runs/ by default.")
@click.option("--resume", is_flag=True, help="Continue the lottery in --out where it stopped, or with more rounds.")
@sets_and_tells
def lottery(
    *,
    file: Path | None,
    rounds: int | None,
    prune: float | None,
    rewind: int | None,
    control: bool,
    out: Path | None,
    settings: tuple[str, ...],
    resume: bool,
    as_json: bool,
    **options: str | None,
) -> None:
    """Find winning tickets: train dense, prune by magnitude, rewind the survivors, repeat.

    Round 0 trains the whole network. Each further round takes away the smallest weights of the one before, over the
    whole network, gives the others back the values they had before round 0 (or at the end of an early epoch of it),
    and trains them again. Every round is a run of its own in --out: round-0, round-1 and so on, control-1 and so on.

    FILE is an experiment in TOML, without sparsity, strategy and start, which are the lottery's.
    """
    _refuse_decided(file, settings)
    source = begun_before(out) if resume and file is None else file
    given = Given.of(source, {**options, "sparsity": "0"}, ("static",), settings)
    asked = {"rounds": rounds, "prune": prune, "rewind": rewind, "control": control or None}
    known = {name: value for name, value in asked.items() if value is not None}
    with results() as stream:
        ranks = ranks_for(given.tables())
        planned = ranks.jointly(
            lambda: plan(out, given, known, going_on=resume), lambda planned: {"folder": str(planned.folder.path)}
        )
        found = carry_out(planned, ranks)
        if ranks.rank != 0:
            return
        if as_json:
            click.echo(json.dumps(_as_json(found)), file=stream)
        else:
            _print(found, stream)


def _refuse_decided(file: Path | None, settings: Sequence[str]) -> None:
    """Raise an :class:`InputError` if something is said about what the lottery decides."""
    said = set(read_toml(file)) if file else set()
    said |= {setting.partition("=")[0].strip().partition(".")[0] for setting in settings}
    decided = [name for name in _DECIDED if name in said]
    if decided:
        raise InputError(
            f"a lottery begins dense, prunes by magnitude and starts its rounds from one another; given a setting of "
            f"{', '.join(decided)}: leave it out"
        )


def _as_json(found: Sequence[LegResult]) -> dict[str, Any]:
    told = [{"round": each.leg.round, **each.result} for each in found]
    return {
        "rounds": [one for one, each in zip(told, found, strict=True) if not each.leg.is_control],
        "controls": [one for one, each in zip(told, found, strict=True) if each.leg.is_control],
        "out": str(Path(found[0].result["run"]).parent),
    }


def _print(found: Sequence[LegResult], stream: TextIO) -> None:
    controls = {each.leg.round: f"{each.result['test_accuracy']:.4f}" for each in found if each.leg.is_control}
    head = ["round", "weights", "sparsity", "test accuracy", *(["with fresh values"] if controls else [])]
    rows = [
        [
            str(each.leg.round),
            f"{each.result['sparse_parameters']:,}",
            f"{each.result['sparsity']:.4f}",
            f"{each.result['test_accuracy']:.4f}",
            *([controls.get(each.leg.round, "")] if controls else []),
        ]
        for each in found
        if not each.leg.is_control
    ]
    print_table(head, rows, numbers=range(len(head)), file=stream)
    say(f"runs: {Path(found[0].result['run']).parent}", stream)
