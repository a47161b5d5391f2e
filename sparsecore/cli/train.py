"""``sparsecore train``: carry out an experiment."""

import json
import shlex
from pathlib import Path

import attrs
import click

from sparsecore.cli.execution import (
    RunRequest,
    execute_on_first_rank,
    execute_on_other_rank,
    experiment_to_resume,
    facts_to_agree_on,
    new_request,
    ranks_for,
    resume_request,
)
from sparsecore.cli.options import ExperimentOptions, common_options, experiment_options
from sparsecore.cli.output import result_stream
from sparsecore.cli.tables import print_run
from sparsecore.errors import InputError
from sparsecore.run.folder import RunFolder
from sparsecore.run.setup import Setup
from sparsecore.study import lottery


@click.command()
@experiment_options
@click.option("--out", type=click.Path(path_type=Path), help="Run folder to make; a new one in runs/ by default.")
@click.option("--resume", is_flag=True, help="Continue the run in --out where it stopped.")
@common_options
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
    asking = resume_request if resume else new_request
    with result_stream() as out_stream:
        given = ExperimentOptions.of(
            experiment_to_resume(out) if resume and file is None else file, options, stack, settings
        )
        ranks = ranks_for(given.tables())
        asked, setup = ranks.jointly(lambda: _prepared(asking(out, given)), lambda both: facts_to_agree_on(both[1]))
        if ranks.rank != 0:
            execute_on_other_rank(asked, setup, ranks)
            return
        done = execute_on_first_rank(asked, setup, ranks, _again)
        if as_json:
            click.echo(json.dumps(attrs.asdict(done.result)), file=out_stream)
        else:
            print_run(done, out_stream)


def _again(folder: RunFolder) -> str:
    return shlex.join(["sparsecore", "train", "--resume", "--out", str(folder.path)])


def _prepared(asked: RunRequest) -> tuple[RunRequest, Setup]:
    return asked, asked.set_up()
