"""Train a small vision transformer of timm on CIFAR-10, dense and sparse, with timm's own utilities, and compare them.

    python examples/vit_cifar.py --data FOLDER     # CIFAR-10 in FOLDER/cifar-10-batches-py

The loop is that of timm's train.py in short: its optimizer, schedule, scaler of the loss, average of the weights and
checkpoints. The rows are the dense network and one sparse network for each strategy, trained in the same way.
"""

import argparse
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import Any

import timm
import torch
from timm.models import resume_checkpoint
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import CheckpointSaver, ModelEmaV3, NativeScaler
from torch import Tensor, nn

from sparsecore.data.cifar import Cifar10
from sparsecore.data.images import Images, Split
from sparsecore_torch import SparseTraining, sparsify

Data = tuple[Tensor, Tensor]
"""Normalized float32 images (examples, 3, height, width), and int64 labels."""


def data_of(images: Images, split: Split, first: int) -> Data:
    """Return the first images of a split; all of them if ``first`` is 0."""
    mean, std = (torch.tensor(each, dtype=torch.float32) for each in (images.mean, images.std))
    generator = torch.Generator().manual_seed(0)  # files may be sorted by class
    chosen = torch.randperm(len(split), generator=generator)[: first or None]
    pixels = (torch.from_numpy(split.images)[chosen].float() - mean) / std
    return pixels.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(split.labels)[chosen]


def network(options: argparse.Namespace, classes: int, side: int) -> nn.Module:
    """Return a vision transformer with random weights."""
    torch.manual_seed(options.seed)
    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=side,
        patch_size=4,
        embed_dim=options.features,
        depth=options.depth,
        num_heads=options.features // 32,
        num_classes=classes,
    )
    return model


def with_training(optimizer: torch.optim.Optimizer, training: SparseTraining) -> None:
    """Let the state of the sparse training travel in the optimizer's, which timm saves and loads."""
    optimizer.register_state_dict_post_hook(lambda _, state: state.update(sparse_training=training.state_dict()))
    optimizer.register_load_state_dict_pre_hook(lambda _, state: training.load_state_dict(state["sparse_training"]))


def run(name: str, training_data: Data, test_data: Data, options: argparse.Namespace, classes: int) -> dict[str, Any]:
    """Train one network, or go on from its last checkpoint, and test it and the average of its weights.

    Args:
        name: of a strategy, or 'dense'.
        training_data: the training images.
        test_data: the test images.
        options: of the command line.
        classes: the number of classes.
    """
    model, per_epoch = network(options, classes, test_data[0].shape[-1]), len(training_data[1]) // options.batch
    optimizer = create_optimizer_v2(model, opt="adamw", lr=options.learning_rate, weight_decay=0.05)
    epochs = -(-options.steps // per_epoch)
    training = None
    if name != "dense":
        chosen = {"strategy": name, "sparsity": options.sparsity, "seed": options.seed}
        training = sparsify(model, optimizer, total_steps=epochs * per_epoch, steps_per_epoch=per_epoch, **chosen)
        with_training(optimizer, training)
    schedule = CosineLRScheduler(optimizer, t_initial=epochs * per_epoch, warmup_t=per_epoch, t_in_epochs=False)
    scaler, average = NativeScaler(device="cpu"), ModelEmaV3(model, decay=0.99)
    folder = options.out / name
    folder.mkdir(parents=True, exist_ok=True)
    saver = CheckpointSaver(
        model, optimizer, model_ema=average, amp_scaler=scaler, checkpoint_dir=str(folder), max_history=1
    )
    last, first = folder / "last.pth.tar", 0
    if last.exists():
        first = resume_checkpoint(model, str(last), optimizer, scaler) or 0
        timm.models.load_checkpoint(average.module, str(last), use_ema=True)
    began = process_time()
    for epoch in range(first, epochs):
        model.train()
        generator = torch.Generator().manual_seed(options.seed * 10_000 + epoch)
        order = torch.randperm(len(training_data[1]), generator=generator)[: per_epoch * options.batch]
        for step, batch in enumerate(order.view(per_epoch, -1), epoch * per_epoch):
            images, labels = (tensor[batch] for tensor in training_data)
            if torch.rand((), generator=generator) < 0.5:
                images = images.flip(3)
            with torch.autocast("cpu", enabled=options.bfloat16):
                loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters())
            average.update(model, step=step)
            schedule.step_update(step + 1)
        if training is not None:
            training.mask_(average)
        saver.save_checkpoint(epoch, metric=accuracy(average.module, test_data))
    result = {"network": name, "accuracy": accuracy(model, test_data), "average": accuracy(average.module, test_data)}
    weights = sum(int(one.count_nonzero()) for one in model.blocks.parameters() if one.dim() > 1)  # type: ignore[union-attr, operator]
    return {**result, "weights": weights, "seconds": process_time() - began}


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """Return the percentage of images that the model classifies correctly."""
    model.eval()
    parts = zip(*(tensor.split(250) for tensor in data), strict=True)
    return 100 * sum(int((model(images).argmax(1) == labels).sum()) for images, labels in parts) / len(data[1])


def table_of(results: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table with a row for each network."""
    lines = [
        "| network | weights of the blocks | test accuracy in % | of the average | processor seconds |",
        "|---" * 5 + "|",
    ]
    row = "| {network} | {weights:,} | {accuracy:.1f} | {average:.1f} | {seconds:.0f} |"
    return "\n".join([*lines, *(row.format(**one) for one in results)]) + "\n"


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
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with cifar-10-batches-py")
    parser.add_argument("--out", type=Path, default=Path("runs/vit-cifar"), help="folder of checkpoints and results")
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps, rounded up to whole epochs")
    parser.add_argument("--images", type=int, default=10_000, help="training images; 0 for all")
    parser.add_argument("--test-images", type=int, default=2_000, help="test images; 0 for all")
    parser.add_argument("--batch", type=int, default=64, help="images of a step")
    parser.add_argument("--features", type=int, default=64, help="width of the network, a multiple of 32")
    parser.add_argument("--depth", type=int, default=4, help="blocks of the network")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="the largest one")
    parser.add_argument("--sparsity", type=float, default=0.8, help="of the sparse networks")
    parser.add_argument("--strategies", nargs="+", default=("set", "dpr"), help="of the sparse networks")
    parser.add_argument("--bfloat16", action="store_true", help="train in mixed precision")
    parser.add_argument("--seed", type=int, default=0, help="of initial values, batches and topologies")
    options = parser.parse_args(arguments)
    check_settings(options)
    images = Cifar10().load(options.data)
    training_data = data_of(images, images.train, options.images)
    test_data = data_of(images, images.test, options.test_images)
    file = options.out / "results.json"
    results: list[dict[str, Any]] = json.loads(file.read_text("utf-8")) if file.exists() else []
    for name in ("dense", *options.strategies)[len(results) :]:
        results.append(run(name, training_data, test_data, options, images.classes))
        file.write_text(json.dumps(results, indent=2), "utf-8")
    (options.out / "table.md").write_text(table_of(results), "utf-8")
    print(table_of(results), end="")
    print(f"{options.steps} steps, seed {options.seed}, {torch.get_num_threads()} threads, {platform.machine()}")


if __name__ == "__main__":
    main()
