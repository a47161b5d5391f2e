"""What cannot be started from is refused with a sentence, before a folder is made."""

from pathlib import Path

import numpy as np
import pytest
from command_line import small_images
from safetensors.numpy import load_file
from start_oracles import carry_out

from sparsecore.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    images = small_images(tmp_path_factory.mktemp("data") / "small.npz")
    shape = ["--model", "lenet-12-8", "--data", "npz", "--data-dir", str(images), "--batch-size", "16"]
    return [*shape, "--epochs", "2", "--strategy", "static"]


@pytest.fixture(scope="module")
def source(common: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "source"
    carry_out("train", *common, "--sparsity", "0.5", "--set", "keep.epochs=[1]", "--out", folder)
    return folder


FRESH = "start.values=fresh"
NEEDED = "start.run={source}"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((FRESH, "start.run=no/such/run"), "there is none at .*no/such/run"),
        ((FRESH, "start.run={source}/.."), "no run folder: it has no experiment.toml"),
        ((FRESH,), "given by run, the folder of a finished one"),
        ((NEEDED,), "'original', 'fresh', 'trained' or 'rewound'; given no values"),
        ((NEEDED, "start.values=initial"), "one of 'original', .* was expected, given 'initial'"),
        ((NEEDED, FRESH, "start.epoch=1"), "an epoch belongs to values = 'rewound'.*'fresh' and epoch = 1"),
        ((NEEDED, "start.values=rewound"), "an epoch belongs to values = 'rewound'.*epoch = None"),
        ((NEEDED, "start.values=rewound", "start.epoch=0"), "must be >= 1: 0"),
        ((NEEDED, "start.values=rewound", "start.epoch=2"), "has not kept .* epoch 2; kept: 1"),
        (
            (NEEDED, "start.values=rewound", "start.epoch=1", "training.epochs=1"),
            "trained for 1 epochs.*nothing is left",
        ),
        ((NEEDED, FRESH, "start.prune=1"), r"share of all weights in \[0, 1\); given 1.0"),
        ((NEEDED, FRESH, "start.prune=0.999"), "takes 151 of 152 weights away; every tensor keeps one, and 149 can go"),
        ((NEEDED, FRESH, "start.prune=0.001"), "0.001 of 152 weights is less than one"),
        ((NEEDED, FRESH, "start.seed=1"), "no key named 'seed'; known: run, values, epoch, prune"),
        ((NEEDED, FRESH, "sparsity=0.5"), "sparsity = 0.5 is given, but start.run already sets the sparsity"),
        ((NEEDED, FRESH, "model.hidden=[13, 8]"), "'layer1.weight' is 12×16 there, 13×16 here"),
        ((NEEDED, FRESH, "model.hidden=[12]"), "'classifier.weight' is 2×8 there, 2×12 here"),
        (("keep.epochs=[1, 3]",), "keep.epochs has 3, and the run has 2 epochs"),
        (("keep.epochs=[0]",), "must be >= 1: 0"),
        (("keep.epochs=1",), "keep.epochs: a list was expected, given 1"),
    ],
    ids=lambda given: ascii(given)[:50],
)
def test_wrong_starts_are_refused(
    common: list[str], source: Path, tmp_path: Path, settings: tuple[str, ...], words: str
) -> None:
    asked = [part for setting in settings for part in ("--set", setting.format(source=source))]
    with pytest.raises(InputError, match=words):
        carry_out("train", *common, *asked, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_has_not_finished_is_refused_with_the_command_that_finishes_it(
    common: list[str], source: Path, tmp_path: Path
) -> None:
    experiment = (source / "experiment.toml").read_text()
    (tmp_path / "half").mkdir()
    (tmp_path / "half/experiment.toml").write_text(experiment)
    start = ("--set", f"start.run={tmp_path / 'half'}", "--set", FRESH)
    with pytest.raises(InputError, match=r"has done 0 of its 2 epochs: .* train --resume --out .*half"):
        carry_out("train", *common, *start, "--out", tmp_path / "run")


def test_values_that_a_source_run_did_not_keep_are_refused(common: list[str], source: Path, tmp_path: Path) -> None:
    moving = ("--strategy", "dpr", "--set", "strategy.dpr.schedule.steps=3", "--set", "strategy.dpr.target=20")
    start = ("--set", f"start.run={source}", "--set", "start.values=trained")
    high = ("--set", "strategy.dpr.initial_threshold=0.3")
    carry_out("train", *common[:-2], *moving, *high, *start, "--out", tmp_path / "moved")
    began, ended = (
        load_file(path)["positions"]
        for path in (source / "checkpoint.safetensors", tmp_path / "moved/checkpoint.safetensors")
    )
    grown = len(np.setdiff1d(ended, began))
    assert grown > 0
    again = ("--set", f"start.run={tmp_path / 'moved'}", "--set", "start.values=original")
    with pytest.raises(
        InputError, match=f"{grown} of the 152 weights to start with were not there when the run .*moved began, with"
    ):
        carry_out("train", *common, *again, "--out", tmp_path / "run")


def test_a_sparsity_below_that_of_the_start_is_refused(common: list[str], source: Path, tmp_path: Path) -> None:
    start = ("--strategy", "gmp", "--set", f"start.run={source}", "--set", FRESH, "--sparsity", "0.4")
    with pytest.raises(InputError, match=r"sparsity = 0.4 is the sparsity at the end, .* 0.5000 already"):
        carry_out("train", *common[:-2], *start, "--out", tmp_path / "run")
