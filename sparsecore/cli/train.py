"""``sparsecore train``: carry out an experiment."""

import json
import shlex
from pathlib import Path

import attrs
import click

from sparsecore.cli.execution import Asked, begun_before, lead, new, ranks_for, resumed, start_facts, take_part
from sparsecore.cli.options import Given, describes_experiment, sets_and_tells
from sparsecore.cli.output import results
from sparsecore.cli.tables import print_run
from sparsecore.errors import InputError
from sparsecore.run.folder import RunFolder
from sparsecore.run.setup import Setup
from sparsecore.study import lottery


@click.command()
@describes_experiment
@click.option("--out", type=click.Path(path_type=Path), help="Run folder to make; a new one in runs/ by default.")
@click.option("--resume", is_flag=True, help="Continue the run in --out where it stopped.")
@sets_and_tells
def train(
    *,
    file: Path | None,
    stack: tuple[str, ...],
    out: Path | None,
    settings: tuple[str, ...],
    resume: bool,
    as_json: bool,
    **options: str | None,
) -> None:
    """Train a sparse network; without any argument, the demo.

    FILE is an experiment in TOML. What neither it nor an option says comes from the presets for model and data. A
    plugin is named by its installed name, as package.module:Object or as file.py:Object.
    """
    if resume and out and (out / lottery.FILE).exists():
        raise InputError(f"{out} is the folder of a lottery; it goes on with: sparsecore lottery --resume --out {out}")
    asking = resumed if resume else new
    with results() as out_stream:
        given = Given.of(begun_before(out) if resume and file is None else file, options, stack, settings)
        ranks = ranks_for(given.tables())
        asked, setup = ranks.jointly(lambda: _prepared(asking(out, given)), lambda both: start_facts(both[1]))
        if ranks.rank != 0:
            take_part(asked, setup, ranks)
            return
        done = lead(asked, setup, ranks, _again)
        if as_json:
            click.echo(json.dumps(attrs.asdict(done.result)), file=out_stream)
        else:
            print_run(done, out_stream)


def _again(folder: RunFolder) -> str:
    return shlex.join(["sparsecore", "train", "--resume", "--out", str(folder.path)])


def _prepared(asked: Asked) -> tuple[Asked, Setup]:
    return asked, asked.prepared()
