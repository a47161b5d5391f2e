"""Runs of the Trainer of transformers with sparse training, each of which returns what a test looks at.

transformers imports torchvision where it is installed, whose operators cannot be loaded beside a PyTorch for the CPU
alone; the module that registers them is replaced by an empty one, as nothing here uses it.
"""

import os
import sys
import types
from pathlib import Path
from typing import Any

sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
os.environ["HF_HUB_OFFLINE"] = "1"
IS_ALONE = os.environ.get("WORLD_SIZE") == "1"
for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if IS_ALONE else ():
    os.environ.pop(name, None)

import torch
from processes import apart, sentence_of
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from sparsecore.strategy import Every
from sparsecore_strategies.set import SparseEvolution
from sparsecore_torch.transformers import STATE_FILE, SparseTraining

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
OPTIONS = {"strategy": SparseEvolution(schedule=Every(steps=3)), "sparsity": 0.8}
RUNS: dict[str, dict[str, Any]] = {
    "masked": {"storage": "masked"},
    "compact": {"storage": "compact", "bf16": True, "gradient_accumulation_steps": 2},
}
"""Storages and arguments of the Trainer that are trained, stopped and resumed."""


def config() -> BertConfig:
    return BertConfig(**SIZES, max_position_embeddings=16)


def classifier() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(config())


def examples() -> list[dict[str, Any]]:
    """Sequences whose class is whether the first half has more small codes than the second."""
    codes = torch.randint(0, 40, (64, 12), generator=torch.Generator().manual_seed(0))
    labels = ((codes[:, :6] < 20).sum(1) > (codes[:, 6:] < 20).sum(1)).long()
    return [{"input_ids": one, "labels": label} for one, label in zip(codes, labels, strict=True)]


def arguments(folder: str, **options: Any) -> TrainingArguments:
    quiet = {"report_to": [], "disable_tqdm": True, "logging_strategy": "no", "use_cpu": True, "log_level": "error"}
    own = {"num_train_epochs": 3, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "save_strategy": "epoch"}
    return TrainingArguments(folder, **{**quiet, **own, **options})


def values(model: nn.Module) -> list[float]:
    return [float(number) for parameter in model.parameters() for number in parameter.detach().reshape(-1)]


def density(model: Any) -> float:
    """Return the share of the weights in the first layer's feed-forward network that are not zero."""
    layer = model.bert.encoder.layer[0]
    weights = torch.cat([one.dense.weight.detach().reshape(-1) for one in (layer.intermediate, layer.output)])
    return float((weights != 0).float().mean())


def trainer(name: str, folder: str, **options: Any) -> tuple[Trainer, SparseTraining]:
    given = dict(RUNS[name])
    sparse = SparseTraining(**OPTIONS, storage=given.pop("storage"), log=True)
    args = arguments(folder, **{**given, **options})
    return Trainer(classifier(), args, train_dataset=examples(), eval_dataset=examples(), callbacks=[sparse]), sparse


def resumed(folder: str) -> dict[str, Any]:
    """Resume all runs after their second epoch; the weights at the end."""
    answer = {}
    for name in RUNS:
        steps = sorted(int(path.name.removeprefix("checkpoint-")) for path in Path(folder, name).glob("checkpoint-*"))
        second = Path(folder, name, f"checkpoint-{steps[1]}")
        runner, _ = trainer(name, f"{folder}/{name}-resumed", resume_from_checkpoint=str(second))
        runner.train(resume_from_checkpoint=str(second))
        answer[name] = values(runner.model)
    return answer


class Reading(TrainerCallback):
    """Reads every checkpoint as soon as it is written."""

    def __init__(self) -> None:
        self.models: dict[int, Any] = {}

    def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        self.models[state.global_step] = BertForSequenceClassification.from_pretrained(folder)


def whole(name: str, folder: str) -> dict[str, Any]:
    """Train without a stop, and look at the model and at its checkpoints."""
    runner, _ = trainer(name, f"{folder}/{name}", logging_strategy="epoch")
    reading = Reading()
    runner.add_callback(reading)
    runner.train()
    last = max(reading.models)
    return {
        "values": values(runner.model),
        "density": [density(model) for model in (runner.model, *reading.models.values())],
        "last is the model": values(reading.models[last]) == values(runner.model),
        "files": sorted(path.name for path in Path(folder, name, f"checkpoint-{last}").iterdir()),
        "logged": runner.state.log_history[0],
        "losses": [record["loss"] for record in runner.state.log_history if "loss" in record],
    }


def with_kernels(folder: str) -> dict[str, Any]:
    """As :func:`best`, with sparse kernels."""
    return best(folder, {"kernels": {"kernels": "sparse"}})


