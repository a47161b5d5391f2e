"""Writes the files that tests/test_written_before.py reads: ``python tests/data/write.py FOLDER [PART...]``.

It is run once for a version, with that version's code on ``PYTHONPATH``, and what it has written is committed. Later
versions only read the files: those of a version are never written again. ``expected.npz`` has their contents, and the
ends of the same trainings when nothing interrupted them, as plain arrays.

The paths in the files are below ``/tmp/sparsecore-data``, so that they are the same wherever they are written.
"""

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import nn

from sparsecore.cli.command_line import run
from sparsecore.run import recording
from sparsecore.run.recording import RunFolderWriter
from sparsecore.study.definition import load_study
from sparsecore.study.folder import StudyFolder
from sparsecore_torch import export, sparsify

WHERE = Path("/tmp/sparsecore-data")
SMALL = ("--model", "lenet-12-8", "--data", "npz", "--data-dir", "images.npz", "--batch-size", "10", "--seed", "3")

RUNS: Mapping[str, tuple[str, ...]] = {
    "numpy": (
        *("--strategy", "dpr", "--strategy", "gradient-growth", "--set", "strategy.dpr.schedule.steps=3"),
        *("--backend", "numpy", "--set", "backend.dtype=float64", "--sparsity", "0.8", "--epochs", "3"),
    ),
    "torch": (
        *("--strategy", "rigl", "--set", "strategy.schedule.steps=3", "--sparsity", "0.8", "--epochs", "3"),
        *("--backend", "torch", "--set", "backend.dtype=float64"),
    ),
    "cpu": (
        *("--strategy", "set", "--set", "strategy.schedule={steps=3}", "--backend", "cpu", "--epochs", "3"),
        *("--set", "start.run=finished", "--set", "start.prune=0.3", "--set", "start.values=original"),
    ),
}
"""The interrupted runs; that of the CPU backend starts from the finished one."""

FINISHED = (
    *("--strategy", "dpr", "--set", "strategy.schedule.steps=4", "--backend", "numpy", "--sparsity", "0.7"),
    *("--epochs", "2", "--set", "keep.epochs=[1]"),
)

STEPS_BEFORE = 7
"""The checkpoint that an interrupted run goes on from; it has 12 steps."""

STACKS: Mapping[str, tuple[list[str], dict[str, Any]]] = {
    "dpr": (["dpr"], {"storage": "compact"}),
    "snfs": (["snfs"], {"storage": "masked"}),
    "deepr": (["deepr"], {"storage": "masked"}),
    "topkast": (["topkast"], {"storage": "compact"}),
    "mest": (["mest"], {"storage": "masked"}),
    "density-schedule": (["set", "gradient-growth", "density-schedule"], {"storage": "masked"}),
}
"""Strategies of a ``sparsify`` training, and its options."""

SAVED_AT, ENDS_AT = 8, 12

Arrays = dict[str, np.ndarray[Any, Any]]


def command(*arguments: str) -> None:
    """Run ``sparsecore`` in this process."""
    if run(list(arguments)):
        raise SystemExit(f"sparsecore {' '.join(arguments)} has failed")


def write_images() -> None:
    """Write 40 images to train on and 20 to test on, of two classes: bright above, or bright below."""
    draws = np.random.default_rng(5)
    split: dict[str, np.ndarray[Any, Any]] = {}
    for name, examples in (("train", 40), ("test", 20)):
        labels = (np.arange(examples) % 2).astype(np.uint8)
        images = draws.integers(0, 120, (examples, 4, 4), dtype=np.uint8)
        images[labels == 0, :2] += np.uint8(100)
        images[labels == 1, 2:] += np.uint8(100)
        split |= {f"x_{name}": images, f"y_{name}": labels}
    np.savez_compressed("images.npz", **split)


