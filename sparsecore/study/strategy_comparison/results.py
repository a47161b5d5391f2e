"""The results of a comparison of strategies: means with intervals, and which arms differ after Holm's correction."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import attrs

from sparsecore.experiment.assembly import NEUTRAL_SETTINGS
from sparsecore.run.logs import Effort
from sparsecore.study.comparison import SIGNIFICANCE_LEVEL, MeanDifference, arm_pairs
from sparsecore.study.definition import Study
from sparsecore.study.folder import StudyFolder
from sparsecore.study.images import identify_images
from sparsecore.study.multiple_comparisons import AnalysisOfVariance, half_width, holm, letters, welch_anova
from sparsecore.study.strategy_comparison.definition import Contender, Network, StrategyComparison
from sparsecore.study.strategy_comparison.folder import ComparisonFolder
from sparsecore.study.strategy_comparison.tuning import TuningRun, best_run, tuning_runs
from sparsecore.study.topology_history import topology_history_of
from sparsecore.study.trials import Trial, trials_of


@attrs.frozen
class Measurement:
    """One quantity in all finished trials of an arm at a sparsity.

    Attributes:
        values: one for each trial, in order; empty if the quantity is not known of all of them.
    """

    values: tuple[float, ...] = ()

    @property
    def mean(self) -> float | None:
        """The mean; None without values."""
        return fmean(self.values) if self.values else None

    @property
    def half_width(self) -> float | None:
        """Half the width of the mean's 95 % confidence interval; None for fewer than two trials."""
        return half_width(self.values)


@attrs.frozen
class ArmResult:
    """The finished trials of an arm at a sparsity.

    Attributes:
        arm: the arm.
        finished: numbers of the finished trials, ascending.
        accuracy: test accuracy after the last epoch, in [0, 1].
        loss: mean cross-entropy over the test images, in nats.
        training_flops: operations of the training, relative to those of as many steps of the dense network.
        seconds: wall time of the run.
        explored: the ITOP rate, the fraction of all positions that have been active at some time.
        mean_density: mean over the steps of the fraction of active positions.
        final_density: that fraction at the end.
        letters: arms of the same sparsity that have a letter in common do not differ; empty without two trials.
        better_than: names of the arms whose accuracy is lower and differs.
    """

    arm: Contender
    finished: tuple[int, ...]
    accuracy: Measurement
    loss: Measurement
    training_flops: Measurement
    seconds: Measurement
    explored: Measurement
    mean_density: Measurement
    final_density: Measurement
    letters: str = ""
    better_than: tuple[str, ...] = ()


@attrs.frozen
class PairResult:
    """Two arms and whether they differ.

    Attributes:
        better: the name of the arm with the higher mean accuracy.
        worse: the name of the other one.
        difference: by how much, in accuracy, with Welch's test.
        corrected_p: p after Holm's correction for all pairs of the sparsity.
    """

    better: str
    worse: str
    difference: MeanDifference
    corrected_p: float

    @property
    def differ(self) -> bool:
        """Whether the corrected p is below 0.05."""
        return self.corrected_p < SIGNIFICANCE_LEVEL


@attrs.frozen
class SparsityResult:
    """The arms of a network at a sparsity.

    Attributes:
        sparsity: the sparsity.
        arms: the arms, the most accurate first; those without a finished trial last.
        pairs: all pairs that can be compared, the smallest p first.
        anova: Welch's analysis of variance of all arms; None if an arm has fewer than two trials, or no variance.
    """

    sparsity: float
    arms: tuple[ArmResult, ...]
    pairs: tuple[PairResult, ...]
    anova: AnalysisOfVariance | None


@attrs.frozen(eq=False)
class NetworkResult:
    """The results on a network.

    Attributes:
        network: the network.
        title: the network and the images, as they were identified.
        epochs: number of epochs of the runs; None before the first study has begun.
        tuning: tuning runs of each arm, by its name; empty before the tuning has begun.
        sparsities: results at each sparsity; empty before the trials have begun.
        unfinished: names of the runs that are still to be made, tuning runs first.
        machines: machines that have computed finished trials.
    """

    network: Network
    title: str
    epochs: int | None
    tuning: Mapping[str, Sequence[TuningRun]]
    sparsities: tuple[SparsityResult, ...]
    unfinished: tuple[str, ...]
    machines: tuple[str, ...]


