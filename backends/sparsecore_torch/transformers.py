"""Sparse training in the Trainer of transformers: a callback."""

import math
import os
from pathlib import Path
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

from sparsecore.extras import require

require("transformers", "accelerate", extra="transformers", purpose="sparsecore_torch.transformers")

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sparsecore.errors import InputError
from sparsecore_torch.sparse_training.managed import ManagedTrainings
from sparsecore_torch.sparse_training.model.parameters import unwrapped
from sparsecore_torch.sparse_training.training import SparseTraining as Training

STATE_FILE = "sparse_training.pt"
"""The file in each checkpoint's folder that holds the state of the sparse training."""

_UNDER_TRAINER: WeakKeyDictionary[nn.Module, ManagedTrainings] = WeakKeyDictionary()
"""The trainings of the models that a Trainer is training."""


class SparseTraining(TrainerCallback):  # type: ignore[misc]  # transformers is not read by the type checker
    """Trains a model sparsely, from the first step of ``Trainer.train`` to the last.

    For ``Trainer(..., callbacks=[SparseTraining(strategy="dpr", sparsity=0.9)])``. Each checkpoint's folder has the
    weights of a plain model, which ``from_pretrained`` loads, and in ``sparse_training.pt`` the training's state, from
    which ``train(resume_from_checkpoint=...)`` continues bit for bit. After ``train`` the model is a plain one with its
    zeros; with ``load_best_model_at_end`` those of the best checkpoint.

    Args:
        log: whether to add the number of updates and ``training.metrics()``, without the densities of single tensors,
            to what the Trainer logs, as ``sparse/sparsity`` and so on.
        options: keyword arguments of :func:`sparsecore_torch.sparsify`; the Trainer gives ``total_steps`` and
            ``steps_per_epoch`` where they are left out.

    Raises:
        InputError: ``sparsify`` has no such argument.
    """

    def __init__(self, *, log: bool = False, **options: Any) -> None:
        super().__init__()
        self._log = log
        self._managed = ManagedTrainings(options)

    @property
    def training(self) -> Training:
        """The training while it is under way.

        Raises:
            InputError: it is not.
        """
        return self._managed.single

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        optimizer: Any,
        train_dataloader: Any = None,
        **others: Any,
    ) -> None:
        """Begin the training, after the Trainer has loaded model and optimizer.

        Raises:
            InputError: as in ``sparsify``, or there is no state of a training for the checkpoint.
        """
        if state.global_step > 0:
            self._managed.load_state_dict(_saved_state(args, state))
        self._managed.begin(
            model,
            [optimizer],
            total_steps=int(state.max_steps) if state.max_steps > 0 else None,
            steps_per_epoch=_steps_per_epoch(args, train_dataloader),
            continues=False,
        )
        _UNDER_TRAINER[unwrapped(model)] = self._managed
        unwrapped(model).load_state_dict = MethodType(load_state_dict, unwrapped(model))  # type: ignore[method-assign]

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        logs: dict[str, Any] | None = None,
        **others: Any,
    ) -> None:
        """Add what the training has come to, if that was asked for, for later callbacks and the Trainer's history."""
        if self._log and self._managed.trainings and logs is not None:
            metrics = {"updates": float(self.training.updates), **self.training.metrics()}
            ours = {f"sparse/{key}": number for key, number in metrics.items() if not key.startswith("density/")}
            for record in (logs, state.log_history[-1]):
                record.update(ours)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Write the training's state into the folder of the checkpoint.

        Raises:
            InputError: the folder is not where the Trainer writes it by default, as in a search of hyperparameters.
        """
        if not args.should_save:
            return
        folder = _folder(args, state)
        if not folder.is_dir():
            raise InputError(f"the Trainer has saved a checkpoint, but not in {folder}, where its state would belong")
        unfinished = folder / f"{STATE_FILE}.unfinished"
        torch.save(self._managed.state_dict(), unfinished)
        unfinished.replace(folder / STATE_FILE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """End the training, unless it has ended as the Trainer loaded the best checkpoint."""
        self._managed.end()
        for model in [model for model, managed in _UNDER_TRAINER.items() if managed is self._managed]:
            _release(model)


def load_state_dict(model: nn.Module, *arguments: Any, **options: Any) -> Any:
    """Load weights into a model under a Trainer, which ends the training: a method while it is under way.

    The Trainer loads weights when training is over, those of the best checkpoint, which are active elsewhere. It is
    called like the model's own method, so that copies of the model have that one.
    """
    managed = _UNDER_TRAINER.get(model)
    if managed is not None:
        managed.end()
        _release(model)
    return type(model).load_state_dict(model, *arguments, **options)


def _release(model: nn.Module) -> None:
    _UNDER_TRAINER.pop(model, None)
    vars(model).pop("load_state_dict", None)


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir, f"checkpoint-{state.global_step}")


def _saved_state(args: TrainingArguments, state: TrainerState) -> dict[str, Any]:
    """Return the state of the training that was saved with the checkpoint that the Trainer resumes from."""
    given = args.resume_from_checkpoint
    folders = [*([Path(given)] if isinstance(given, str | os.PathLike) else []), _folder(args, state)]
    for folder in folders:
        if (folder / STATE_FILE).is_file():
            saved: dict[str, Any] = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
            return saved
    raise InputError(
        f"the Trainer resumes at step {state.global_step}, and there is no {STATE_FILE} in "
        f"{' nor in '.join(map(str, folders))}; give the checkpoint's folder to TrainingArguments, too, as "
        "resume_from_checkpoint, if it is elsewhere"
    )


def _steps_per_epoch(args: TrainingArguments, loader: Any) -> int | None:
    """Return the optimizer steps of an epoch; None for data without a length."""
    try:
        batches: int = len(loader)
    except TypeError:
        return None
    accumulated: int = args.gradient_accumulation_steps
    return max(1, math.ceil(batches / accumulated))
