"""What a run starts on that starts from another one: positions, values, dense parameters.

A run keeps it in its own folder. So it goes on from there, whatever becomes of the run that it was taken from.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.randomness import Randomness
from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError
from sparsecore.experiment.conversion import structure
from sparsecore.learning.parameters import Parameter
from sparsecore.run.checkpoint import Checkpoint, read_checkpoint
from sparsecore.run.checkpoint_validation import blaming, check_dense, check_values


@attrs.frozen
class RandomInitialization:
    """Where initial values come from.

    Attributes:
        seed: of the run that drew them first.
        purpose: what they were drawn for; draws of two purposes have nothing in common.
    """

    seed: int
    purpose: str = "initial values"

    def sparse(self, topology: Topology, parameters: Sequence[Parameter]) -> NDArray[np.float64]:
        """The value of every active position."""
        sparse: Mapping[str, Parameter] = {parameter.name: parameter for parameter in parameters if parameter.sparse}
        return np.concatenate(
            [
                sparse[name].initial(sparse[name].shape, topology.local(name), self._of(name))
                for name in topology.layout.names
            ]
        )

    def dense(self, parameters: Sequence[Parameter]) -> dict[str, NDArray[np.float64]]:
        """The other parameters, by name, in their shapes."""
        return {parameter.name: self._whole(parameter) for parameter in parameters if not parameter.sparse}

    def _whole(self, parameter: Parameter) -> NDArray[np.float64]:
        positions = np.arange(int(np.prod(parameter.shape)))
        return parameter.initial(parameter.shape, positions, self._of(parameter.name)).reshape(parameter.shape)

    def _of(self, name: str) -> Randomness:
        return Randomness(self.seed).child(self.purpose, name)


@attrs.frozen(eq=False)
class StartValues:
    """Values before the first step.

    Attributes:
        sparse: one a weight.
        dense: the other parameters, by name, in their shapes.
        draws: where the value of any other position comes from; None where there is no such value, as after training.
        epoch: how many epochs the values have been trained with the run's own schedule, which goes on from there.
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
    """What a run starts on.

    Attributes:
        run: the folder of the run that it was taken from.
        identity: that run's fingerprints.
        positions: the active positions, ascending, on the host.
        values: at these positions.
        source: what errors call it: its file, where it was read from one.
    """

    run: str
    identity: Mapping[str, str]
    positions: NDArray[np.integer]
    values: StartValues
    source: str = "the start"

    @classmethod
    def read(cls, path: Path) -> "WarmStart":
        """The start in the file.

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
        """Raise an :class:`InputError` unless a run of this network can start on it.

        Args:
            layout: of the sparse tensors.
            parameters: of the network.
        """
        try:
            check_values(self.positions, self.values.sparse, self.values.dense, layout)
            check_dense(parameters, self.values.dense)
        except InputError as error:
            raise InputError(f"{self.source} is damaged: {error}") from error

    def content(self) -> bytes:
        """The content of the file."""
        return self._kept({"run": self.run}).content()

    def sha256(self) -> str:
        """A fingerprint of all but the place of the run that it was taken from."""
        return self._kept({}).sha256()

    def sparse(self, topology: Topology, parameters: Sequence[Parameter], run: Path) -> NDArray[Any]:
        """The values of a topology: those of the start, and where it had none, those that would have been drawn.

        Args:
            topology: the active positions.
            parameters: with the distributions to draw from.
            run: that started on this, for errors.

        Raises:
            InputError: there are positions that have no such value.
        """
        positions = topology.arrays.to_numpy(topology.positions)
        known = np.isin(positions, self.positions)
        if self.values.draws is None:
            values = np.zeros(len(positions), self.values.sparse.dtype)
            check_all_known(known, "began, with trained values", run)
        else:
            values = self.values.draws.sparse(topology, parameters).astype(self.values.sparse.dtype)
        values[known] = self.values.sparse[np.searchsorted(self.positions, positions[known])]
        return values

    def _kept(self, facts: Mapping[str, Any]) -> Checkpoint:
        draws = self.values.draws and attrs.asdict(self.values.draws)
        known = {**facts, "identity": dict(self.identity), "draws": draws, "epoch": self.values.epoch}
        dense = {f"dense/{name}": array for name, array in self.values.dense.items()}
        return Checkpoint(known, {"positions": self.positions, "values": self.values.sparse, **dense})


def check_all_known(known: NDArray[np.bool_], when: str, run: Path) -> None:
    """Raise an :class:`InputError` if a position is not known to have had a value."""
    missing = int((~known).sum())
    if missing:
        raise InputError(
            f"{missing} of the {len(known)} weights to start with were not there when the run {run} {when}, and have "
            "no values of then"
        )