def best(folder: str, ways: Any = None) -> dict[str, Any]:
    """Train on for worse, and load the best checkpoint at the end, with every storage."""
    answer = {}
    for name, options in (ways or {"masked": {}, "compact": {"storage": "compact"}}).items():
        args = arguments(
            f"{folder}/{name}",
            num_train_epochs=5,
            learning_rate=0.3,
            eval_strategy="epoch",
            load_best_model_at_end=True,
            save_total_limit=2,
        )
        sparse = SparseTraining(**OPTIONS, **options)
        callbacks = [sparse, EarlyStoppingCallback(1)]
        runner = Trainer(classifier(), args, train_dataset=examples(), eval_dataset=examples(), callbacks=callbacks)
        runner.train()
        loaded = BertForSequenceClassification.from_pretrained(runner.state.best_model_checkpoint)
        runner.save_model(f"{folder}/{name}/final")
        final = BertForSequenceClassification.from_pretrained(f"{folder}/{name}/final")
        answer[name] = {
            "steps": [runner.state.best_global_step, runner.state.global_step],
            "is the best": values(loaded) == values(runner.model) == values(final),
            "density": density(runner.model),
            "loss": [runner.evaluate()["eval_loss"], runner.state.best_metric],
            "is plain": type(runner.model.bert.pooler.dense).__name__ == "Linear"
            and "load_state_dict" not in vars(runner.model),
        }
    return answer


def tied(folder: str) -> dict[str, Any]:
    """A language model whose embedding and head are one sparse tensor, in every storage."""
    answer = {}
    for storage in ("masked", "compact"):
        torch.manual_seed(0)
        model = BertForMaskedLM(config())
        data = [{"input_ids": one["input_ids"], "labels": one["input_ids"]} for one in examples()]
        sparse = SparseTraining(**OPTIONS, storage=storage, include="*word_embeddings.weight")
        args = arguments(f"{folder}/{storage}", num_train_epochs=1)
        Trainer(model, args, train_dataset=data, callbacks=[sparse]).train()
        (checkpoint,) = Path(folder, storage).glob("checkpoint-*")
        loaded = BertForMaskedLM.from_pretrained(checkpoint)
        weights = [one.get_output_embeddings().weight for one in (model, loaded)]
        answer[storage] = [
            values(model) == values(loaded),
            all(one.get_input_embeddings().weight is one.get_output_embeddings().weight for one in (model, loaded)),
            float((weights[1] != 0).float().mean()),
        ]
    return answer


def again(folder: str) -> dict[str, Any]:
    """Train a second time, on the same active weights; and resume from foreign folders."""
    runner, sparse = trainer("masked", folder)
    runner.train()
    first = density(runner.model)
    runner.train()
    answer: dict[str, Any] = {"density": [first, density(runner.model)]}
    checkpoint = Path(folder, "checkpoint-8")
    (checkpoint / STATE_FILE).rename(checkpoint / "elsewhere")
    answer["missing"] = sentence_of(lambda: trainer("masked", folder)[0].train(str(checkpoint)))
    other = Path(folder, "checkpoint-24", STATE_FILE)
    (checkpoint / STATE_FILE).write_bytes(other.read_bytes())
    answer["foreign"] = sentence_of(lambda: trainer("masked", folder)[0].train(str(checkpoint)))
    answer["unknown"] = sentence_of(lambda: SparseTraining(sparcity=0.9))
    answer["not yet"] = sentence_of(lambda: sparse.training)
    return answer


def on_two_ranks(folder: str) -> dict[str, Any]:
    """Train under DistributedDataParallel, and resume after the second epoch; compact storage is refused."""
    options = {"ddp_backend": "gloo"}
    runner, _ = trainer("masked", folder, **options)
    runner.train()
    again, _ = trainer("masked", folder, **options)
    again.train(resume_from_checkpoint=f"{folder}/checkpoint-8")
    compact, _ = trainer("compact", f"{folder}/compact", **options)
    refused = sentence_of(compact.train)
    return {"values": [values(runner.model), values(again.model)], "density": density(again.model), "refused": refused}


def everything(folder: str) -> dict[str, Any]:
    """All that one process tries."""
    runs = (best, tied, again)
    answers = {run.__name__: run(f"{folder}/{run.__name__}") for run in runs}
    return {**answers, **{name: whole(name, folder) for name in RUNS}}


def everything_and_resumed(folder: str) -> tuple[Any, Any]:
    """Each in a process of its own, so that the second knows nothing but the files of the first."""
    return apart(everything, folder), apart(resumed, folder)
