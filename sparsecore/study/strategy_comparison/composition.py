"""The comparison that a command asks for: the networks of the default one or a given one, all strategies or some."""

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs

from sparsecore.engine.stack import StrategyStack
from sparsecore.errors import InputError, PluginError
from sparsecore.experiment.assembly import with_absolute_paths
from sparsecore.experiment.experiment import Experiment
from sparsecore.experiment.toml_files import toml_tables
from sparsecore.plugins.discovery import installed, load
from sparsecore.run.setup import images_of
from sparsecore.study.strategy_comparison.definition import DENSE, Contender, Network, StrategyComparison
from sparsecore.study.trials import check_numbers, check_options, experiment_of, model_of, trials_of

_HELD_OUT_SHARE = 10
"""The tuning tests on this part of the training images, unless their number is given."""

_PLUGIN_SECTIONS = ("model", "data", "backend")


@attrs.frozen
class ComparisonRequest:
    """What a command asks for; None and empty sequences stand for the default.

    Attributes:
        options: settings of all runs by dotted names.
        own_strategies: selections of strategies besides the installed ones; several that are joined by '+' are stacked.
        arms: names of the arms to run besides the own strategies.
        sparsities: sparsities of the trials.
        tuning_sparsity: sparsity of the tuning.
        held_out: number of training images that the tuning tests on.
        trials: number of trials.
        tuning_runs: number of tuning runs of each arm.
    """

    options: Mapping[str, Any] = attrs.field(factory=dict)
    own_strategies: Sequence[str] = ()
    arms: Sequence[str] = ()
    sparsities: Sequence[float] = ()
    tuning_sparsity: float | None = None
    held_out: int | None = None
    trials: int | None = None
    tuning_runs: int | None = None

    @property
    def is_default(self) -> bool:
        """Whether nothing is asked for but the default comparison."""
        return self == ComparisonRequest()


@attrs.frozen
class Composed:
    """A comparison and what was left out of it.

    Attributes:
        comparison: the comparison.
        left_out: why an installed strategy has no arm, or a network of the default comparison is missing, by its name.
    """

    comparison: StrategyComparison
    left_out: Mapping[str, str]


def compose(request: ComparisonRequest) -> Composed:
    """Compose the comparison that a command asks for, load its images, and check all its experiments.

    Args:
        request: what is asked for.

    Raises:
        InputError: an unknown setting, arm or plugin, or a value out of range.
        PluginError: a strategy cannot be registered.
    """
    left_out: dict[str, str] = {}
    arms = [DENSE, *_installed_contenders(left_out)]
    own: list[Contender] = []
    for selection in request.own_strategies:
        own.append(contender_of(selection, [*arms, *own]))
        for name in own[-1].strategy:
            load("strategy", name)  # raises for one that does not exist, before data are downloaded
    default = default_comparison()
    networks = default.networks
    options = absolute_options(request.options)
    check_numbers(options, (default.trials if request.trials is None else request.trials) + 1)  # the tuning has its own
    if {"model.name", "data.name"} & options.keys():
        networks = (_changed(network_for(networks, options), request, options),)
    else:
        networks = tuple(_changed(one, request, _applicable(options, one)) for one in _available(networks, left_out))
    counts = {"trials": request.trials, "tuning_runs": request.tuning_runs}
    counts = {name: count for name, count in counts.items() if count is not None}
    comparison = StrategyComparison.of(
        {**attrs.evolve(default, networks=networks, arms=(*arms, *own)).tables(), **counts}
    )
    if request.arms:
        comparison = comparison.only([*request.arms, *(arm.name for arm in own)])
    networks = tuple(_with_held_out(comparison, network) for network in comparison.networks)
    comparison = attrs.evolve(comparison, networks=networks)
    for network in networks:
        tuning = comparison.tuning(network)
        check_options(tuning)
        for trial in trials_of(tuning):
            _check_hooks(experiment_of(tuning, trial, Path()))
        comparison.trials_with(network, [arm.arm({}) for arm in comparison.arms])
    return Composed(comparison, left_out)


def _check_hooks(experiment: Experiment) -> None:
    """Check that an arm's strategies can be registered, and have updates if they decide what these do."""
    stack = StrategyStack({strategy.name: strategy.plugin for strategy in experiment.strategies})
    idle = [name for hook in ("prune", "grow", "allocate") for name in stack.implementers(hook)]
    if idle and not stack.implementers("update_due"):
        raise InputError(
            f"{idle[0]} decides what updates do, and no strategy of its arm when they are due, so that none would be; "
            f"stack it on one that does, such as --strategy set+{idle[0]}"
        )


def _installed_contenders(left_out: dict[str, str]) -> Iterator[Contender]:
    """Yield an arm for each installed strategy that is complete by itself, and note those that cannot be loaded.

    A strategy is complete if it decides when updates are due, unless its class says by ``is_piece`` that it only
    changes what the strategies below it do.
    """
    for name in dict.fromkeys(entry.name for entry in installed("strategy")):
        try:
            strategy = load("strategy", name)
        except PluginError as error:
            left_out[name] = str(error)
            continue
        if hasattr(strategy, "update_due") and not getattr(strategy, "is_piece", False):
            yield Contender(name, (name,))


