"""Train an image classifier, prune it by magnitude, and train on with its weights fixed in place, or moved by DPR.

    python examples/finetune_pruned.py --data FOLDER   # CIFAR-10 in FOLDER/cifar-10-batches-py
    python examples/finetune_pruned.py                 # the digits of scikit-learn; nothing is downloaded

The network is torchvision's resnet18; ``--network plain`` is a small one, which is also taken where torchvision is not
installed, and ``--network timm:NAME`` is one of timm's. Each result is a file, so that a run that was stopped goes on
after the last of them.
"""

import argparse
import copy
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from sparsecore.data.cifar import Cifar10
from sparsecore.data.digits import Digits
from sparsecore.data.images import Images, Split
from sparsecore.run.files import write_whole
from sparsecore.run.identity import machine
from sparsecore.strategy import Every
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.static import Static
from sparsecore_torch import sparsify

STRATEGIES = {
    "static": lambda _: Static(),
    "dpr": lambda schedule: DynamicReallocation(target="14%", schedule=schedule),
}
"""How the pruned network is trained on: strategies by name, from the schedule of updates."""


@attrs.frozen
class Settings:
    """The sizes of a run.

    Attributes:
        images: the number of training images that are used, the first of the data set; 0 for all.
        epochs: of dense training.
        more_epochs: of training after pruning.
        batch: the number of images of a step.
        learning_rate: of SGD with momentum in dense training; a fifth of it after pruning. A cosine ends at zero.
        updates_per_epoch: how often DPR moves weights.
    """

    images: int = 10_000
    epochs: int = 4
    more_epochs: int = 2
    batch: int = 64
    learning_rate: float = 0.05
    updates_per_epoch: int = 5