def end_of(folder: Path) -> Arrays:
    """What a run has come to."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    state = load_file(folder / "checkpoint.safetensors")
    arrays = {name: state[name] for name in ("positions", "learner/values")}
    return {**arrays, **{name: np.array([line[name] for line in lines]) for name in ("train_loss", "test_loss")}}


def write_finished() -> Arrays:
    """Write a finished run."""
    command("train", *SMALL, *FINISHED, "--out", "finished")
    (Path("finished") / "report.html").unlink(missing_ok=True)
    return end_of(Path("finished"))


def write_interrupted(name: str) -> Arrays:
    """Write a run that was interrupted within an epoch; return the end of the same run without the interruption."""
    command("train", *SMALL, *RUNS[name], "--out", f"whole-{name}")
    save, saved = RunFolderWriter.save, []

    def save_and_stop(self: RunFolderWriter, *arguments: Any) -> None:
        save(self, *arguments)
        saved.append(True)
        if len(saved) == STEPS_BEFORE:
            raise KeyboardInterrupt

    with (
        patch.object(RunFolderWriter, "save", save_and_stop),
        patch.object(recording, "_SECONDS_BETWEEN_CHECKPOINTS", -1),
    ):
        run(["train", *SMALL, *RUNS[name], "--out", name])
    ended = end_of(Path(f"whole-{name}"))
    shutil.rmtree(f"whole-{name}")
    (Path(name) / "report.html").unlink(missing_ok=True)
    return ended


def write_study() -> Arrays:
    """Write the folder of a study whose runs have not begun."""
    Path("small.toml").write_text(
        'title = "small"\nfigure = "bars"\nsparsities = [0.8]\ntrials = 1\n[[arm]]\nname = "set"\nstrategy = ["set"]\n'
        '[options]\n"model.name" = "lenet-12-8"\n"data.name" = "digits"\n"backend.name" = "numpy"\n'
    )
    StudyFolder(Path("study")).create(load_study("small.toml"))
    Path("small.toml").unlink()
    return {}


def write_lottery() -> Arrays:
    """Write the folder of a lottery whose first round has not begun."""
    from sparsecore.cli import lottery

    with patch.object(lottery, "_train", side_effect=KeyboardInterrupt):
        run(["lottery", *SMALL, "--epochs", "1", "--rounds", "1", "--backend", "numpy", "--out", "lottery"])
    return {}


def network() -> nn.Sequential:
    """A network in double precision, so that no processor takes another decision."""
    torch.manual_seed(0)
    layers = (nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3))
    return nn.Sequential(*layers).double()


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> float:
    """Take the step of this number, with images and labels that no generator draws; return its loss."""
    images = torch.from_numpy(np.sin(np.arange(48.0) * (0.37 * number + 1)).reshape(8, 6))
    labels = torch.from_numpy((np.arange(8) * (number + 1)) % 3)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


def training_of(name: str) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    """Return the model, the optimizer and the sparse training of a stack before the first step."""
    strategies, options = STACKS[name]
    model = network()
    decayed = {} if name in ("deepr", "topkast") else {"momentum": 0.9, "weight_decay": 1e-3}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **decayed)
    own = {"strategy": strategies, "sparsity": 0.7, "seed": 5, "total_steps": 20, "include": "*weight", **options}
    return model, optimizer, sparsify(model, optimizer, **own)


def weights_of(training: Any) -> Arrays:
    """The dense weights of the sparse tensors, and the active positions."""
    dense = export.squashed_copy(training).state_dict()
    arrays = {name: tensor.numpy() for name, tensor in dense.items()}
    return {**arrays, "positions": training.topology.positions.numpy()}


def write_stack(name: str) -> Arrays:
    """Write the state dicts of a training; return its weights then, and what it comes to."""
    model, optimizer, training = training_of(name)
    for number in range(SAVED_AT):
        step(model, optimizer, number)
    parts = {"model": model, "optimizer": optimizer, "training": training}
    torch.save({key: part.state_dict() for key, part in parts.items()}, f"{name}.pt")
    saved = weights_of(training)
    losses = [step(model, optimizer, number) for number in range(SAVED_AT, ENDS_AT)]
    ended = {f"end/{key}": array for key, array in weights_of(training).items()}
    return {**saved, **ended, "losses": np.array(losses)}


def write_sparse() -> Arrays:
    """Write a small file."""
    model, optimizer, training = training_of("dpr")
    step(model, optimizer, 0)
    export.save_sparse(training, "sparse.safetensors")
    return weights_of(training)


def write_network() -> Arrays:
    """Write the network of the finished run for predictions."""
    from sparsecore_cpu.inference import Predictor

    predictor = Predictor.of_run("finished")
    predictor.save("network.safetensors")
    with np.load("images.npz") as images:
        return {"logits": predictor.predict(images["x_test"][..., None])}


def write_model() -> Arrays:
    """Write a module for predictions."""
    from sparsecore_cpu.inference import Predictor

    model, optimizer, training = training_of("dpr")
    step(model, optimizer, 0)
    example = torch.from_numpy(np.sin(np.arange(48.0)).reshape(8, 6)).float()
    plain = export.squashed_copy(training).float()
    Predictor.of_model(plain, example).save("model.safetensors")
    with torch.no_grad():
        return {"outputs": plain(example).numpy()}


PARTS: Mapping[str, Callable[[], Arrays]] = {
    "finished": write_finished,
    **{name: lambda name=name: write_interrupted(name) for name in RUNS},  # type: ignore[misc]
    "study": write_study,
    "lottery": write_lottery,
    **{name: lambda name=name: write_stack(name) for name in STACKS},  # type: ignore[misc]
    "sparse": write_sparse,
    "network": write_network,
    "model": write_model,
}
"""What is written, each with the arrays that are expected of it."""


def main(out: Path, *parts: str) -> None:
    """Write the parts, or all, into a new folder."""
    shutil.rmtree(WHERE, ignore_errors=True)
    WHERE.mkdir()
    expected: Arrays = {}
    with chdir(WHERE):
        write_images()
        for part in parts or PARTS:
            expected |= {f"{part}/{name}": array for name, array in PARTS[part]().items()}
        np.savez_compressed("expected.npz", **expected)
    shutil.move(WHERE, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), *sys.argv[2:])
