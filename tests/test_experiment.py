"""Putting an experiment together: defaults, presets, file, options, settings; strict in what it takes."""

import tomllib
from pathlib import Path

import pytest
import tomli_w

from sparsecore.errors import InputError
from sparsecore.experiment.assembly import assemble
from sparsecore.experiment.experiment import Experiment
from sparsecore.optimizers import Sgd
from sparsecore.schedules import Cosine, Piecewise


def experiment(*settings: str, stack: tuple[str, ...] = (), file: Path | None = None, **options: str) -> Experiment:
    return Experiment.of(
        assemble(file, {name.replace("__", "."): value for name, value in options.items()}, stack, settings)
    )


def test_without_any_argument_it_is_the_demo() -> None:
    demo = experiment()
    assert (demo.model.name, demo.dataset.name, demo.backend.name) == ("wrn-28-2", "digits", "numpy")
    assert [strategy.name for strategy in demo.strategies] == ["dpr"]
    assert (demo.sparsity, demo.seed) == (0.9, 0)


def test_the_paper_s_settings_are_the_preset_for_wrn_on_cifar10() -> None:
    tables = experiment(data__name="cifar10").tables()
    assert tables["training"] == {
        "epochs": 200,
        "batch_size": 100,
        "learning_rate": {"0": 0.1, "60": 0.02, "120": 0.004, "160": 0.0008},
        "optimizer": "sgd",
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
    }
    assert tables["data"] == {"name": "cifar10", "crop": 4, "flip": True}
    assert tables["strategy"] == [
        {
            "name": "dpr",
            "target": 20_000,
            "tolerance": 0.1,
            "initial_threshold": 1e-3,
            "schedule": {"steps": {"0": 100, "25": 200, "80": 400, "140": 800}, "until_epoch": 190},
        }
    ]


def test_deepr_on_cifar10_has_no_weight_decay() -> None:
    assert experiment(data__name="cifar10", stack=("deepr",)).optimizer.weight_decay == 0.0


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("sparsity = 0.5\nseed = 3\n[training]\nepochs = 7\nmomentum = 0.5\n")
    both = experiment("training.epochs=9", file=file, seed="4", training__epochs="8")
    assert (both.sparsity, both.seed) == (0.5, 4)
    assert (both.training.epochs, both.optimizer) == (9, Sgd(momentum=0.5, weight_decay=5e-4))


def test_a_file_may_give_plugins_by_their_names_alone(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('model = "lenet-300-100"\ndata = "mnist"\nstrategy = ["set", "static"]\n')
    short = experiment(file=file)
    assert (short.model.name, short.dataset.name) == ("lenet-300-100", "mnist")
    assert [strategy.name for strategy in short.strategies] == ["set", "static"]


def test_a_schedule_is_replaced_as_a_whole_by_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[data]\nname = "cifar10"\n[training]\nlearning_rate = { 0 = 1.0, 30 = 0.5 }\n')
    assert experiment(file=file).tables()["training"]["learning_rate"] == {"0": 1.0, "30": 0.5}


def test_a_setting_reaches_inside_a_table() -> None:
    inside = experiment("strategy.dpr.schedule.until_epoch=100", data__name="cifar10")
    assert inside.strategies[0].plugin.schedule.until_epoch == 100
    assert inside.strategies[0].plugin.schedule.steps == Piecewise({0: 100, 25: 200, 80: 400, 140: 800})


def test_a_setting_reaches_inside_a_default() -> None:
    assert experiment("strategy.schedule.epochs=2", stack=("set",), data__name="mnist").tables()["strategy"] == [
        {"name": "set", "drop_fraction": 0.3, "ranking": "signed", "start": "er", "schedule": {"epochs": 2}}
    ]


def test_the_only_strategy_s_name_may_be_left_out() -> None:
    assert experiment("strategy.tolerance=0.2").strategies[0].plugin.tolerance == 0.2


def test_learning_rates_may_be_cosines() -> None:
    cosine = experiment("training.learning_rate={start = 0.2, until = 0.5}").training.learning_rate
    assert cosine == Cosine(0.2, 0.0, 0.5)


@pytest.mark.parametrize("stack", [("dpr",), ("set",), ("deepr",), ("static",), ("set", "dpr")])
def test_the_tables_read_back_are_the_experiment(tmp_path: Path, stack: tuple[str, ...]) -> None:
    tables = experiment(stack=stack).tables()
    file = tmp_path / "experiment.toml"
    file.write_text(tomli_w.dumps({"presets": False, **tables}))
    assert experiment(file=file).tables() == tables
    assert tomllib.loads(file.read_text())["sparsity"] == 0.9


def test_a_complete_file_takes_nothing_from_presets(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('presets = false\n[data]\nname = "cifar10"\n')
    assert experiment(file=file).training.epochs == 10


def test_assembling_leaves_the_defaults_as_they_are() -> None:
    experiment("strategy.dpr.tolerance=0.5", "model.depth=16")
    assert experiment().strategies[0].plugin.tolerance == 0.1
    assert experiment().model.plugin.depth == 28


def test_an_option_of_the_data_set_stands_beside_the_settings(tmp_path: Path) -> None:
    mine = experiment(f"data.file={tmp_path}/mine.npz", "data.flip=true", data__name="npz")
    assert mine.dataset.plugin.file == f"{tmp_path}/mine.npz"
    assert mine.data.flip


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("training.nesterov=1", "training.nesterov: true or false was expected, given 1"),
        ("data.dir=3", "data.dir: a text was expected, given 3"),
        ("model.depth=wide", "model.wrn-28-2.depth: a whole number was expected, given 'wide'"),
        ("strategy.dpr.schedule=3", "a table of steps, epochs, until_epoch, until was expected, given 3"),
        ("strategy.dpr.schedule.steps=0", "steps between updates must be"),
        ("speed=3", "a setting is written section.key=value; given 'speed'"),
    ],
)
def test_a_wrong_setting_is_a_sentence(setting: str, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        experiment(setting)
    assert sentence in str(refused.value)
