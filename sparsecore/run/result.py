"""What a finished run comes to."""

import json
from collections.abc import Mapping

import attrs

from sparsecore.experiment.assembly import experiment_fingerprint
from sparsecore.learning.ledger import Bytes
from sparsecore.run.files import write_whole
from sparsecore.run.folder import RunFolder
from sparsecore.run.setup import Setup
from sparsecore.run.training import Finished


@attrs.frozen
class Result:
    """The numbers of a finished run.

    Attributes:
        test_accuracy: share of test images classified correctly after the last epoch, 0..1.
        test_loss: mean cross-entropy over the test images, in nats.
        train_accuracy: the same over the last epoch's augmented training images, while learning.
        train_loss: likewise.
        sparse_parameters: N, the active weights of the sparse tensors.
        dense_parameters: trained parameters outside the sparse tensors.
        sparsity: 1 - N/D.
        reallocations: updates that were made.
        topology_sha256: fingerprint of layout and positions.
        epochs: passes over the training images; with those before the values that a rewound run starts with.
        steps: optimizer steps, likewise.
        memory: bytes of the trained parameters, sparse and dense, by what they are: values, indices, gradients,
            optimizer_state, and the total; activations are not among them.
        seconds: wall time of training, evaluation and checkpoints, over all goes.
        run: the run's folder.
        experiment_sha256: fingerprint of the experiment, as its checkpoint has it.
    """

    test_accuracy: float
    test_loss: float
    train_accuracy: float
    train_loss: float
    sparse_parameters: int
    dense_parameters: int
    sparsity: float
    reallocations: int
    topology_sha256: str
    epochs: int
    steps: int
    memory: Mapping[str, Bytes]
    seconds: float
    run: str
    experiment_sha256: str


def conclude(setup: Setup, finished: Finished, folder: RunFolder) -> Result:
    """The result, also written into the folder."""
    state, last = finished.state, finished.last
    result = Result(
        test_accuracy=last.test_accuracy,
        test_loss=last.test_loss,
        train_accuracy=last.train_accuracy,
        train_loss=last.train_loss,
        sparse_parameters=state.topology.size,
        dense_parameters=setup.dense_size,
        sparsity=state.topology.sparsity,
        reallocations=state.clock.updates,
        topology_sha256=state.topology.sha256(),
        epochs=last.epoch,
        steps=state.clock.step,
        memory=finished.memory,
        seconds=round(finished.seconds, 3),
        run=str(folder.path.resolve()),
        experiment_sha256=experiment_fingerprint(setup.experiment.tables()),
    )
    write_whole(folder.result, json.dumps(attrs.asdict(result), indent=1).encode() + b"\n")
    return result
