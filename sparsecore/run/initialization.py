"""Initial values of a run: drawn at random, or a warm start from other weights, as it is kept in a file.

A run keeps its warm start in its own folder, and so can be resumed whatever happens to the other run or file.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Array, DenseValues
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError
from sparsecore.experiment.conversion import structure
from sparsecore.learning.parameters import Parameter
from sparsecore.run.checkpoint import Checkpoint, read_checkpoint
from sparsecore.run.checkpoint_validation import blaming, check_dense, check_values

INITIAL_VALUES = "initial values"
"""The fact of a checkpoint that has the fingerprint of the values that its run's seed drew."""

_SAMPLED = 8
"""The number of positions of each parameter that a fingerprint of the initial values has."""


@attrs.frozen
class RandomInitialization:
    """Random initial values as a function of seed, purpose, tensor and position.

    Attributes:
        seed: the seed of the run that first drew them.
        purpose: what they are drawn for; the draws of different purposes are independent.
    """

    seed: int
    purpose: str = "initial values"

    def sparse_values(self, topology: Topology, parameters: Sequence[Parameter]) -> NDArray[np.float64]:
        """The initial value of every active position, (N,), in the order of the topology's positions.

        Args:
            topology: the active positions.
            parameters: the parameters of the model.
        """
        sparse: Mapping[str, Parameter] = {parameter.name: parameter for parameter in parameters if parameter.sparse}
        return np.concatenate([self.values_at(sparse[name], topology.local(name)) for name in topology.layout.names])

    def values_at(self, parameter: Parameter, positions: NDArray[np.integer]) -> NDArray[np.float64]:
        """The initial values of a parameter at some of its positions.

        Args:
            parameter: any of the model's.
            positions: row-major positions within it, (count,).
        """
        return parameter.initial(parameter.shape, positions, self._of(parameter.name))

    def other_parameters(self, parameters: Sequence[Parameter]) -> dict[str, NDArray[np.float64]]:
        """Draw the initial values of the parameters that are not sparse.

        Args:
            parameters: the parameters of the model, running statistics among them.

        Returns:
            float64 arrays by name, in the parameters' shapes.
        """
        return {parameter.name: self._whole(parameter) for parameter in parameters if not parameter.sparse}

    def fingerprint(self, parameters: Sequence[Parameter]) -> str:
        """Return a fingerprint of the initial values, of a few positions of each parameter.

        It tells whether another version of a model, or of the library, would draw the same values again.

        Args:
            parameters: the parameters of the model.

        Returns:
            The SHA-256 of names, shapes and values, 64 hexadecimal digits.
        """
        digest = hashlib.sha256()
        for parameter in parameters:
            positions = np.unique(np.linspace(0, math.prod(parameter.shape) - 1, _SAMPLED, dtype=np.int64))
            # the last digits of a logarithm or a cosine differ between processors
            values = " ".join(f"{value:.6e}" for value in self.values_at(parameter, positions))
            digest.update(f"{parameter.name} {parameter.shape} {values}\n".encode())
        return digest.hexdigest()

    def _whole(self, parameter: Parameter) -> NDArray[np.float64]:
        positions = np.arange(int(np.prod(parameter.shape)))
        return self.values_at(parameter, positions).reshape(parameter.shape)

    def _of(self, name: str) -> Randomness:
        return Randomness(self.seed).child(self.purpose, name)


@attrs.frozen(eq=False)
class StartValues:
    """The values of a warm start.

    Attributes:
        sparse: the values of the active positions, (N,).
        dense: the other parameters, by name, in their shapes.
        draws: the random values of all other positions; None where these have no value, as after training.
        epoch: the epochs that the values were trained with the run's own schedule, which continues from there.
    """

    sparse: NDArray[Any]
    dense: Mapping[str, NDArray[Any]]
    draws: RandomInitialization | None = None
    epoch: int = 0


@attrs.frozen
class _Facts:
    run: str
    identity: Mapping[str, str]
    draws: RandomInitialization | None
    epoch: int = attrs.field(validator=attrs.validators.ge(0))


