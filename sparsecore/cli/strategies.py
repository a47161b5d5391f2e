"""``sparsecore study strategies``: compare all strategies, each tuned with the same number of runs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import click

from sparsecore.cli.options import ExperimentOptions, common_options, comparison_experiment_options
from sparsecore.cli.output import print_message, print_table, result_stream
from sparsecore.cli.progress import StudyStatus
from sparsecore.cli.study_options import Execution, execution_options, progress_class, settings_of
from sparsecore.errors import InputError
from sparsecore.experiment.toml_files import toml_value
from sparsecore.run.folder import create_numbered
from sparsecore.study.folder import StudyFolder
from sparsecore.study.pools import Pool
from sparsecore.study.report import check_reportable
from sparsecore.study.report.results import counted
from sparsecore.study.scheduler import StudyCallback
from sparsecore.study.strategy_comparison.composition import ComparisonRequest, compose
from sparsecore.study.strategy_comparison.definition import NAME
from sparsecore.study.strategy_comparison.execution import CallbackFor, PhaseResult, execute_comparison
from sparsecore.study.strategy_comparison.folder import ComparisonFolder
from sparsecore.study.strategy_comparison.report import write_comparison_report
from sparsecore.study.strategy_comparison.results import read_comparison_results, results_json
from sparsecore.study.strategy_comparison.tables import protocol, sparsity_table, tests_in_words, tuning_table
from sparsecore.study.trials import trials_of


@click.command(NAME)
@comparison_experiment_options
@click.option("--sparsity", "sparsities", metavar="S", multiple=True, help="Replace the sparsities. Repeatable.")
@click.option("--strategy", "own", metavar="NAME", multiple=True, help="Also compare FILE.py:Class. Repeatable.")
@click.option("--arm", "arms", metavar="NAME", multiple=True, help="Only this strategy, and your own. Repeatable.")
@click.option("--trials", metavar="N", type=int, help="Runs of each strategy at each sparsity  [default: 5]")
@click.option("--tuning-runs", metavar="N", type=int, help="Tuning runs of each strategy  [default: 6]")
@click.option("--tuning-sparsity", metavar="S", help="Sparsity of the tuning  [default: the middle one]")
@click.option("--held-out", metavar="N", type=int, help="Training images that tuning tests on  [default: a tenth]")
@execution_options
@common_options
def strategies(
    *,
    out: Path | None,
    resume: bool,
    jobs: int | None,
    pool_name: str,
    pool_options: tuple[str, ...],
    as_json: bool,
    trials: int | None,
    tuning_runs: int | None,
    tuning_sparsity: str | None,
    held_out: int | None,
    sparsities: tuple[str, ...],
    own: tuple[str, ...],
    arms: tuple[str, ...],
    settings: tuple[str, ...],
    **options: str | None,
) -> int:
    """Which strategy is the best?

    Compares all installed strategies and your own. Each is tuned with the same number of runs on held-out training
    images; the trials then train on all of them. The networks are lenet-300-100 on MNIST and a GPT of characters,
    sparsecore_models.gpt:CharacterGPT.
    """
    with result_stream() as stream:
        check_reportable()
        request = ComparisonRequest(
            options=settings_of(ExperimentOptions.of(None, options, (), ()).options, settings),
            own_strategies=own,
            arms=arms,
            sparsities=tuple(_number(sparsity, "--sparsity") for sparsity in sparsities),
            tuning_sparsity=None if tuning_sparsity is None else _number(tuning_sparsity, "--tuning-sparsity"),
            held_out=held_out,
            trials=trials,
            tuning_runs=tuning_runs,
        )
        execution = Execution(jobs, pool_name, pool_options)
        pool = execution.pool()
        folder = _folder_to_resume(request, out) if resume else _new_folder(request, out)
        failed = _executed(folder, pool, execution)
        print_comparison(folder, stream, as_json=as_json)
        print_message(f"report: {write_comparison_report(folder)}", None if as_json else stream)
    return 1 if failed else 0


def _number(text: str, option: str) -> float:
    number = toml_value(text)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InputError(f"{option} is a number in [0, 1); given {text!r}")
    return float(number)


def _new_folder(request: ComparisonRequest, out: Path | None) -> ComparisonFolder:
    if out is not None:
        ComparisonFolder(out).check_free()  # before images are loaded
    composed = compose(request)
    for name, reason in composed.left_out.items():
        print_message(f"sparsecore: {name} is left out: {reason}")
    if out is None:
        return create_numbered(Path("studies"), NAME, lambda path: ComparisonFolder(path).create(composed.comparison))
    return ComparisonFolder(out).create(composed.comparison)


def _folder_to_resume(request: ComparisonRequest, out: Path | None) -> ComparisonFolder:
    if out is None:
        raise InputError("--resume needs --out, the folder of the study to continue")
    folder = ComparisonFolder(out)
    if not folder.path.exists():
        raise InputError(f"there is no study at {folder.path} to continue; to start one there, omit --resume")
    stored = folder.read()
    if not request.is_default and compose(request).comparison != stored:
        raise InputError(
            f"the folder {folder.path} was created for another comparison; {folder.definition.name} has its settings"
        )
    return folder


def _executed(folder: ComparisonFolder, pool: Pool, execution: Execution) -> bool:
    """Execute the comparison, and name what failed.

    Returns:
        Whether a trial failed, or all tuning runs of a strategy.
    """
    comparison, is_failed = folder.read(), False
    print_message(f"sparsecore: study folder {folder.path}")
    try:
        for phase in execute_comparison(comparison, folder, pool, _progress(pool)):
            _print_failed(phase)
            is_failed |= phase.is_failed
    except KeyboardInterrupt:
        print_message(f"sparsecore: stopped; continue with: {execution.resume_command(NAME, folder.path)}")
        raise
    except OSError as error:
        error.add_note(f"finished runs are kept; continue with: {execution.resume_command(NAME, folder.path)}")
        raise
    return is_failed


def _progress(pool: Pool) -> CallbackFor:
    @contextmanager
    def progress(title: str, folder: StudyFolder) -> Iterator[StudyCallback]:
        print_message(f"sparsecore: {title}")
        with progress_class()(StudyStatus(trials_of(folder.read()), folder, pool.jobs)) as callback:
            yield callback

    return progress


def _print_failed(phase: PhaseResult) -> None:
    for trial in phase.outcome.failed:
        print_message(f"sparsecore: {trial.name} failed; see {phase.folder.log(trial)}")
    for name in phase.dropped:
        print_message(f"sparsecore: {name} has no trials, because all its tuning runs failed")


def print_comparison(folder: ComparisonFolder, stream: TextIO, *, as_json: bool) -> None:
    """Print the results of a comparison so far.

    Args:
        folder: folder of the comparison.
        stream: stream for the results.
        as_json: print one JSON object in place of tables.
    """
    results = read_comparison_results(folder)
    if as_json:
        click.echo(json.dumps({**results_json(results), "folder": str(folder.path)}), file=stream)
        return
    for network in results.networks:
        print_message(protocol(network, results), stream)
        for one in network.sparsities:
            table = sparsity_table(one, results.comparison.trials)
            print_message(f"\nsparsity {one.sparsity:g}", stream)
            print_table(table.head, table.rows, numbers=range(1, len(table.head)), file=stream)
            print_message(tests_in_words(one), stream)
        table = tuning_table(network)
        print_message("\ntuning", stream)
        print_table(table.head, table.rows, numbers=range(1, len(table.head) - 1), file=stream)
        if network.unfinished:
            print_message(f"{counted(len(network.unfinished), 'run')} not finished", stream)
