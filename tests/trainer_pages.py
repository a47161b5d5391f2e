"""Runs the pages about trainers, and the examples that use other libraries, in a process of its own."""

import contextlib
import importlib
import io
import os
import sys
from pathlib import Path
from typing import Any

import lightning_examples  # noqa: F401  # before anything else that imports torchvision
import numpy as np
from pages import ROOT, code
from test_data_cifar import batch
from test_data_cifar import write as write_cifar
from test_data_mnist import ARRAYS
from test_data_mnist import write as write_mnist

for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):  # this process is alone
    os.environ.pop(name, None)

EXAMPLES = {
    "lightning_mnist": ("--steps", "3", "--batch", "4", "--hidden", "12", "8", "--strategies", "set"),
    "trainer_bert": ("--steps", "4", "--sequences", "16", "--batch", "4", "--features", "32", "--layers", "1"),
    "vit_cifar": ("--steps", "4", "--batch", "4", "--features", "32", "--depth", "1", "--images", "8", "--bfloat16"),
}
"""The examples, and the arguments by which they are small."""


def shown(page: str, folder: str) -> str:
    """Run the Python of a page in a folder; what it prints."""
    os.chdir(folder)
    space: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        for block in code(page):
            exec(block, space)
    return out.getvalue()


def data(folder: Path) -> Path:
    """Write a few random images in the layouts of MNIST and of CIFAR-10."""
    random = np.random.default_rng(0)
    images, labels = (random.integers(0, high, shape, np.uint8) for high, shape in ((256, (16, 28, 28)), (10, 16)))
    write_mnist(folder / "MNIST/raw", dict(zip(ARRAYS, (images, labels, images, labels), strict=True)))
    names = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
    write_cifar(folder / "cifar-10-batches-py", {name: batch(0, 4, [b"labels"], 10) for name in names})
    return folder


def examples(folder: str) -> dict[str, Any]:
    """Run each example twice, of which the second finds what the first has left; their tables and what they print."""
    sys.path.insert(0, str(ROOT / "examples"))
    images, answer = data(Path(folder, "data")), {}
    for name, arguments in EXAMPLES.items():
        script, out = importlib.import_module(name), Path(folder, name)
        own = () if name == "trainer_bert" else ("--data", str(images))
        ends = []
        for _ in range(2):
            with contextlib.redirect_stdout(io.StringIO()) as text:
                script.main([*arguments, *own, "--out", str(out)])
            ends.append((out / "table.md").read_text("utf-8"))
            ends.append(text.getvalue())
        answer[name] = {"tables": ends, "help": help_of(script)}
        if name != "lightning_mnist":
            answer[name]["refused"] = exit_of(script.main, [*arguments, *own, "--out", str(out), "--seed", "1"])
    return answer


def help_of(script: Any) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        script.main(["--help"])
    return text.getvalue()


def exit_of(main: Any, arguments: list[str]) -> str:
    try:
        main(arguments)
    except SystemExit as ended:
        return str(ended)
    raise AssertionError("it did not end")


def everything(folder: str) -> dict[str, Any]:
    """All that one process tries."""
    answer: dict[str, Any] = {"examples": examples(folder)}
    for page in ("docs/trainers.md", "docs/trainers-timm.md"):
        own = Path(folder, Path(page).stem)
        own.mkdir()
        answer[page] = shown(page, str(own))
    return answer
