"""Train a small BERT with the Trainer of transformers, dense and with the callback of sparse training.

    python examples/trainer_bert.py

The network has random weights and the data are generated, so that nothing is downloaded: in each sequence of random
codes stand a mark and one of two others, and the class is which of the two it is, and in which order they stand. The
rows are the dense network and one sparse network for each strategy, trained in the same way; a run that was stopped
goes on from its last checkpoint.
"""

import argparse
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from sparsecore_torch.transformers import SparseTraining

CODES, MARKS, CLASSES = 64, 3, 4


def sequences(count: int, length: int, seed: int) -> list[dict[str, Tensor]]:
    """Return sequences with their classes.

    Args:
        count: the number of sequences.
        length: of each.
        seed: of the draws.
    """
    draws = torch.Generator().manual_seed(seed)
    codes = torch.randint(MARKS, CODES, (count, length), generator=draws)
    first, second = torch.stack([torch.randperm(length, generator=draws)[:2] for _ in range(count)]).unbind(1)
    other, rows = torch.randint(2, (count,), generator=draws), torch.arange(count)
    codes[rows, first], codes[rows, second] = 0, 1 + other
    labels = 2 * (first < second) + other
    return [{"input_ids": one, "labels": label} for one, label in zip(codes, labels, strict=True)]


def network(options: argparse.Namespace) -> nn.Module:
    """Return a BERT with random weights."""
    torch.manual_seed(options.seed)
    config = BertConfig(
        vocab_size=CODES,
        hidden_size=options.features,
        num_hidden_layers=options.layers,
        num_attention_heads=options.features // 32,
        intermediate_size=4 * options.features,
        max_position_embeddings=options.length,
        num_labels=CLASSES,
    )
    model: nn.Module = BertForSequenceClassification(config)
    return model


def accuracy_of(predicted: Any) -> dict[str, float]:
    """Return the share of sequences that are classified correctly, by a name."""
    logits, labels = predicted
    return {"accuracy": float((logits.argmax(-1) == labels).mean())}


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train one network, or go on from its last checkpoint, and evaluate it.

    Args:
        name: of a strategy, or 'dense'.
        options: of the command line.
    """
    chosen = {"strategy": name, "sparsity": options.sparsity, "seed": options.seed, "storage": options.storage}
    folder = options.out / name
    trainer = Trainer(
        network(options),
        TrainingArguments(
            str(folder),
            max_steps=options.steps,
            per_device_train_batch_size=options.batch,
            per_device_eval_batch_size=250,
            learning_rate=options.learning_rate,
            warmup_steps=options.steps // 10,
            save_steps=max(1, options.steps // 4),
            save_total_limit=1,
            seed=options.seed,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
        ),
        train_dataset=sequences(options.sequences, options.length, options.seed),
        eval_dataset=sequences(1000, options.length, options.seed + 1),
        compute_metrics=accuracy_of,
        callbacks=[] if name == "dense" else [SparseTraining(**chosen)],
    )
    began = process_time()
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if folder.is_dir() else None)
    seconds = process_time() - began
    encoder = trainer.model.bert.encoder
    weights = sum(int(one.count_nonzero()) for one in encoder.parameters() if one.dim() > 1)
    accuracy = 100 * trainer.evaluate()["eval_accuracy"]
    return {"network": name, "weights": weights, "accuracy": accuracy, "seconds": seconds}


def table_of(results: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table with a row for each network."""
    lines = ["| network | weights of the encoder | accuracy in % | processor seconds |", "|---|---|---|---|"]
    lines += ["| {network} | {weights:,} | {accuracy:.1f} | {seconds:.0f} |".format(**one) for one in results]
    return "\n".join(lines) + "\n"


def check_settings(options: argparse.Namespace) -> None:
    """Check that a folder with checkpoints belongs to the same settings, and note them there."""
    file, now = options.out / "settings.json", {key: str(value) for key, value in vars(options).items()}
    if file.exists() and json.loads(file.read_text("utf-8")) != now:
        raise SystemExit(f"{options.out} has runs of other settings; give another folder with --out")
    options.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(now, indent=2), "utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and compare the networks.

    Args:
        arguments: of the command line; None for those of the process.
    """
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/trainer-bert"), help="folder of checkpoints and results")
    parser.add_argument("--steps", type=int, default=1200, help="optimizer steps")
    parser.add_argument("--sequences", type=int, default=20_000, help="sequences for training")
    parser.add_argument("--length", type=int, default=16, help="codes of a sequence")
    parser.add_argument("--batch", type=int, default=64, help="sequences of a step")
    parser.add_argument("--features", type=int, default=64, help="width of the network, a multiple of 32")
    parser.add_argument("--layers", type=int, default=2, help="layers of the network")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="the largest one")
    parser.add_argument("--sparsity", type=float, default=0.9, help="of the sparse networks")
    parser.add_argument("--strategies", nargs="+", default=("static", "set", "dpr"), help="of the sparse networks")
    parser.add_argument("--storage", choices=("masked", "compact"), default="masked", help="of the sparse weights")
    parser.add_argument("--seed", type=int, default=0, help="of initial values, data, batches and topologies")
    options = parser.parse_args(arguments)
    check_settings(options)
    file = options.out / "results.json"
    results: list[dict[str, Any]] = json.loads(file.read_text("utf-8")) if file.exists() else []
    for name in ("dense", *options.strategies)[len(results) :]:
        results.append(run(name, options))
        file.write_text(json.dumps(results, indent=2), "utf-8")
    (options.out / "table.md").write_text(table_of(results), "utf-8")
    print(table_of(results), end="")
    print(f"{options.steps} steps, seed {options.seed}, {torch.get_num_threads()} threads, {platform.machine()}")


if __name__ == "__main__":
    main()
