"""Checkpoints: the state of a run in one safetensors file, enough to resume bit for bit.

A digest over the whole content detects damaged files; fingerprints of experiment and data detect foreign ones.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from numpy.typing import NDArray

from sparsecore.engine.state import State, dump_strategy_state, load_strategy_state
from sparsecore.errors import InputError
from sparsecore.experiment.conversion import structure
from sparsecore.formats import CHECKPOINT, KEY
from sparsecore.learning.protocols import Learner
from sparsecore.run.files import LogState, check_regular, write_whole
from sparsecore.run.sealed_files import (
    ENTRY,
    HostArrays,
    checksum,
    read_entry,
    sealed_content,
    unsealed_facts,
)


@attrs.frozen
class _Logs:
    metrics: LogState
    reallocations: LogState


@attrs.frozen(eq=False)
class Checkpoint:
    """The state of a run, on the host.

    Attributes:
        facts: scalars that JSON can represent: fingerprints, clock, strategy states, lengths of the logs.
        arrays: positions, the learner's buffers, the dense parameters and the strategy states' vectors, by name. The
            dense parameters are also in the learner's buffers; here they have their own names, for other backends.
        source: its name in errors: its file, if it was read from one.
    """

    facts: Mapping[str, Any]
    arrays: HostArrays
    source: str = "the checkpoint"

    def group(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The arrays whose names begin with ``prefix/``.

        Args:
            prefix: 'learner', 'dense', or 'memory/' and a plugin's name.

        Returns:
            The arrays themselves, by the rest of their names; empty if there are none.
        """
        start = f"{prefix}/"
        return {name.removeprefix(start): array for name, array in self.arrays.items() if name.startswith(start)}

    def write(self, path: Path) -> None:
        """Write the file atomically: the one before it stays whole until this one is.

        Args:
            path: the file, which is replaced if it exists.

        Raises:
            OSError: it cannot be written.
            ValueError: a fact is NaN or infinite, which JSON has no numbers for.
        """
        write_whole(path, self.content())

    def content(self) -> bytes:
        """The content of the file, in the safetensors format."""
        return sealed_content(CHECKPOINT, self._facts(), self.arrays)

    def sha256(self) -> str:
        """The SHA-256 of facts and arrays."""
        return checksum(self._facts(), self.arrays)

    def _facts(self) -> str:
        return json.dumps(self.facts, sort_keys=True, allow_nan=False)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint from a file.

    Raises:
        InputError: it is damaged, or no checkpoint of a version that is read.
    """
    source = f"the checkpoint {path}"
    check_regular(path, source)
    entry, arrays = read_entry(path, source)
    CHECKPOINT.check(entry.get(KEY), source)
    facts = unsealed_facts(entry, arrays, source)
    try:
        json.dumps(facts, allow_nan=False)
    except ValueError as error:  # Python reads numbers that JSON does not have
        raise InputError(f"{source} is damaged: a fact is NaN or infinite") from error
    return Checkpoint(facts, arrays, source)


def read_arrays(path: Path, what: str) -> dict[str, NDArray[Any]]:
    """Read the arrays of a safetensors file that no run has written.

    Args:
        path: the file.
        what: what it has, for errors, such as 'the weights to start with'.

    Returns:
        The arrays by name.

    Raises:
        InputError: it is no such file, is damaged, or has a dtype that NumPy does not have, such as bfloat16.
    """
    from safetensors.numpy import load_file

    source = f"the file {path} with {what}"
    check_regular(path, source)
    try:
        return load_file(path)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # of safetensors or NumPy
        raise InputError(
            f"{source} cannot be read: {type(error).__name__} {error}; expected a safetensors file, of the dtypes that "
            "NumPy has (so not bfloat16)"
        ) from error


def facts_in(path: Path) -> Mapping[str, Any]:
    """Read only the facts of a checkpoint, not its arrays.

    Returns:
        The facts; an empty mapping if there is no checkpoint or it cannot be read.
    """
    from safetensors import safe_open

    try:
        check_regular(path, str(path))
        with safe_open(path, framework="numpy") as file:
            found = json.loads(json.loads((file.metadata() or {})[ENTRY])["facts"])
    except Exception:  # of safetensors or JSON; a caller that needs the checkpoint reads all of it
        return {}
    return found if isinstance(found, dict) else {}


def logs_of(checkpoint: Checkpoint) -> dict[str, LogState]:
    """The states of the run's logs when the checkpoint was made, by name.

    Raises:
        InputError: the checkpoint has none, or its entries are not valid.
    """
    logs = structure(checkpoint.facts.get("logs", {}), _Logs, "logs")
    return {"metrics": logs.metrics, "reallocations": logs.reallocations}


def to_checkpoint(state: State, learner: Learner, facts: Mapping[str, Any]) -> Checkpoint:
    """Make a checkpoint.

    Args:
        state: the engine's state.
        learner: the network in training.
        facts: further facts.
    """
    arrays = state.topology.arrays
    buffers = {"positions": arrays.to_numpy(state.topology.positions)}
    buffers |= {f"learner/{name}": array for name, array in learner.state().items()}
    buffers |= {f"dense/{name}": array for name, array in learner.other_parameters().items()}
    strategy_states = {}
    for plugin, strategy_state in state.strategy_states.items():
        strategy_states[plugin], vectors = dump_strategy_state(strategy_state, arrays)
        buffers |= {f"memory/{plugin}/{name}": array for name, array in vectors.items()}
    clock = {"step": state.clock.step, "updates": state.clock.updates}
    return Checkpoint({**facts, "clock": clock, "memories": strategy_states}, buffers)


def from_checkpoint(checkpoint: Checkpoint, start: State, learner: Learner) -> State:
    """Restore the state that a checkpoint saved.

    Args:
        checkpoint: a checkpoint of the same experiment.
        start: the state before the first step, for the layout and the types of the strategy states.
        learner: its buffers are replaced by the saved ones.

    Returns:
        The engine's state.

    Raises:
        InputError: the checkpoint has the states of other strategies.
    """
    arrays = start.topology.arrays
    if set(checkpoint.facts["memories"]) != set(start.strategy_states):
        known, saved = (
            ", ".join(sorted(names)) or "none" for names in (start.strategy_states, checkpoint.facts["memories"])
        )
        raise InputError(f"the checkpoint has strategy states of {saved}; the strategies have states of {known}")
    topology = start.topology.at(arrays.from_numpy(checkpoint.arrays["positions"]))
    strategy_states = {
        plugin: load_strategy_state(
            start.strategy_states[plugin], scalars, checkpoint.group(f"memory/{plugin}"), arrays
        )
        for plugin, scalars in checkpoint.facts["memories"].items()
    }
    learner.load_state(topology, checkpoint.group("learner"))
    return State(topology, strategy_states, attrs.evolve(start.clock, **checkpoint.facts["clock"]))
