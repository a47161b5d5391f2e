"""``sparsecore lottery``: the lottery ticket as a row of runs."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, TextIO

import attrs
import click
import tomli_w

from sparsecore.cli import execution
from sparsecore.cli.execution import (
    RunRequest,
    execute_on_first_rank,
    execute_on_other_rank,
    experiment_to_resume,
    facts_to_agree_on,
    plugin_stem,
    ranks_for,
)
from sparsecore.cli.options import ExperimentOptions, common_options, dense_experiment_options
from sparsecore.cli.output import print_message, result_stream
from sparsecore.cli.tables import print_table
from sparsecore.errors import InputError
from sparsecore.experiment.conversion import structure, unstructure
from sparsecore.experiment.experiment import Experiment
from sparsecore.experiment.toml_files import read_toml
from sparsecore.learning.ranks import Ranks
from sparsecore.run.files import BusyError, Lock, read_regular_toml, write_whole
from sparsecore.run.folder import RunFolder, create_numbered, free_path
from sparsecore.run.identity import identity
from sparsecore.run.setup import Setup, ask_model
from sparsecore.study.lottery import FILE, Lottery, LotteryRun


@attrs.frozen(eq=False)
class LotteryRequest:
    """What is to be done, and where.

    Attributes:
        lottery: its rounds.
        dense: the experiment of round 0.
        folder: of all runs; its experiment is that of round 0.
        is_new: whether the folder is to be made.
        is_numbered: whether it may be made under the next free number, where another process takes this one.
    """

    lottery: Lottery
    dense: Experiment
    folder: RunFolder
    is_new: bool = True
    is_numbered: bool = False


@attrs.frozen(eq=False)
class LotteryRunResult:
    """A run of a lottery and what it came to, as in its ``result.json``."""

    run: LotteryRun
    result: Mapping[str, Any]


def lottery_request(
    out: Path | None, given: ExperimentOptions, known: Mapping[str, Any], *, going_on: bool
) -> LotteryRequest:
    """A lottery that begins, or one that goes on.

    Args:
        out: its folder; a new one where it is None.
        given: the experiment of round 0.
        known: attributes of the :class:`Lottery` that were given.
        going_on: whether it may have begun before.

    Raises:
        InputError: the folder is that of something else, or of another lottery; or the model refuses to be pruned.
    """
    dense = Experiment.of(given.tables())
    if going_on:
        asked = execution.resume_request(out, given)
        lottery = _resumed_lottery(known, asked.folder) if not asked.is_new else _lottery(known)
        folder, is_new = asked.folder, asked.is_new
    else:
        is_new = True
        folder = RunFolder(out or free_path(Path("runs"), f"lottery-{plugin_stem(dense.dataset.name)}"))
        if out:
            folder.check_absent()
        lottery = _lottery(known)
    lottery.check_rewind(dense)
    ask_model(dense, lottery.sparsity)
    return LotteryRequest(lottery, dense, folder, is_new, is_numbered=is_new and out is None)


def execute(planned: LotteryRequest, ranks: Ranks) -> list[LotteryRunResult]:
    """All runs, in their order; on other ranks than the first without results."""
    tables = planned.dense.tables()
    if planned.is_new:  # what is wrong with its first run is found before there is a folder
        first = next(planned.lottery.runs(tables, planned.folder.path))
        asked = RunRequest(Experiment.of(first.tables), RunFolder(planned.folder.path / first.name), is_numbered=True)
        ranks.jointly(asked.set_up, facts_to_agree_on)
    planned, held = ranks.jointly(lambda: _locked(planned, ranks), lambda _: {})
    # where it is numbered, another lottery may have taken the number that was free
    planned = attrs.evolve(planned, folder=RunFolder(Path(ranks.text_of_rank_0(str(planned.folder.path)))))
    results = []
    with held:
        for run in planned.lottery.runs(tables, planned.folder.path.resolve()):
            result = _finished_result(planned, run) or _train_run(planned, run, ranks)
            # no rank reads a run before the first one has written all of it
            ranks.jointly(lambda: None, lambda _: {})
            results.append(LotteryRunResult(run, result))
    return results


def _locked(planned: LotteryRequest, ranks: Ranks) -> tuple[LotteryRequest, AbstractContextManager[object]]:
    """The plan with its folder made and held for this process, which is the business of the first rank.

    Raises:
        InputError: the folder cannot be made, or another process carries out the lottery in it.
    """
    if ranks.rank != 0:
        return planned, nullcontext()
    folder = planned.folder
    if planned.is_new:
        folder = _create_folder(planned)
    try:
        lock = Lock(folder.experiment)
    except BusyError:
        raise InputError(f"the lottery {folder.path} is being carried out by another process") from None
    held = ExitStack()
    held.callback(lock.release)
    return attrs.evolve(planned, folder=folder), held


def _create_folder(planned: LotteryRequest) -> RunFolder:
    tables, files = planned.dense.tables(), {FILE: _content(planned)}
    if planned.is_numbered:
        path = planned.folder.path
        return create_numbered(
            path.parent, path.name.rpartition("-")[0], lambda free: RunFolder(free).create(tables, files)
        )
    planned.folder.create(tables, files)
    return planned.folder


def _train_run(planned: LotteryRequest, run: LotteryRun, ranks: Ranks) -> Mapping[str, Any]:
    asked, setup = ranks.jointly(lambda: _set_up(planned, run), lambda both: facts_to_agree_on(both[1]))
    if ranks.rank != 0:
        ranks.jointly(lambda: None, lambda _: {})
        execute_on_other_rank(asked, setup, ranks)
        return {}
    ranks.jointly(lambda: _save_lottery(planned), lambda _: {})
    if sys.stderr is not None and sys.stderr.isatty():
        print_message(f"{run.name} of {planned.lottery.rounds}: sparsity {setup.start.topology.sparsity:.4f}")
    again = shlex.join(["sparsecore", "lottery", "--resume", "--out", str(planned.folder.path)])
    done = execute_on_first_rank(asked, setup, ranks, lambda _: again)
    return attrs.asdict(done.result)


def _set_up(planned: LotteryRequest, run: LotteryRun) -> tuple[RunRequest, Setup]:
    asked = attrs.evolve(_run_request(planned, run), note="")
    setup = asked.set_up()
    _check_same_data(setup)
    return asked, setup


def _run_request(planned: LotteryRequest, run: LotteryRun) -> RunRequest:
    return execution.request_in_folder(Experiment.of(run.tables), RunFolder(planned.folder.path / run.name))


def _finished_result(planned: LotteryRequest, run: LotteryRun) -> Mapping[str, Any] | None:
    """The result of a run that has one."""
    folder = _run_request(planned, run).folder
    if not folder.result.exists():
        return None
    try:
        result: Mapping[str, Any] = json.loads(folder.result.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"the result of the run {folder.path} cannot be read: {error}") from error
    return result


def _check_same_data(setup: Setup) -> None:
    if setup.source is None:
        return
    own = identity(setup)
    for what in ("data", "plugin code"):
        if setup.source.identity[what] != own[what]:
            raise InputError(f"the run {setup.source.run} was made with other {what}: begin another lottery")


def _lottery(known: Mapping[str, Any]) -> Lottery:
    return structure(known, Lottery, "lottery")


def _resumed_lottery(known: Mapping[str, Any], folder: RunFolder) -> Lottery:
    """The lottery that was begun in the folder, perhaps with other rounds, or with controls from now on."""
    try:
        begun = structure(read_regular_toml(folder.path / FILE), Lottery, FILE)
    except InputError as error:
        raise InputError(f"{folder.path} is the folder of no lottery: {FILE} cannot be read ({error})") from error
    asked = structure({**unstructure(begun), **known}, Lottery, "lottery")
    for name in ("prune", "rewind"):
        there, here = getattr(begun, name), getattr(asked, name)
        if there != here:
            raise InputError(f"the lottery {folder.path} was begun with {name} = {there}; given {here}")
    return asked


def _save_lottery(planned: LotteryRequest) -> None:
    """The lottery as it is now, which may have more rounds than when it was begun."""
    write_whole(planned.folder.path / FILE, _content(planned))


def _content(planned: LotteryRequest) -> bytes:
    return tomli_w.dumps(unstructure(planned.lottery)).encode()


_RESERVED_SETTINGS = ("sparsity", "strategy", "start")


@click.command()
@dense_experiment_options
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
@common_options
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
    _check_reserved_settings(file, settings)
    source = experiment_to_resume(out) if resume and file is None else file
    given = ExperimentOptions.of(source, {**options, "sparsity": "0"}, ("static",), settings)
    asked = {"rounds": rounds, "prune": prune, "rewind": rewind, "control": control or None}
    known = {name: value for name, value in asked.items() if value is not None}
    with result_stream() as stream:
        ranks = ranks_for(given.tables())
        planned = ranks.jointly(lambda: lottery_request(out, given, known, going_on=resume), _folder_fact)
        found = execute(planned, ranks)
        if ranks.rank != 0:
            return
        if as_json:
            click.echo(json.dumps(_as_json(found)), file=stream)
        else:
            _print(found, stream)


def _folder_fact(planned: LotteryRequest) -> dict[str, str]:
    """The folder, where all ranks know it from the start: a number that is free for one may be taken for another."""
    is_open = planned.is_new and planned.is_numbered
    return {"folder": str(planned.folder.path.parent if is_open else planned.folder.path)}


def _check_reserved_settings(file: Path | None, settings: Sequence[str]) -> None:
    """Raise an :class:`InputError` if something is said about what the lottery decides."""
    said = set(read_toml(file)) if file else set()
    said |= {setting.partition("=")[0].strip().partition(".")[0] for setting in settings}
    decided = [name for name in _RESERVED_SETTINGS if name in said]
    if decided:
        raise InputError(
            f"a lottery begins dense, prunes by magnitude and starts its rounds from one another; given a setting of "
            f"{', '.join(decided)}: leave it out"
        )


def _as_json(found: Sequence[LotteryRunResult]) -> dict[str, Any]:
    told = [{"round": each.run.round, **each.result} for each in found]
    return {
        "rounds": [one for one, each in zip(told, found, strict=True) if not each.run.is_control],
        "controls": [one for one, each in zip(told, found, strict=True) if each.run.is_control],
        "out": str(Path(found[0].result["run"]).parent),
    }


def _print(found: Sequence[LotteryRunResult], stream: TextIO) -> None:
    controls = {each.run.round: f"{each.result['test_accuracy']:.4f}" for each in found if each.run.is_control}
    head = ["round", "weights", "sparsity", "test accuracy", *(["with fresh values"] if controls else [])]
    rows = [
        [
            str(each.run.round),
            f"{each.result['sparse_parameters']:,}",
            f"{each.result['sparsity']:.4f}",
            f"{each.result['test_accuracy']:.4f}",
            *([controls.get(each.run.round, "")] if controls else []),
        ]
        for each in found
        if not each.run.is_control
    ]
    print_table(head, rows, numbers=range(len(head)), file=stream)
    print_message(f"runs: {Path(found[0].result['run']).parent}", stream)
