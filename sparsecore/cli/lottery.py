"""``sparsecore lottery``: find winning lottery tickets, as a sequence of runs in one folder."""

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

from sparsecore.cli.execution import (
    RunRequest,
    execute_on_first_rank,
    execute_on_other_rank,
    experiment_to_resume,
    facts_to_agree_on,
    plugin_stem,
    ranks_for,
    request_in_folder,
    resume_request,
)
from sparsecore.cli.options import ExperimentOptions, common_options, dense_experiment_options
from sparsecore.cli.output import print_message, print_table, result_stream
from sparsecore.errors import InputError
from sparsecore.experiment.conversion import structure, unstructure
from sparsecore.experiment.experiment import Experiment
from sparsecore.experiment.toml_files import read_toml
from sparsecore.formats import LOTTERY
from sparsecore.learning.ranks import Ranks
from sparsecore.run.files import BusyError, Lock, write_whole
from sparsecore.run.folder import LOTTERY_FILE, RunFolder, create_numbered, free_path
from sparsecore.run.identity import identity
from sparsecore.run.logs import Result, read_record
from sparsecore.run.setup import Setup, ask_model
from sparsecore.study.lottery import Lottery, LotteryRun, read_lottery
from sparsecore.study.lottery_report import write_lottery_report

_RESERVED_SETTINGS = ("sparsity", "strategy", "start")


@click.command()
@dense_experiment_options
@click.option("--rounds", type=int, metavar="R", help="Number of pruning rounds  [default: 10]")
@click.option("--prune", type=float, metavar="P", help="Fraction of weights that each round prunes  [default: 0.2]")
@click.option("--rewind", type=int, metavar="EPOCH", help="Epoch of round 0 to rewind weights to  [default: 0]")
@click.option("--control", is_flag=True, help="Also train each ticket from fresh values.")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Lottery folder  [default: new in runs/]")
@click.option("--resume", is_flag=True, help="Continue the lottery in --out, perhaps with more rounds.")
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
    """Find winning lottery tickets by iterative pruning.

    Round 0 trains the dense network. Each further round prunes the smallest weights of the round before over the whole
    network, rewinds the others to their values before round 0 (or after an early epoch of it), and trains again. Each
    round is a run in --out: round-0, round-1 and so on, with --control also control-1 and so on. The report of all of
    them is report.html in --out.

    FILE is an experiment in TOML without sparsity, strategy and start, which the lottery decides.
    """
    _check_reserved_settings(file, settings)
    source = experiment_to_resume(out) if resume and file is None else file
    given = ExperimentOptions.of(source, {**options, "sparsity": "0"}, ("static",), settings)
    lottery_options = {"rounds": rounds, "prune": prune, "rewind": rewind, "control": control or None}
    given_options = {name: value for name, value in lottery_options.items() if value is not None}
    with result_stream() as stream:
        ranks = ranks_for(given.tables())
        request = ranks.jointly(lambda: lottery_request(out, given, given_options, resume=resume), _folder_fact)
        results = execute_lottery(request, ranks)
        if ranks.rank != 0:
            return
        # another process may have taken the number of the folder that was requested
        folder = Path(results[0].result["run"]).parent if request.is_numbered else request.folder.path
        report = write_lottery_report(folder)
        if as_json:
            click.echo(json.dumps(_as_json(results)), file=stream)
        else:
            _print_rounds(results, stream)
            print_message(f"report: {report}", stream)


@attrs.frozen(eq=False)
class LotteryRequest:
    """A lottery that is to be started or continued.

    Attributes:
        lottery: the lottery.
        dense: experiment of round 0.
        folder: folder of all runs; its experiment file is that of round 0.
        is_new: whether the folder is to be created.
        is_numbered: whether another number may be chosen if another process creates this folder first.
    """

    lottery: Lottery
    dense: Experiment
    folder: RunFolder
    is_new: bool = True
    is_numbered: bool = False


@attrs.frozen(eq=False)
class LotteryRunResult:
    """A run of a lottery with its result.

    Attributes:
        run: the run.
        result: the contents of its ``result.json``, the fields of :class:`Result`; empty for a new run on ranks other
            than 0.
    """

    run: LotteryRun
    result: Mapping[str, Any]