@attrs.frozen(eq=False)
class ComparisonResults:
    """A comparison and its results so far.

    Attributes:
        comparison: the comparison.
        networks: the results on each network.
    """

    comparison: StrategyComparison
    networks: tuple[NetworkResult, ...]


def read_comparison_results(folder: ComparisonFolder) -> ComparisonResults:
    """Read the results of a comparison so far.

    Args:
        folder: folder of the comparison.

    Raises:
        InputError: the folder has no comparison, or one of its files is damaged.
        MissingPackageError: scipy is not installed.
    """
    comparison = folder.read()
    return ComparisonResults(
        comparison, tuple(_network_result(comparison, network, folder) for network in comparison.networks)
    )


def _network_result(comparison: StrategyComparison, network: Network, folder: ComparisonFolder) -> NetworkResult:
    tuning, trials = folder.tuning(network), folder.trials(network)
    known = next((one for one in (trials, tuning) if one.path.exists()), None)
    tables = None if known is None else known.tables(trials_of(known.read())[0])
    images = None if known is None or tables is None else identify_images(known, tables["data"])
    runs = {}
    if tuning.path.exists():
        runs = {arm.name: tuning_runs(comparison, arm, tuning) for arm in comparison.arms}
    return NetworkResult(
        network=network,
        title=network.title if images is None else network.title_on(images.title),
        epochs=None if tables is None else int(tables["training"]["epochs"]),
        tuning=runs,
        sparsities=_sparsity_results(comparison, network, trials) if trials.path.exists() else (),
        unfinished=tuple(_unfinished(comparison, network, folder)),
        machines=_machines(trials),
    )


def _unfinished(comparison: StrategyComparison, network: Network, folder: ComparisonFolder) -> list[str]:
    """Return the names of the runs that are still to be made; tuning runs have an end when the trials begin."""
    tuning, trials = folder.tuning(network), folder.trials(network)
    if trials.path.exists():
        return _without_result(trials, trials.read())
    numbers = range(comparison.tuning_runs)
    settings = [arm.arm({}, number) for arm in comparison.arms for number in numbers]
    planned = comparison.trials_with(network, [arm.arm({}) for arm in comparison.arms])
    own = _without_result(tuning, comparison.study(network, "tuning", network.options, settings))
    return [*own, *(trial.name for trial in trials_of(planned))]


def _without_result(folder: StudyFolder, study: Study) -> list[str]:
    begun = folder.path.exists()
    return [trial.name for trial in trials_of(study) if not begun or folder.result(trial) is None]


def _machines(folder: StudyFolder) -> tuple[str, ...]:
    if not folder.path.exists():
        return ()
    efforts: list[Effort] = [folder.effort(trial) for trial in trials_of(folder.read())]
    return tuple(dict.fromkeys(effort.machine for effort in efforts if effort.machine))


def _sparsity_results(
    comparison: StrategyComparison, network: Network, folder: StudyFolder
) -> tuple[SparsityResult, ...]:
    trials = trials_of(folder.read())
    cells: dict[tuple[str, float | None], list[Trial]] = {}
    for trial in trials:
        cells.setdefault((trial.arm, trial.sparsity), []).append(trial)
    results = {key: _arm_result(comparison, key[0], cell, folder) for key, cell in cells.items()}
    return tuple(
        compared(sparsity, [result for (_, own), result in results.items() if own in {sparsity, None}])
        for sparsity in network.sparsities
    )


def _arm_result(comparison: StrategyComparison, name: str, trials: Sequence[Trial], folder: StudyFolder) -> ArmResult:
    finished = [(result, trial) for trial in trials if (result := folder.result(trial)) is not None]
    results = [result for result, _ in finished]
    histories = [topology_history_of(folder, trial, result) for result, trial in finished]
    return ArmResult(
        arm=next(arm for arm in comparison.arms if arm.name == name),
        finished=tuple(trial.number for _, trial in finished),
        accuracy=Measurement(tuple(result.test_accuracy for result in results)),
        loss=_measured([result.test_loss for result in results]),
        training_flops=_measured(
            [
                None
                if result.flops is None or result.flops.training is None
                else result.flops.training / result.flops.training_dense
                for result in results
            ]
        ),
        seconds=Measurement(tuple(result.seconds for result in results)),
        explored=Measurement(tuple(history.snapshots[-1].explored for history in histories)),
        mean_density=_measured([history.mean_density for history in histories]),
        final_density=_measured([None if result.sparsity is None else 1 - result.sparsity for result in results]),
    )


