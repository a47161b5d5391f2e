"""The training loop: one for every model, strategy and backend, and for every rank."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from sparsecore.data.batches import batches
from sparsecore.data.images import Batch
from sparsecore.engine.arrays import Array
from sparsecore.engine.schedules import Clock
from sparsecore.engine.state import State
from sparsecore.errors import DivergedError, InputError
from sparsecore.experiment.assembly import experiment_fingerprint
from sparsecore.learning.flops import StepSums
from sparsecore.learning.gradients import backward
from sparsecore.learning.ledger import Bytes
from sparsecore.learning.protocols import Learner, Totals
from sparsecore.learning.ranks import Ranks
from sparsecore.run.checkpoint import Checkpoint, from_checkpoint, to_checkpoint
from sparsecore.run.checkpoint_validation import blaming, check_fits, check_totals
from sparsecore.run.files import write_whole
from sparsecore.run.flops import flops_of
from sparsecore.run.folder import RunFolder
from sparsecore.run.identity import machine
from sparsecore.run.initialization import INITIAL_VALUES, RandomInitialization
from sparsecore.run.logs import Effort, Metrics, Result, epoch_metrics, record_content
from sparsecore.run.recording import RunWriter
from sparsecore.run.setup import Setup
from sparsecore.run.silent_weights import ViewedLearner


class Callback:
    """Training callback: called while a run trains; each method does nothing by default."""

    def step(self, clock: Clock, totals: Callable[[], Totals]) -> None:
        """Called after each optimizer step and what follows it.

        Args:
            clock: the time after the step.
            totals: reads the totals of the epoch so far, which may wait for the device.
        """

    def update(self, pruned: int, metrics: Mapping[str, float]) -> None:
        """Called after each update of the topology.

        Args:
            pruned: K, the number of weights that were pruned.
            metrics: those that the strategies reported before it, by the names of strategy and metric.
        """

    def epoch(self, line: Metrics) -> None:
        """Called at the end of each epoch.

        Args:
            line: its metrics: losses in nats per image, accuracies in 0..1.
        """


@attrs.frozen(eq=False)
class Finished:
    """A finished run.

    Attributes:
        state: the state after the last step.
        last: the metrics of the last epoch.
        seconds: the wall time of all sessions.
        memory: bytes of the trained parameters by kind, on this rank.
        sums: over all steps, of which the operations follow; None where they are not known.
    """

    state: State
    last: Metrics
    seconds: float
    memory: Mapping[str, Bytes]
    sums: StepSums | None


class Run:
    """A run in progress: the state of the engine and the learner."""

    def __init__(
        self,
        setup: Setup,
        ranks: Ranks,
        identity: Mapping[str, str],
        checkpoint: Checkpoint | None,
        before: Effort = Effort(),
    ) -> None:
        """Resume the run from its checkpoint, or begin it.

        Args:
            setup: the parts of the run that do not change.
            ranks: the processes that train together.
            identity: the fingerprints of the run, which its checkpoints keep.
            checkpoint: the checkpoint to resume from; None for a run that begins.
            before: the effort up to the checkpoint.

        Raises:
            InputError: the checkpoint does not fit the experiment.
        """
        self._setup, self._ranks, self._identity = setup, ranks, identity
        self._state = setup.start
        # a checkpoint of another version began with the values of that one
        self._initial_values = (
            RandomInitialization(setup.experiment.seed).fingerprint(setup.parameters)
            if checkpoint is None
            else checkpoint.facts.get(INITIAL_VALUES)
        )
        self._learner: Learner = setup.learner()
        self._viewed: ViewedLearner | None = None
        changing = setup.engine.gradient_perturbers
        if changing and not hasattr(self._learner, "set_weight_gradient"):
            raise InputError(
                f"the strategy {changing[0]!r} changes the gradient before the optimizer's step, "
                f"and the backend {setup.experiment.backend.name!r} has no weight_gradient that it could change"
            )
        if setup.engine.has_silent_weights:
            arrays, engine = setup.engine.arrays, setup.engine
            self._viewed = ViewedLearner(self._learner, arrays, lambda: engine.visible_weights(self._state))
            self._learner = self._viewed
        self._last: Metrics | None = None
        self._sums: StepSums | None = StepSums.none(len(self._state.topology.layout))
        if checkpoint is not None:
            with blaming(checkpoint):
                self._resume(checkpoint)
        self._memory = before.memory
        self._started = time.monotonic() - before.seconds

    def _resume(self, checkpoint: Checkpoint) -> None:
        check_fits(checkpoint, self._state, self._setup.engine, self._learner)
        self._state = from_checkpoint(checkpoint, self._state, self._learner)
        check_totals(self._learner, len(self._setup.images.train))
        steps = self._state.clock.step - self._setup.start.clock.step
        tensors, has_silent = len(self._state.topology.layout), self._viewed is not None
        self._sums = StepSums.load(checkpoint.facts.get("sums"), tensors, steps, has_silent=has_silent)
        last = checkpoint.facts["last"]
        self._last = Metrics(**last) if last else None

    @property
    def state(self) -> State:
        """The state of the engine now."""
        return self._state

    def facts(self) -> dict[str, str]:
        """Facts that must be the same on all ranks, by name."""
        clock, topology = self._state.clock, self._state.topology
        return {**self._identity, "steps that are done": str(clock.step), "topology": topology.sha256()}

    def train(self, writer: RunWriter, callback: Callback) -> Finished:
        """Train to the end.

        Args:
            writer: writes the files of the run.
            callback: called after steps, updates and epochs.

        Raises:
            DivergedError: a loss or a weight is no longer finite.
            InvariantError: a plugin broke a promise.
            DisagreementError: the ranks have come to different results.
        """
        try:
            while not self._state.clock.has_ended:
                self._epoch(writer, callback)
        finally:
            writer.close()
        if self._last is None:
            raise InputError("the checkpoint is at the run's last step, and has no metrics of any epoch")
        # a run that was resumed at its end has not trained in this process; its memory was measured before
        return Finished(
            self._state, self._last, self._seconds(), self._memory or self._learner.memory().parts, self._sums
        )

    def _epoch(self, writer: RunWriter, callback: Callback) -> None:
        setup, training = self._setup, self._setup.experiment.training
        epoch, start = divmod(self._state.clock.step, setup.start.clock.steps_per_epoch)
        plan = batches(
            setup.engine.random, epoch, len(setup.images.train), training.batch_size, setup.augmentation, start
        )
        learning_rate = training.learning_rate(self._state.clock)
        # a learner that reads images from files begins to load them before they are asked for
        upcoming = getattr(self._learner, "upcoming", iter)
        for batch in upcoming(plan):
            learning_rate = training.learning_rate(self._state.clock)
            self._step(batch, learning_rate, writer, callback)
            agrees = self._ranks.compare(self._state.clock, self._values)
            callback.step(self._state.clock, self._learner.totals)
            if agrees and writer.wants_checkpoint and not self._is_epoch_over():
                writer.save(self._checkpoint, self._effort())
        self._end_epoch(learning_rate, writer, callback)

    def _is_epoch_over(self) -> bool:
        # a checkpoint between the last step and the epoch's metrics would lose their line
        return self._state.clock.step % self._setup.start.clock.steps_per_epoch == 0

    def _step(self, batch: Batch, learning_rate: float, writer: RunWriter, callback: Callback) -> None:
        """Take an optimizer step, unless an update takes its place, and do what follows it."""
        engine, learner, before = self._setup.engine, self._learner, self._state
        plan = engine.plan(before)
        if self._sums is not None:
            self._sums = self._sums.after(
                before.topology.counts,
                dense_gradient=plan.wants_gradient,
                candidates=None if plan.candidates is None else plan.candidates.counts,
                silent=None if self._viewed is None else before.topology.counts - self._viewed.visible.counts,
            )
        gradients = backward(learner, batch, plan)
        if plan.perturbs_gradient:
            perturbed = engine.perturbed_gradient(before, learner.values, learner.weight_gradient)
            learner.set_weight_gradient(perturbed)
        if not plan.replaces_step:
            learner.optimizer_step(learning_rate)
        values, momentum = learner.values, getattr(learner, "momentum", None)
        advance = self._ranks.together(
            lambda: engine.advance(
                before,
                values,
                learning_rate,
                gradients.dense,
                plan=plan,
                weight_gradient=gradients.of_weights,
                candidate_gradient=gradients.of_candidates,
                momentum=momentum,
                input_norms=gradients.input_norms,
            )
        )
        self._state = advance.state
        if advance.reallocation is not None:
            learner.reallocate(advance.reallocation)
            metrics = engine.metrics(plan.next_state)
            writer.update(advance.reallocation, advance.state.clock, metrics)
            callback.update(advance.reallocation.pruned_count, metrics)
        elif advance.values is not values:
            learner.set_values(advance.values)

    def _values(self) -> dict[str, Array]:
        """The values that must be the same on all ranks, by name."""
        topology, values = self._state.topology, self._learner.values
        sparse = {name: values[topology.slots(name)] for name in topology.layout.names}
        parameters = {
            f"the values of {name!r}": each for name, each in {**sparse, **self._learner.other_parameters()}.items()
        }
        return {"the positions": topology.positions, **parameters}

    def _end_epoch(self, learning_rate: float, writer: RunWriter, callback: Callback) -> None:
        train, test = self._learner.totals(), self._learner.evaluate(self._setup.images.test)
        line = epoch_metrics(self._state.clock, learning_rate, train, test)
        _check_finite(line)
        self._learner.reset_totals()
        self._last = line
        writer.epoch(line)
        if line.epoch in self._setup.experiment.keep.epochs:
            writer.keep(line.epoch, self._checkpoint)
        writer.save(self._checkpoint, self._effort())
        callback.epoch(line)

    def _checkpoint(self, facts: Mapping[str, Any]) -> Checkpoint:
        last = None if self._last is None else attrs.asdict(self._last)
        sums = None if self._sums is None else self._sums.dump()
        own = {**self._identity, INITIAL_VALUES: self._initial_values, "last": last, "sums": sums}
        return to_checkpoint(self._state, self._learner, {**own, **facts})

    def _effort(self) -> Effort:
        self._memory = self._learner.memory().parts
        return Effort(self._seconds(), machine(), self._memory)

    def _seconds(self) -> float:
        return time.monotonic() - self._started


def conclude(setup: Setup, finished: Finished, folder: RunFolder) -> Result:
    """Write the result of a finished run into its folder, and return it.

    Args:
        setup: the parts of the run that do not change.
        finished: the state and the metrics at its end.
        folder: the run's folder.

    Raises:
        OSError: the file cannot be written.
    """
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
        flops=flops_of(setup, state, finished.sums),
        seconds=round(finished.seconds, 3),
        run=str(folder.path.resolve()),
        experiment_sha256=experiment_fingerprint(folder.read_tables()),
    )
    write_whole(folder.result, record_content(result, indent=1))
    return result


def _check_finite(line: Metrics) -> None:
    for name in ("train_loss", "test_loss"):
        value = getattr(line, name)
        if not abs(value) < float("inf"):
            raise DivergedError(
                f"training has diverged: in epoch {line.epoch} the {name.replace('_', ' ')} is {value}; "
                "a lower learning rate may help"
            )