def lottery_request(
    out: Path | None, given: ExperimentOptions, lottery_options: Mapping[str, Any], *, resume: bool
) -> LotteryRequest:
    """Request a lottery.

    Args:
        out: folder of the lottery; None for a new one in ``runs/``.
        given: experiment of round 0.
        lottery_options: attributes of the :class:`Lottery` that were given.
        resume: whether to continue a lottery that may have begun.

    Raises:
        InputError: the folder has another lottery or something else, or the model cannot be pruned.
    """
    dense = Experiment.of(given.tables())
    if resume:
        request = resume_request(out, given)
        lottery = _lottery(lottery_options) if request.is_new else _resumed_lottery(lottery_options, request.folder)
        folder, is_new = request.folder, request.is_new
    else:
        dense.check_folder()
        is_new = True
        folder = RunFolder(out or free_path(Path("runs"), f"lottery-{plugin_stem(dense.dataset.name)}"))
        if out:
            folder.check_absent()
        lottery = _lottery(lottery_options)
    lottery.check_rewind(dense)
    ask_model(dense, lottery.sparsity)
    return LotteryRequest(lottery, dense, folder, is_new, is_numbered=is_new and out is None)


def execute_lottery(request: LotteryRequest, ranks: Ranks) -> list[LotteryRunResult]:
    """Execute the runs of a lottery that have no result yet, in their order.

    Args:
        request: the lottery.
        ranks: all processes that train.

    Returns:
        All runs with their results; on ranks other than 0, new runs have empty results.
    """
    tables = request.dense.tables()
    if request.is_new:  # find errors of the first run before there is a folder
        first = next(request.lottery.runs(tables, request.folder.path))
        folder = RunFolder(request.folder.path / first.name)
        ranks.jointly(RunRequest(Experiment.of(first.tables), folder, is_numbered=True).set_up, facts_to_agree_on)
    request, lock = ranks.jointly(lambda: _locked(request, ranks), lambda _: {})
    # another process may have taken the number of the folder, so rank 0 broadcasts the final one
    request = attrs.evolve(request, folder=RunFolder(Path(ranks.text_of_rank_0(str(request.folder.path)))))
    results = []
    with lock:
        for run in request.lottery.runs(tables, request.folder.path.resolve()):
            result = _stored_result(request, run) or _train(request, run, ranks)
            # no rank reads a run before rank 0 has written all of it
            ranks.jointly(lambda: None, lambda _: {})
            results.append(LotteryRunResult(run, result))
    return results


def _locked(request: LotteryRequest, ranks: Ranks) -> tuple[LotteryRequest, AbstractContextManager[object]]:
    """On rank 0, create the folder if it is new, and lock it.

    Returns:
        The request with the folder that was created, and a context that releases the lock.

    Raises:
        InputError: the folder cannot be created, or another process executes its lottery.
    """
    if ranks.rank != 0:
        return request, nullcontext()
    folder = _create_folder(request) if request.is_new else request.folder
    try:
        lock = Lock(folder.experiment)
    except BusyError:
        raise InputError(f"another process is executing the lottery {folder.path}") from None
    held = ExitStack()
    held.callback(lock.release)
    return attrs.evolve(request, folder=folder), held


def _create_folder(request: LotteryRequest) -> RunFolder:
    tables, files = request.dense.tables(), {LOTTERY_FILE: _content(request)}
    if not request.is_numbered:
        return request.folder.create(tables, files)
    path = request.folder.path
    return create_numbered(
        path.parent, path.name.rpartition("-")[0], lambda free: RunFolder(free).create(tables, files)
    )


def _train(request: LotteryRequest, run: LotteryRun, ranks: Ranks) -> Mapping[str, Any]:
    run_request, setup = ranks.jointly(lambda: _set_up(request, run), lambda both: facts_to_agree_on(both[1]))
    if ranks.rank != 0:
        ranks.jointly(lambda: None, lambda _: {})
        execute_on_other_rank(run_request, setup, ranks)
        return {}
    ranks.jointly(lambda: _save_lottery(request), lambda _: {})
    if sys.stderr is not None and sys.stderr.isatty():
        print_message(f"{run.name} of {request.lottery.rounds}: sparsity {setup.start.topology.sparsity:.4f}")
    command = shlex.join(["sparsecore", "lottery", "--resume", "--out", str(request.folder.path)])
    completed = execute_on_first_rank(run_request, setup, ranks, lambda _: command)
    return attrs.asdict(completed.result)


