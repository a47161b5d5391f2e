"""Sparse training in PyTorch Lightning: a callback for ``Trainer`` and for ``Fabric``."""

import math
from typing import Any, cast

from sparsecore.extras import require

require("lightning", extra="lightning", purpose="sparsecore_torch.lightning")

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    Callback,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from sparsecore.errors import InputError
from sparsecore_torch.sparse_training.averages import keep_average_sparse, sparse_avg_fn
from sparsecore_torch.sparse_training.managed import ManagedTrainings
from sparsecore_torch.sparse_training.training import SparseTraining as Training

_AVERAGES = (WeightAveraging, StochasticWeightAveraging)


class SparseTraining(Callback):  # type: ignore[misc]  # Lightning is not read by the type checker
    """Trains a LightningModule sparsely, from the first step of ``fit`` to the last.

    For ``Trainer(callbacks=[SparseTraining(strategy="dpr", sparsity=0.9)])``. After ``fit`` the module is a plain one
    with its zeros. Checkpoints hold the weights of a plain module, which loads them with or without this callback, and
    the training's state, from which ``fit(ckpt_path=...)`` continues bit for bit.

    With Fabric, call :meth:`begin` after ``fabric.setup``, and save this object among the others.

    Args:
        log: whether to log the number of updates and ``training.metrics()``, as ``sparse/sparsity`` and so on, through
            the Trainer's loggers; with several trainings as ``sparse0/sparsity`` and so on.
        options: keyword arguments of :func:`sparsecore_torch.sparsify`. The Trainer gives ``total_steps`` and
            ``steps_per_epoch`` where they are left out and it optimizes automatically.

    Raises:
        InputError: ``sparsify`` has no such argument.
    """

    def __init__(self, *, log: bool = False, **options: Any) -> None:
        super().__init__()
        self._log = log
        self._managed = ManagedTrainings(options)
        self._swa: list[StochasticWeightAveraging] = []

    @property
    def training(self) -> Training:
        """The training while there is exactly one.

        Raises:
            InputError: there is none, or there are several.
        """
        return self._managed.single

    @property
    def trainings(self) -> tuple[Training, ...]:
        """The trainings that are under way, one for each optimizer with sparse tensors."""
        return self._managed.trainings

    def begin(self, module: nn.Module, *optimizers: Any) -> None:
        """Begin sparse training by hand, for Fabric, with what ``fabric.setup`` has returned.

        Args:
            module: the model.
            optimizers: that train it.

        Raises:
            InputError: as in ``sparsify``.
        """
        self._managed.begin(module, optimizers, plain=False)

    def end(self) -> None:
        """End sparse training by hand, for Fabric: the model becomes a plain one with its zeros."""
        self._managed.end()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """End trainings that an exception has left under way, before a checkpoint is loaded."""
        self._managed.end()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the trainings, unless the Trainer has yet to load the state of the optimizers."""
        self._check_averages(trainer)
        if not trainer.ckpt_path:
            self._begin(trainer, pl_module)
            self._mask_averages(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the trainings of a checkpoint, whose optimizers have their state by now."""
        if not self._managed.trainings:
            self._begin(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what the trainings have come to, if that was asked for."""
        if not self._log:
            return
        for number, training in enumerate(self.trainings):
            name = "sparse" if len(self.trainings) == 1 else f"sparse{number}"
            metrics = {"updates": float(training.updates), **training.metrics()}
            pl_module.log_dict({f"{name}/{key}": number for key, number in metrics.items()})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the trainings; callbacks of averages write theirs into the plain module afterwards."""
        self._managed.end()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the trainings, for a checkpoint."""
        return self._managed.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the state of a checkpoint."""
        self._managed.load_state_dict(state_dict)

    def on_after_optimizer_step(self, strategy: Any, optimizer: Optimizer) -> None:
        """Check, where Fabric calls this, that training has become sparse.

        Raises:
            InputError: :meth:`begin` has not been called.
        """
        if not self.trainings:
            raise InputError(
                "Fabric has taken a step, and sparse training has not begun: call begin(module, optimizer) of this "
                "callback with what fabric.setup has returned"
            )

    def _begin(self, trainer: Trainer, module: LightningModule) -> None:
        total_steps, steps_per_epoch = _steps(trainer) if module.automatic_optimization else (None, None)
        self._managed.begin(
            module,
            trainer.optimizers,
            total_steps=total_steps,
            steps_per_epoch=steps_per_epoch,
            continues=not trainer.ckpt_path and trainer.global_step > 0,
        )

    def _check_averages(self, trainer: Trainer) -> None:
        """Check that averages can be taken, and keep them sparse."""
        callbacks = trainer.callbacks
        for place, callback in enumerate(callbacks):
            if not isinstance(callback, _AVERAGES):
                continue
            name = type(callback).__name__
            if self._managed.option("storage") == "compact":
                raise InputError(
                    f"{name} averages weights that move, which compact storage cannot; take storage='masked'"
                )
            if place < callbacks.index(self):
                raise InputError(
                    f"{name} stands before SparseTraining among the callbacks, and would write its average into a "
                    "model that is still trained sparsely; put SparseTraining first"
                )
            if isinstance(callback, WeightAveraging):
                keep_average_sparse(cast(AveragedModel, callback._average_model))
            elif callback not in self._swa:
                callback._avg_fn = sparse_avg_fn(callback._avg_fn)
                self._swa.append(callback)

    def _mask_averages(self, trainer: Trainer) -> None:
        """Make averages that were copied from the dense model as sparse as the model is now."""
        for callback in trainer.callbacks:
            if isinstance(callback, WeightAveraging):
                for training in self.trainings:
                    training.mask_(cast(AveragedModel, callback._average_model))


def _steps(trainer: Trainer) -> tuple[int | None, int | None]:
    """Return the optimizer steps of the run and of an epoch, as far as the Trainer knows them."""
    if any(isinstance(one, GradientAccumulationScheduler) for one in trainer.callbacks):
        return None, None  # the Trainer counts as if every epoch were like the first
    total, batches = trainer.estimated_stepping_batches, trainer.num_training_batches
    epoch = math.ceil(batches / trainer.accumulate_grad_batches) if math.isfinite(batches) else None
    return int(total) if math.isfinite(total) and total > 0 else None, epoch