def _measured(values: Sequence[float | None]) -> Measurement:
    known = tuple(value for value in values if value is not None)
    return Measurement(known if len(known) == len(values) else ())


def compared(sparsity: float, arms: Sequence[ArmResult]) -> SparsityResult:
    """Compare every two arms.

    Args:
        sparsity: the sparsity.
        arms: the arms at this sparsity, without letters.

    Returns:
        The arms with letters, the most accurate first. Pairs without any variance cannot be tested, and count as not
        different.

    Raises:
        MissingPackageError: scipy is not installed.
    """
    ordered = sorted(arms, key=lambda one: -(one.accuracy.mean if one.accuracy.mean is not None else -1.0))
    samples = {one.arm.name: one.accuracy.values for one in ordered if len(one.finished) > 1}
    tested = arm_pairs(samples)
    corrected = holm([pair.difference.p for pair in tested])
    pairs = [PairResult(one.better, one.worse, one.difference, p) for one, p in zip(tested, corrected, strict=True)]
    different = {frozenset((pair.better, pair.worse)) for pair in pairs if pair.differ}
    named = letters(list(samples), different)
    complete = len(samples) == len(ordered)
    return SparsityResult(
        sparsity,
        tuple(
            attrs.evolve(
                one,
                letters=named.get(one.arm.name, ""),
                better_than=tuple(pair.worse for pair in pairs if pair.differ and pair.better == one.arm.name),
            )
            for one in ordered
        ),
        tuple(pairs),
        welch_anova(list(samples.values())) if complete else None,
    )


def results_json(results: ComparisonResults) -> dict[str, Any]:
    """Return the contents of results.json.

    Args:
        results: the results so far.

    Returns:
        What JSON can hold: accuracies and densities in [0, 1], losses in nats, FLOPs relative to the dense network.
    """
    return {
        "trials": results.comparison.trials,
        "tuning_runs": results.comparison.tuning_runs,
        "networks": [_network_json(network) for network in results.networks],
    }


def _network_json(result: NetworkResult) -> dict[str, Any]:
    return {
        "name": result.network.name,
        "title": result.title,
        "options": {name: one for name, one in result.network.options.items() if name not in NEUTRAL_SETTINGS},
        "epochs": result.epochs,
        "held_out": result.network.held_out,
        "tuned_at": result.network.tuned_at,
        "tuning": {name: _tuning_json(runs) for name, runs in result.tuning.items()},
        "sparsities": [_sparsity_json(sparsity) for sparsity in result.sparsities],
        "unfinished": list(result.unfinished),
        "machines": list(result.machines),
    }


def _tuning_json(runs: Sequence[TuningRun]) -> dict[str, Any]:
    best = best_run(list(runs))
    return {
        "runs": [attrs.asdict(run) for run in runs],
        "best": None if best is None else dict(best.settings),
    }


MEASUREMENTS = ("accuracy", "loss", "training_flops", "seconds", "explored", "mean_density", "final_density")


def _sparsity_json(result: SparsityResult) -> dict[str, Any]:
    return {
        "sparsity": result.sparsity,
        "anova": None if result.anova is None else attrs.asdict(result.anova),
        "arms": [
            {
                "arm": one.arm.name,
                "strategy": list(one.arm.strategy),
                "finished": len(one.finished),
                **{name: _measurement_json(getattr(one, name)) for name in MEASUREMENTS},
                "letters": one.letters,
                "better_than": list(one.better_than),
            }
            for one in result.arms
        ],
        "pairs": [
            {
                "better": pair.better,
                "worse": pair.worse,
                "difference": pair.difference.of_means,
                "t": pair.difference.t,
                "p": pair.difference.p,
                "corrected_p": pair.corrected_p,
                "differ": pair.differ,
            }
            for pair in result.pairs
        ],
    }


def _measurement_json(measurement: Measurement) -> dict[str, Any]:
    return {"values": list(measurement.values), "mean": measurement.mean, "half_width": measurement.half_width}