def _set_up(request: LotteryRequest, run: LotteryRun) -> tuple[RunRequest, Setup]:
    run_request = attrs.evolve(_run_request(request, run), note="")
    setup = run_request.set_up()
    _check_same_data(setup)
    return run_request, setup


def _run_request(request: LotteryRequest, run: LotteryRun) -> RunRequest:
    return request_in_folder(Experiment.of(run.tables), RunFolder(request.folder.path / run.name))


def _stored_result(request: LotteryRequest, run: LotteryRun) -> Mapping[str, Any] | None:
    """Return the result of a finished run; None for any other."""
    folder = _run_request(request, run).folder
    return attrs.asdict(read_record(folder.result, Result)) if folder.result.exists() else None


def _check_same_data(setup: Setup) -> None:
    if setup.source is None:
        return
    own = identity(setup)
    for what in ("data", "plugin code"):
        if setup.source.identity[what] != own[what]:
            raise InputError(f"the run {setup.source.origin} was trained with other {what}; start another lottery")


def _lottery(options: Mapping[str, Any]) -> Lottery:
    return structure(options, Lottery, "lottery")


def _resumed_lottery(options: Mapping[str, Any], folder: RunFolder) -> Lottery:
    """Return the lottery in the folder, perhaps with another number of rounds, or with controls from now on."""
    stored = read_lottery(folder.path)
    requested = structure({**unstructure(stored), **options}, Lottery, "lottery")
    for name in ("prune", "rewind"):
        there, here = getattr(stored, name), getattr(requested, name)
        if there != here:
            raise InputError(f"the lottery {folder.path} was begun with {name} = {there}; given {here}")
    return requested


def _save_lottery(request: LotteryRequest) -> None:
    """Store the lottery, which may have more rounds than when it was started."""
    write_whole(request.folder.path / LOTTERY_FILE, _content(request))


def _content(request: LotteryRequest) -> bytes:
    return tomli_w.dumps(LOTTERY.put(unstructure(request.lottery))).encode()


def _folder_fact(request: LotteryRequest) -> dict[str, str]:
    """Return the folder on which all ranks must agree; only its parent, if rank 0 is to choose the number."""
    is_open = request.is_new and request.is_numbered
    return {"folder": str(request.folder.path.parent if is_open else request.folder.path)}


def _check_reserved_settings(file: Path | None, settings: Sequence[str]) -> None:
    """Raise an :class:`InputError` if a setting is given that the lottery decides."""
    given = set(read_toml(file)) if file else set()
    given |= {setting.partition("=")[0].strip().partition(".")[0] for setting in settings}
    reserved = [name for name in _RESERVED_SETTINGS if name in given]
    if reserved:
        raise InputError(
            f"a lottery starts dense, prunes by magnitude and starts each round from another one; "
            f"given settings of {', '.join(reserved)}: remove them"
        )


def _as_json(results: Sequence[LotteryRunResult]) -> dict[str, Any]:
    lines = [(each.run.is_control, {"round": each.run.round, **each.result}) for each in results]
    return {
        "rounds": [line for is_control, line in lines if not is_control],
        "controls": [line for is_control, line in lines if is_control],
        "out": str(Path(results[0].result["run"]).parent),
    }


def _print_rounds(results: Sequence[LotteryRunResult], stream: TextIO) -> None:
    controls = {each.run.round: f"{each.result['test_accuracy']:.4f}" for each in results if each.run.is_control}
    head = ["round", "weights", "sparsity", "test accuracy", *(["with fresh values"] if controls else [])]
    rows = [
        [
            str(each.run.round),
            f"{each.result['sparse_parameters']:,}",
            f"{each.result['sparsity']:.4f}",
            f"{each.result['test_accuracy']:.4f}",
            *([controls.get(each.run.round, "")] if controls else []),
        ]
        for each in results
        if not each.run.is_control
    ]
    print_table(head, rows, numbers=range(len(head)), file=stream)
    print_message(f"runs: {Path(results[0].result['run']).parent}", stream)
