"""The weights that a run starts with: drawn by its seed, those of another run, or those in a file."""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.data.images import Images
from sparsecore.engine.arrays import Array, DenseValues
from sparsecore.engine.engine import Engine
from sparsecore.engine.schedules import Clock
from sparsecore.engine.state import State
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError, InputWarning, listed
from sparsecore.experiment.experiment import Experiment
from sparsecore.learning.parameters import Parameter
from sparsecore.run.checkpoint import Checkpoint, read_arrays
from sparsecore.run.checkpoint_validation import check_dense
from sparsecore.run.initialization import INITIAL_VALUES, RandomInitialization, StartValues, check_all_known
from sparsecore.run.source_run import SourceRun

_SHOWN = 8
"""The number of parameters that an error sentence names."""


@attrs.frozen(eq=False)
class NewRun:
    """The run that is to start.

    Attributes:
        experiment: what it runs.
        images: its data set.
        parameters: the parameters of its model.
        engine: its strategies over the layout of the sparse parameters.
    """

    experiment: Experiment
    images: Images
    parameters: Sequence[Parameter]
    engine: Engine

    def all_positions(self) -> Topology:
        """Return the topology in which every position is active."""
        layout, arrays = self.engine.layout, self.engine.arrays
        positions = arrays.arange(layout.size, layout.position_dtype)
        return Topology.of(layout, positions, arrays, np.array(layout.sizes, np.int64))


@attrs.frozen(eq=False)
class StartWeights:
    """Weights to start with.

    Attributes:
        origin: the folder or the file that they come from.
        identity: the fingerprints of where they come from.
        known: returns the positions that have a value; all of them, or those of a run.
        at: returns the values of a topology, and raises an :class:`InputError` if a position has none.
    """

    origin: str
    identity: Mapping[str, str]
    known: Callable[[], Topology]
    at: Callable[[Topology], StartValues]

    def dense(self, dtype: str) -> DenseValues:
        """Return all values by tensor, which are computed when the first is asked for.

        Args:
            dtype: of the result, by NumPy's name.

        Returns:
            A function from a tensor's name to (D_i,) values on the backend, zero at positions without a value.
        """

        @cache
        def sparse() -> tuple[Topology, NDArray[Any]]:
            known = self.known()
            return known, np.asarray(self.at(known).sparse, dtype)

        def values(name: str) -> Array:
            known, entries = sparse()
            whole = np.zeros(known.layout.sizes[known.layout.index(name)], dtype)
            whole[known.local(name)] = entries[known.slots(name)]
            return known.arrays.from_numpy(whole)

        return values


def start_weights(new: NewRun, source: SourceRun | None) -> StartWeights:
    """Return the weights that the settings name.

    Args:
        new: the run that is to start.
        source: the run that it starts from, if it starts from one.

    Raises:
        InputError: a file cannot be read, or is of another network.
    """
    if source is not None:
        return _of_run(new, source)
    return drawn_weights(new) if new.experiment.start.weights is None else _of_file(new)


def drawn_weights(new: NewRun) -> StartWeights:
    """Return the weights that the run's seed draws.

    Args:
        new: the run that is to start.
    """
    draws = RandomInitialization(new.experiment.seed)

    def at(topology: Topology) -> StartValues:
        return StartValues(draws.sparse_values(topology, new.parameters), draws.other_parameters(new.parameters), draws)

    return StartWeights("the initial values", {}, new.all_positions, at)


def _of_file(new: NewRun) -> StartWeights:
    path = Path(cast(str, new.experiment.start.weights))
    found = read_arrays(path, "the weights to start with")
    drawn = new.experiment.start.drawn
    _check_names(new.parameters, found, drawn, path)
    draws = RandomInitialization(new.experiment.seed)
    own = {parameter.name: parameter for parameter in new.parameters}
    taken = {name: array for name, array in found.items() if not _is_any(name, drawn)}
    for name, array in taken.items():
        if not np.isfinite(array).all():
            raise InputError(f"{name} in {path} has a number that is not finite")

    def sparse(name: str, topology: Topology) -> NDArray[Any]:
        if name in taken:
            return np.asarray(taken[name].reshape(-1)[topology.local(name)], np.float64)
        return draws.values_at(own[name], topology.local(name))

    def at(topology: Topology) -> StartValues:
        values = np.concatenate([sparse(name, topology) for name in topology.layout.names])
        given = {
            name: np.asarray(array, np.float64).reshape(own[name].shape)
            for name, array in taken.items()
            if not own[name].sparse
        }
        rest = [parameter for parameter in new.parameters if parameter.name not in taken]
        return StartValues(values, {**draws.other_parameters(rest), **given})

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return StartWeights(str(path), {"weights": digest}, new.all_positions, at)