def _available(networks: Sequence[Network], left_out: dict[str, str]) -> Iterator[Network]:
    """Yield the networks whose backend is installed, and note the others."""
    for network in networks:
        try:
            if "backend.name" in network.options:
                load("backend", network.options["backend.name"])
        except PluginError as error:
            left_out[network.name] = str(error)
        else:
            yield network


def contender_of(selection: str, others: Sequence[Contender] = ()) -> Contender:
    """Return the arm of a strategy that is given on the command line.

    Args:
        selection: an installed name, 'package.module:Object' or 'file.py:Object', or several joined by '+'.
        others: the arms that there are already.

    Returns:
        An arm whose name is that of the selection, with '-2', '-3' ... where another arm has it.

    Raises:
        InputError: another arm has the same strategies.
    """
    stack = tuple(name for one in selection.split("+") for name in with_absolute_paths(_tables({}, [one]))["strategy"])
    same = [arm.name for arm in others if arm.strategy == stack and not arm.dense]
    if same:
        raise InputError(
            f"--strategy adds a strategy that is not compared yet; {selection!r} is the arm {same[0]!r} already, and "
            f"--arm {same[0]} compares only the arms that are named"
        )
    taken = [arm.name for arm in others]
    name = "-".join(arm_name(one) for one in stack)
    numbers = (number for number in range(2, len(taken) + 3) if f"{name}-{number}" not in taken)
    return Contender(name if name not in taken else f"{name}-{next(numbers)}", stack)


def arm_name(selection: str) -> str:
    """Return a name of lower-case letters, digits, dots and hyphens: 'my-strategy' for 'file.py:MyStrategy'.

    Args:
        selection: an installed name, 'package.module:Object' or 'file.py:Object'.
    """
    hyphened = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", selection.rpartition(":")[2]).lower()
    return re.sub(r"[^a-z0-9.]+", "-", hyphened).strip("-.") or "own"


def absolute_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Make the paths in settings absolute, so that they mean the same wherever the comparison is continued.

    Args:
        options: settings by dotted names.
    """
    absolute = with_absolute_paths(_tables(options, ()))
    found = {f"{kind}.{key}": value for kind in _PLUGIN_SECTIONS for key, value in absolute[kind].items()}
    return {**options, **found}


def _tables(options: Mapping[str, Any], stack: Sequence[str]) -> dict[str, Any]:
    sections = {
        kind: {name.removeprefix(f"{kind}."): one for name, one in options.items() if name.startswith(f"{kind}.")}
        for kind in _PLUGIN_SECTIONS
    }
    return {**sections, "strategy": {name: {} for name in stack}}


def default_comparison() -> StrategyComparison:
    """Return the networks, sparsities and numbers of runs of the command without options, with the dense arm alone."""
    file = files("sparsecore.study.strategy_comparison") / "default.toml"
    return StrategyComparison.of({**toml_tables(file.read_bytes(), file), "arm": [attrs.asdict(DENSE)]})


def network_for(known: Sequence[Network], options: Mapping[str, Any]) -> Network:
    """Return the network of a model and a data set that are given on the command line.

    Args:
        known: networks of the default comparison.
        options: settings by dotted names, with a model, a data set or both.

    Returns:
        The known network of this model, if the data set is its own; else a new one at sparsity 0.9.
    """
    model, data = options.get("model.name"), options.get("data.name")
    for network in known:
        if model in {None, network.options["model.name"]} and data in {None, network.options["data.name"]}:
            return network
    names = {"model.name": model or model_of({}), "data.name": data or "digits"}
    return Network(arm_name(str(names["model.name"])), names, (0.9,))


def _changed(network: Network, request: ComparisonRequest, options: Mapping[str, Any]) -> Network:
    """Return the network with what the request says of all networks."""
    return attrs.evolve(
        network,
        options={**network.options, **options},
        sparsities=tuple(request.sparsities) or network.sparsities,
        tuning_sparsity=network.tuning_sparsity if request.tuning_sparsity is None else request.tuning_sparsity,
        held_out=network.held_out if request.held_out is None else request.held_out,
    )


def _applicable(options: Mapping[str, Any], network: Network) -> dict[str, Any]:
    """Return the options that apply to a network of the default comparison.

    Those of a backend do not if the network needs a certain one, as a module of PyTorch does, and the folder of files
    does not if its data set reads none.
    """
    keeps_own = "backend.name" in network.options
    reads_files = getattr(load("dataset", network.options["data.name"]), "reads_files", True)
    return {
        name: value
        for name, value in options.items()
        if not (keeps_own and name.startswith("backend.")) and (reads_files or name != "data.dir")
    }


def _with_held_out(comparison: StrategyComparison, network: Network) -> Network:
    """Return the network with the number of images that the tuning tests on, and check that there are so many."""
    given = network.held_out
    options = network.options if given is None else {**network.options, "data.held_out": given}
    study = comparison.study(network, "tuning", options, [comparison.arms[0].arm({})])
    experiment = experiment_of(study, trials_of(study)[0], Path())
    experiment.check_folder()
    images = images_of(experiment)
    return network if given else attrs.evolve(network, held_out=max(1, len(images.train) // _HELD_OUT_SHARE))
