"""The definition of a comparison of strategies: its networks, its arms, and the two studies that it makes of a network.

The study ``tuning`` runs each arm once with each of its settings, and tests on images that are held out of the training
images. The study ``trials`` runs each arm several times with the best of them, on all training images.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median_low
from typing import Any

import attrs

from sparsecore.engine.distributions import check_sparsity
from sparsecore.engine.randomness import Randomness
from sparsecore.errors import InputError, unknown
from sparsecore.experiment.conversion import structure, unstructure
from sparsecore.plugins.discovery import load
from sparsecore.study.definition import Arm, Study
from sparsecore.study.strategy_comparison.search_space import (
    LEARNING_RATE,
    LEARNING_RATE_FACTORS,
    Choice,
    Range,
    draw_settings,
    scaled_schedule,
    search_space_of,
)
from sparsecore.study.trials import tables_before_rescaling, trials_of

NAME = "strategies"
"""The name of the command, and of the studies of a comparison."""

_MOST_RUNS = 1000

_run_count: Any = attrs.validators.and_(attrs.validators.ge(1), attrs.validators.le(_MOST_RUNS))


@attrs.frozen
class Contender:
    """An arm of the comparison: a strategy, or several that are stacked.

    Attributes:
        name: its name in tables and folders.
        strategy: names of the strategies, bottom first.
        dense: whether it is the dense network, which is trained once for all sparsities.
    """

    name: str
    strategy: tuple[str, ...]
    dense: bool = False

    def arm(self, settings: Mapping[str, Any], number: int | None = None) -> Arm:
        """Return the arm of a study.

        Args:
            settings: settings of its runs, by dotted names.
            number: the number of the settings in the study of the tuning; None in that of the trials.
        """
        name = self.name if number is None else tuning_arm_name(self.name, number)
        own = {"sparsity": 0.0, **settings} if self.dense else settings
        return Arm(name=name, strategy=self.strategy, settings=own, once=self.dense)


DENSE = Contender("dense", ("static",), dense=True)


def tuning_arm_name(contender: str, number: int) -> str:
    """Return the name of an arm in the study of the tuning.

    Args:
        contender: name of the arm of the comparison.
        number: the number of its settings, from 0.
    """
    return f"{contender}-setting-{number}"


@attrs.frozen
class Network:
    """A network on a data set, on which all arms are compared.

    Attributes:
        name: its folder in that of the comparison.
        options: settings of all runs, by dotted names.
        sparsities: sparsities of the trials.
        tuning_sparsity: sparsity of the tuning; None for the middle one of ``sparsities``.
        held_out: number of training images that the tuning tests on; None until it is known.
    """

    name: str
    options: Mapping[str, Any]
    sparsities: tuple[float, ...]
    tuning_sparsity: float | None = None
    held_out: int | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(1)))

    def __attrs_post_init__(self) -> None:
        for sparsity in (*self.sparsities, *([] if self.tuning_sparsity is None else [self.tuning_sparsity])):
            check_sparsity(sparsity)
        if not self.sparsities:
            raise InputError(f"the network {self.name!r} needs at least one sparsity")
        if "data.held_out" in self.options:
            raise InputError(
                "the tuning holds out training images, and the trials test on the test images; their number is given "
                "by --held-out, not by the setting data.held_out"
            )

    @property
    def tuned_at(self) -> float:
        """The sparsity of the tuning."""
        return median_low(self.sparsities) if self.tuning_sparsity is None else self.tuning_sparsity

    @property
    def title(self) -> str:
        """The network and its data set."""
        return self.title_on(str(self.options.get("data.name")))

    def title_on(self, images: str) -> str:
        """Return the network and the name of its images.

        Args:
            images: the name of the images.
        """
        model = str(self.options.get("model.name"))
        return f"{model.rpartition(':')[2]} on {images}"


@attrs.frozen
class StrategyComparison:
    """A comparison of strategies, each tuned with the same number of runs.

    Attributes:
        networks: the networks.
        arms: the strategies.
        trials: number of runs of each arm at each sparsity, with the seeds 0, 1, ...
        tuning_runs: number of settings that the tuning tries for each arm; the first are those of the presets.
    """

    networks: tuple[Network, ...]
    arms: tuple[Contender, ...]
    trials: int = attrs.field(default=5, validator=_run_count)
    tuning_runs: int = attrs.field(default=6, validator=_run_count)

    def __attrs_post_init__(self) -> None:
        for what, names in (
            ("arm", [arm.name for arm in self.arms]),
            ("network", [network.name for network in self.networks]),
        ):
            if not names or len(set(names)) < len(names):
                raise InputError(f"a comparison needs {what}s with different names; given {', '.join(names) or 'none'}")

    @classmethod
    def of(cls, tables: Mapping[str, Any]) -> "StrategyComparison":
        """Create a comparison from plain tables, with the networks in ``[[network]]`` and the arms in ``[[arm]]``.

        Raises:
            InputError: an unknown key, a wrong type, or a value out of range.
        """
        given = dict(tables)
        lists = {"networks": given.pop("network", []), "arms": given.pop("arm", [])}
        return structure({**given, **lists}, cls, "comparison")

    def tables(self) -> dict[str, Any]:
        """Return plain tables, from which :meth:`of` creates the same comparison."""
        plain = unstructure(self)
        networks, arms = plain.pop("networks"), plain.pop("arms")
        return {**plain, "network": networks, "arm": arms}

    def only(self, names: Sequence[str]) -> "StrategyComparison":
        """Return the comparison with some of its arms only.

        Raises:
            InputError: it has no arm of such a name.
        """
        known = [arm.name for arm in self.arms]
        for name in names:
            if name not in known:
                raise InputError(unknown("arm", name, known))
        return attrs.evolve(self, arms=tuple(arm for arm in self.arms if arm.name in names))

    def tuning(self, network: Network) -> Study:
        """Return the study in which each arm is run once with each of its settings, on held-out images.

        Args:
            network: one of the networks, whose number of held-out images is known.

        Returns:
            A study at one sparsity, whose seed is the first one that no trial has.

        Raises:
            InputError: an arm's experiment is not valid.
            PluginError: an attribute ``tuning`` is not as it should be.
        """
        seed = int(network.options.get("seed", 0)) + self.trials
        options = {**network.options, "data.held_out": network.held_out, "seed": seed}
        arms = [
            contender.arm(settings, number)
            for contender in self.arms
            for number, settings in enumerate(self._settings_to_try(contender, network))
        ]
        return self.study(network, "tuning", options, arms)

    def trials_with(self, network: Network, arms: Sequence[Arm]) -> Study:
        """Return the study of the trials.

        Args:
            network: one of the networks.
            arms: the arms, with the settings that were the best in the tuning.
        """
        return self.study(network, "trials", network.options, arms, network.sparsities, self.trials)

    def study(
        self,
        network: Network,
        part: str,
        options: Mapping[str, Any],
        arms: Sequence[Arm],
        sparsities: Sequence[float] = (),
        trials: int = 1,
    ) -> Study:
        """Return a study of a network.

        Args:
            network: one of the networks.
            part: the name of the study, 'tuning' or 'trials'.
            options: settings of all its runs, by dotted names.
            arms: its arms.
            sparsities: its sparsities; that of the tuning if empty.
            trials: the number of its trials.

        Raises:
            InputError: two sparsities or two arms are the same.
        """
        return Study(
            name=f"{NAME}-{part}",
            title=f"{network.title}: {part}",
            figure="sparsities",
            arms=tuple(arms),
            sparsities=tuple(sparsities) or (network.tuned_at,),
            trials=trials,
            options=options,
        )

    def _settings_to_try(self, contender: Contender, network: Network) -> list[dict[str, Any]]:
        """Return the settings of each tuning run: those of the presets, and others that are drawn around them."""
        presets = self.study(network, "tuning", network.options, [contender.arm({})])
        known = tables_before_rescaling(presets, trials_of(presets)[0], Path())
        space: dict[str, Range | Choice] = {LEARNING_RATE: LEARNING_RATE_FACTORS}
        for name in () if contender.dense else contender.strategy:
            options = search_space_of(load("strategy", name), name)
            space |= {f"strategy.{name.rpartition(':')[2]}.{option}": values for option, values in options.items()}
        drawn = draw_settings(space, self.tuning_runs - 1, Randomness(0).child("tuning"))
        rate = known["training"]["learning_rate"]
        scaled = [{**settings, LEARNING_RATE: scaled_schedule(rate, settings[LEARNING_RATE])} for settings in drawn]
        return [{}, *scaled]