def _is_any(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _check_names(
    parameters: Sequence[Parameter], found: Mapping[str, NDArray[Any]], drawn: Sequence[str], path: Path
) -> None:
    """Raise an :class:`InputError` unless the file has exactly the parameters that are not drawn, in their shapes."""
    if {"positions", "learner/values"} <= found.keys():
        raise InputError(f"{path} is the checkpoint of a run; start from it by run, the folder that it is in")
    names = [parameter.name for parameter in parameters]
    useless = [glob for glob in drawn if not any(fnmatchcase(name, glob) for name in names)]
    if useless:
        raise InputError(f"drawn matches no parameter by {listed(useless, _SHOWN)}; there are {listed(names, _SHOWN)}")
    missing = [name for name in names if name not in found and not _is_any(name, drawn)]
    if missing:
        raise InputError(
            f"{path} has no {listed(missing, _SHOWN)}; it has {listed(list(found), _SHOWN)}, and drawn names the "
            "parameters that are not to be taken from it"
        )
    strange = [name for name in found if name not in names and not _is_any(name, drawn)]
    if strange:
        raise InputError(
            f"{path} has {listed(strange, _SHOWN)}, which the network does not have; it has {listed(names, _SHOWN)}"
        )
    for parameter in parameters:
        shape = found[parameter.name].shape if parameter.name in found else parameter.shape
        # a number is written as an array without axes, or with one
        alike = shape == parameter.shape or (np.prod(shape) == np.prod(parameter.shape) == 1)
        if not alike and not _is_any(parameter.name, drawn):
            raise InputError(f"{parameter.name} is {shape} in {path}, and {parameter.shape} in the network")


def _of_run(new: NewRun, source: SourceRun) -> StartWeights:
    settings = new.experiment.start
    kind = _KINDS[str(settings.values)]

    def at(topology: Topology) -> StartValues:
        values = kind.at(new, source, topology)
        _check_dense(new.parameters, values, source)
        return values

    return StartWeights(str(settings.run), source.identity, lambda: kind.known(new, source), at)


def _all(new: NewRun, _: SourceRun) -> Topology:
    return new.all_positions()


def _at_the_end(new: NewRun, source: SourceRun) -> Topology:
    return source.topology(new.engine.layout, new.engine.arrays)


def _at_the_epoch(new: NewRun, source: SourceRun) -> Topology:
    return source.topology(new.engine.layout, new.engine.arrays, source.kept(cast(int, new.experiment.start.epoch)))


def _original(new: NewRun, source: SourceRun, topology: Topology) -> StartValues:
    """The initial values of the source; at positions that it did not start with, those that it would have had."""
    parameters = source.experiment.model.plugin.parameters(new.images.shape, new.images.classes)
    draws = RandomInitialization(source.experiment.seed)
    if source.start is None or source.start.values.draws is not None:
        _check_drawn(draws, parameters, source)
    if source.start is None:
        values = StartValues(draws.sparse_values(topology, parameters), draws.other_parameters(parameters), draws)
    else:
        values = attrs.evolve(
            source.start.values, sparse=source.start.sparse_values(topology, parameters, source.folder.path)
        )
    # its strategies may have changed what was drawn, as DeepR does by its signs
    arrays, engine = topology.arrays, source.experiment.engine(topology.layout, topology.arrays)
    drawn = arrays.from_numpy(np.asarray(values.sparse, source.experiment.backend.plugin.dtype))
    began = engine.start_values(State(topology, {}, Clock()), drawn)
    return attrs.evolve(values, sparse=arrays.to_numpy(began))


def _check_drawn(draws: RandomInitialization, parameters: Sequence[Parameter], source: SourceRun) -> None:
    """Raise an :class:`InputError` unless the seed draws the values that the source began with."""
    if source.end.facts.get(INITIAL_VALUES) != draws.fingerprint(parameters):
        raise InputError(
            f"the original values of the run {source.folder.path} cannot be drawn again: its model, or the version of "
            "sparsecore that trained it, initialized its parameters in another way; train it again"
        )


def _fresh(new: NewRun, _: SourceRun, topology: Topology) -> StartValues:
    draws = RandomInitialization(new.experiment.seed, "fresh values")
    return StartValues(draws.sparse_values(topology, new.parameters), draws.other_parameters(new.parameters), draws)


def _trained(_: NewRun, source: SourceRun, topology: Topology) -> StartValues:
    return _at(source.end, topology, "ended", source)


def _rewound(new: NewRun, source: SourceRun, topology: Topology) -> StartValues:
    epoch = cast(int, new.experiment.start.epoch)  # the settings of 'rewound' always have one
    values = _at(source.kept(epoch), topology, f"had done {epoch} epochs", source)
    return attrs.evolve(values, epoch=epoch)


@attrs.frozen
class _Kind:
    """A kind of values of a run: which positions have one, and the values of a topology."""

    known: Callable[[NewRun, SourceRun], Topology]
    at: Callable[[NewRun, SourceRun, Topology], StartValues]


_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "original": _Kind(_all, _original),
        "fresh": _Kind(_all, _fresh),
        "trained": _Kind(_at_the_end, _trained),
        "rewound": _Kind(_at_the_epoch, _rewound),
    }
)


def _at(saved: Checkpoint, topology: Topology, when: str, source: SourceRun) -> StartValues:
    """The values that the source had in a saved state."""
    source.check(saved, topology.layout)
    positions, there = topology.arrays.to_numpy(topology.positions), saved.arrays["positions"]
    check_all_known(np.isin(positions, there), when, source.folder.path)
    values: Any = saved.arrays["learner/values"]
    silent = np.isin(there, positions) & (saved.arrays.get("learner/silent", np.zeros(len(there))) != 0)
    if silent.any():
        sentence = (
            f"the network of the run {source.folder.path} computed without {np.count_nonzero(silent):,} of the weights "
            "that this run starts with; they start from zero"
        )
        warnings.warn(InputWarning(sentence), stacklevel=2)
    return StartValues(values[np.searchsorted(there, positions)], saved.group("dense"))


def _check_dense(parameters: Sequence[Parameter], values: StartValues, source: SourceRun) -> None:
    try:
        check_dense(parameters, values.dense)
    except InputError as error:
        raise InputError(f"the run {source.folder.path} cannot be started from: {error}") from error
