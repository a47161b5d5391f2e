"""Runs with torchvision's and timm's models and data, for a process of their own: ``python vision_driver.py FOLDER``.

Torchvision cannot load its operators beside a PyTorch that was built for another device; without this module, which
registers them, its models, transforms and data sets work.
"""

import json
import sys
import types
from pathlib import Path
from typing import Any

sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")

import pytest
from in_process import no_waiting_for_the_disk
from study_examples import InProcessPool

from sparsecore.cli.command_line import commands
from sparsecore.errors import InputError

NORMALIZE = '{name="Normalize",mean=[0.5,0.5,0.5],std=[0.2,0.2,0.2]}'
TRAIN = f'[{{name="RandomResizedCrop",size=16}},"RandomHorizontalFlip",{NORMALIZE}]'
TEST = f'[{{name="Resize",size=20}},{{name="CenterCrop",size=16}},{NORMALIZE}]'
FOLDER = ["--data", "torchvision:ImageFolder", "--set", f"data.train_transforms={TRAIN}"]
FOLDER += ["--set", f"data.test_transforms={TEST}", "--batch-size", "4", "--epochs", "2"]
MOVING = ["--strategy", "dpr", "--set", "strategy.schedule={steps=1}", "--sparsity", "0.9"]


def run(*arguments: str) -> None:
    commands(["train", "--backend", "torch", *arguments], standalone_mode=False)


def refused(*arguments: str) -> str:
    """The sentence of a refusal."""
    try:
        run(*arguments, "--out", f"refused-{len(list(Path().iterdir()))}")
    except InputError as error:
        return str(error)
    return "nothing was refused"


NETWORK = ["--model", "torchvision:shufflenet_v2_x0_5"]


def folders() -> None:
    """Runs on a folder of images, one of which is stopped."""
    from test_module_runs import stopped

    run(*NETWORK, *FOLDER, "--data-dir", "photos", *MOVING, "--out", "whole")
    stopped(Path("whole"), Path("stopped"), 3)


def refusals() -> dict[str, Any]:
    """Return the sentences of refusals."""
    with_defaults = ["--data-dir", "photos", "--epochs", "1"]
    return {
        "model": refused("--model", "torchvision:resnet19", *with_defaults),
        "of timm": refused("--model", "timm:resnet19x", *with_defaults),
        "weights": refused("--model", "torchvision:resnet18", "--set", "model.weights=DEFAULT"),
        "data set": refused(*NETWORK, "--data", "torchvision:Image"),
        "folder": refused(*NETWORK, "--data", "torchvision:ImageFolder"),
        "download": refused(*NETWORK, "--data", "torchvision:CIFAR10", "--data-dir", "photos"),
        "transform": refused(*NETWORK, *FOLDER, "--data-dir", "photos", "--set", "data.train_transforms=[Rezise]"),
        "batches": refused(*NETWORK, *FOLDER, "--data-dir", "photos", "--set", 'data.train_transforms=["CutMix"]'),
        "option": refused(
            *NETWORK, *FOLDER, "--data-dir", "photos", "--set", 'data.train_transforms=[{name="Resize",sizes=3}]'
        ),
        "sizes": refused(*NETWORK, "--data", "torchvision:ImageFolder", "--data-dir", "photos", *MOVING),
        "one part": refused(*NETWORK, "--data", "torchvision:FakeData"),
    }


def others() -> None:
    """Runs with other data and options."""
    fake = ["--data", "torchvision:FakeData", "--set", "data.size=12", "--set", "data.image_size=[3,32,32]"]
    still = ["--strategy", "static", "--sparsity", "0.5", "--epochs", "1", "--set", "data.held_out=4"]
    blur = '{name="RandomApply",transforms=[{name="GaussianBlur",kernel_size=3}]}'
    auto = f'[{blur},{{name="AutoAugment",policy="cifar10"}}]'
    settings = ["--set", f"data.train_transforms={auto}", "--set", "model.include=*weight"]
    run("--model", "torchvision:squeezenet1_1", *fake, *still, *settings, "--out", "fake")
    run("--model", "timm:test_resnet", "--data", "digits", "--set", "data.limit=40", *still[:6], "--out", "grey")


def study(text: str) -> None:
    """The study of a page at a tiny size."""
    Path("figure1.toml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparsecore.cli.study_options.create_pool", lambda *_: InProcessPool())
        small = ["--model", "torchvision:resnet18", "--epochs", "1", "--batch-size", "4", "--trials", "1"]
        settings = ["--set", "data.workers=0", "--set", f"data.train_transforms={TRAIN}"]
        settings += ["--set", f"data.test_transforms={TEST}", "--set", "strategy.dpr.schedule={steps=1}"]
        commands(["study", "figure1.toml", *small, *settings, "--out", "figure1"], standalone_mode=False)


if __name__ == "__main__":
    what, *given = sys.argv[1:]
    with no_waiting_for_the_disk():
        print(
            "ANSWER"
            + json.dumps({"folders": folders, "refusals": refusals, "others": others, "study": study}[what](*given))
        )