@attrs.frozen(eq=False)
class WarmStart:
    """The topology and the values that a run starts with, where its seed does not draw both.

    Attributes:
        origin: the folder of another run, or the files, that they come from.
        identity: the fingerprints of that run or those files.
        positions: the active positions, ascending, on the host, (N,).
        values: the values.
        source: its name in errors: its file, if it was read from one.
    """

    origin: str
    identity: Mapping[str, str]
    positions: NDArray[np.integer]
    values: StartValues
    source: str = "the start"

    @classmethod
    def read(cls, path: Path) -> "WarmStart":
        """Read a warm start from a file.

        Raises:
            InputError: it is damaged.
        """
        kept = read_checkpoint(path)
        with blaming(kept):
            facts = structure(kept.facts, _Facts, "start")
            strange = {name for name in kept.arrays if not name.startswith("dense/")} - {"positions", "values"}
            if strange or not {"positions", "values"} <= kept.arrays.keys():
                raise InputError(f"it has the arrays {', '.join(sorted(kept.arrays))}")
            values = StartValues(kept.arrays["values"], kept.group("dense"), facts.draws, facts.epoch)
            return cls(facts.run, facts.identity, kept.arrays["positions"], values, kept.source)

    def check(self, layout: Layout, parameters: Sequence[Parameter]) -> None:
        """Check that a run of this network can start on it.

        Args:
            layout: of the sparse tensors.
            parameters: of the network.

        Raises:
            InputError: positions or values are not those of such a network, or are not finite.
        """
        try:
            check_values(self.positions, self.values.sparse, self.values.dense, layout)
            check_dense(parameters, self.values.dense)
        except InputError as error:
            raise InputError(f"{self.source} is damaged: {error}") from error

    def content(self) -> bytes:
        """The content of the file."""
        return self._kept({"run": self.origin}).content()

    def sha256(self) -> str:
        """A fingerprint of everything except the paths of the other run and the files."""
        return self._kept({}).sha256()

    def sparse_values(self, topology: Topology, parameters: Sequence[Parameter], run: Path) -> NDArray[Any]:
        """The values of another topology: those of the warm start, and at other positions those that are drawn.

        Args:
            topology: the active positions.
            parameters: the parameters, which have the distributions to draw from.
            run: the folder of the run that had this warm start, for errors.

        Raises:
            InputError: there are positions that have no such value.
        """
        positions = topology.arrays.to_numpy(topology.positions)
        known = np.isin(positions, self.positions)
        if self.values.draws is None:
            values = np.zeros(len(positions), self.values.sparse.dtype)
            check_all_known(known, "began, with trained values", run)
        else:
            values = self.values.draws.sparse_values(topology, parameters).astype(self.values.sparse.dtype)
        values[known] = self.values.sparse[np.searchsorted(self.positions, positions[known])]
        return values

    def all_values(self, topology: Topology, parameters: Sequence[Parameter], dtype: str) -> DenseValues:
        """Return the values of all positions by tensor, for strategies that ask for them.

        Args:
            topology: the active positions, which are those of the warm start.
            parameters: the parameters, which have the distributions to draw from.
            dtype: of the result, by NumPy's name.

        Returns:
            A function from a tensor's name to (D_i,) values on the topology's backend: those of the warm start, and at
            other positions those that are drawn, or zero where none are.
        """
        by_name = {parameter.name: parameter for parameter in parameters}

        def values(name: str) -> Array:
            size = topology.layout.sizes[topology.layout.index(name)]
            draws = self.values.draws
            whole = np.zeros(size) if draws is None else draws.values_at(by_name[name], np.arange(size))
            whole[topology.local(name)] = self.values.sparse[topology.slots(name)]
            return topology.arrays.from_numpy(whole.astype(dtype))

        return values

    def _kept(self, facts: Mapping[str, Any]) -> Checkpoint:
        draws = self.values.draws and attrs.asdict(self.values.draws)
        known = {**facts, "identity": dict(self.identity), "draws": draws, "epoch": self.values.epoch}
        dense = {f"dense/{name}": array for name, array in self.values.dense.items()}
        return Checkpoint(known, {"positions": self.positions, "values": self.values.sparse, **dense})


def check_all_known(known: NDArray[np.bool_], when: str, run: Path) -> None:
    """Check that all positions are known to have had a value.

    Args:
        known: for each active position whether it had a value, (N,).
        when: the end of the error's clause "were not there when the run ...".
        run: the folder of the run that the values come from.

    Raises:
        InputError: a position is not; the message says how many.
    """
    missing = int((~known).sum())
    if missing:
        raise InputError(
            f"{missing} of the {len(known)} weights to start with were not there when the run {run} {when}, and have "
            "no values of then"
        )