def plain_network(classes: int) -> nn.Module:
    """Return a small convolutional network with batch norm for images of three channels."""

    def block(before: int, after: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(after), nn.ReLU()]

    widths = [(3, 16, 1), (16, 32, 2), (32, 64, 2), (64, 64, 1)]
    blocks = [module for width in widths for module in block(*width)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def network_of(name: str, classes: int) -> nn.Module:
    """Return a network with random weights, for images of three channels.

    Args:
        name: 'plain', a classifier of torchvision, or 'timm:' and a model of timm.
        classes: the number of outputs.
    """
    if name.startswith("timm:"):
        timm: Any = import_module("timm")
        model: nn.Module = timm.create_model(name.removeprefix("timm:"), num_classes=classes)
        return model
    if name == "plain" or find_spec("torchvision") is None:
        return plain_network(classes)
    models: Any = import_module("torchvision.models")
    built: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    return built


Data = tuple[Tensor, Tensor]
"""Normalized float32 images (examples, 3, height, width), and int64 labels."""


def data_of(images: Images, split: Split, first: int) -> Data:
    """Return the first images of a split, grey ones in three channels; all of them if ``first`` is 0."""
    mean, std = (torch.tensor(each, dtype=torch.float32) for each in (images.mean, images.std))
    last = first or len(split)
    pixels = (torch.from_numpy(split.images[:last]).float() - mean) / std
    return pixels.permute(0, 3, 1, 2).expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(split.labels[:last])


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images of a batch shifted by up to an eighth of their side, all in the same way."""
    size, margin = images.shape[-1], images.shape[-1] // 8
    down, right = torch.randint(2 * margin + 1, (2,), generator=generator).tolist()
    return nn.functional.pad(images, (margin,) * 4)[..., down : down + size, right : right + size]


def train(model: nn.Module, optimizer: torch.optim.SGD, data: Data, epochs: int, settings: Settings, seed: int) -> None:
    """Train a model for some epochs, along a cosine of the learning rate; batches and shifts follow from the seed."""
    images, labels = data
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * (len(labels) // settings.batch))
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=generator)
        for chosen in order[: len(order) // settings.batch * settings.batch].view(-1, settings.batch):
            loss = nn.functional.cross_entropy(model(shifted(images[chosen], generator)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """Return the percentage of images that the model classifies correctly."""
    model.eval()
    parts = zip(*(tensor.split(250) for tensor in data), strict=True)
    return 100 * sum(int((model(images).argmax(1) == labels).sum()) for images, labels in parts) / len(data[1])


def sgd(model: nn.Module, learning_rate: float) -> torch.optim.SGD:
    """Return the optimizer of all phases."""
    return torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9, weight_decay=5e-4)


def dense_model(options: argparse.Namespace, settings: Settings, images: Images, data: Data, seed: int) -> nn.Module:
    """Return the dense network of a seed: from its file where it has been trained, else trained now."""
    torch.manual_seed(seed)
    model, file = network_of(options.network, images.classes), options.out / f"dense-seed{seed}.pt"
    if file.exists():
        model.load_state_dict(torch.load(file, weights_only=True))
        return model
    train(model, sgd(model, settings.learning_rate), data, settings.epochs, settings, seed)
    torch.save(model.state_dict(), file.with_suffix(".part"))
    file.with_suffix(".part").replace(file)
    return model


def pruned_and_trained(
    dense: nn.Module, method: str, settings: Settings, sparsity: float, data: Data, test: Data, seed: int
) -> dict[str, float]:
    """Prune a copy of a dense network by magnitude and train it on.

    Returns:
        Test accuracies in percent: 'pruned', as the pruning leaves it, and one by the name of the method.
    """
    model = copy.deepcopy(dense)
    optimizer = sgd(model, settings.learning_rate / 5)
    steps_per_epoch = len(data[1]) // settings.batch
    strategy = STRATEGIES[method](Every(steps=max(1, steps_per_epoch // settings.updates_per_epoch), until=0.75))
    steps = settings.more_epochs * steps_per_epoch
    training = sparsify(
        model, optimizer, strategy=strategy, sparsity=sparsity, start="magnitude", total_steps=steps, seed=seed
    )
    found = {"pruned": accuracy(model, test)}
    train(model, optimizer, data, settings.more_epochs, settings, seed + 1000)
    training.squash()
    return found | {method: accuracy(model, test)}


def outcome(options: argparse.Namespace, settings: Settings, images: Images, seed: int) -> dict[str, Any]:
    """Return the test accuracies of a seed in percent; what its file has is not computed again."""
    file = options.out / f"seed{seed}.json"
    asked = {"network": options.network, "sparsity": options.sparsity, **attrs.asdict(settings)}
    found: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {"asked": asked}
    if found["asked"] != asked:
        raise SystemExit(f"{file} is of a run with other settings, {found['asked']}; choose another --out")
    if {"dense", *STRATEGIES} <= found.keys():
        return found
    data, test = data_of(images, images.train, settings.images), data_of(images, images.test, 0)
    dense = dense_model(options, settings, images, data, seed)
    found |= {"machine": machine(), "dense": accuracy(dense, test)}
    for method in STRATEGIES:
        if method not in found:
            found |= pruned_and_trained(dense, method, settings, options.sparsity, data, test, seed)
            write_whole(file, (json.dumps(found, indent=1) + "\n").encode())
    return found


def table(results: Sequence[Mapping[str, Any]], settings: Settings) -> str:
    """Return a Markdown table with a row for each stage."""
    trained_on = f"pruned, then {settings.more_epochs} epochs"
    stages = {"dense": "dense", "pruned": "pruned by magnitude"}
    stages |= {name: f"{trained_on} with `{name}`" for name in STRATEGIES}
    lines = ["| network | test accuracy, % | seeds |", "| --- | ---: | ---: |"]
    for stage, title in stages.items():
        values = [result[stage] for result in results]
        spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
        lines.append(f"| {title} | {fmean(values):.2f}{spread} | {len(values)} |")
    return "\n".join(lines)


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10; the digits of scikit-learn by default")
    parser.add_argument("--out", type=Path, default=Path("runs/finetune-pruned"), help="folder of the results")
    parser.add_argument("--network", default="resnet18", help="a network of torchvision, 'timm:NAME' or 'plain'")
    parser.add_argument("--sparsity", type=float, default=0.9, help="after pruning; 0.9 by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; 1 by default")
    for field in attrs.fields(Settings):
        name = f"--{field.name.replace('_', '-')}"
        parser.add_argument(name, type=field.type, default=field.default, help=f"{field.default} by default")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the runs that are not finished, and write table.md."""
    options = options_of(arguments)
    torch.set_num_threads(options.threads)
    settings = Settings(**{field.name: getattr(options, field.name) for field in attrs.fields(Settings)})
    options.out.mkdir(parents=True, exist_ok=True)
    images = Digits().load(None) if options.data is None else Cifar10().load(options.data)
    results = []
    for seed in options.seeds:
        results.append(outcome(options, settings, images, seed))
        stages = ("dense", "pruned", *STRATEGIES)
        print(f"seed {seed}: {', '.join(f'{stage} {results[-1][stage]:.2f} %' for stage in stages)}", flush=True)
    write_whole(options.out / "table.md", f"{table(results, settings)}\n".encode())
    print(table(results, settings))


if __name__ == "__main__":
    main()
