"""Putting an experiment together: defaults, presets, file, options, settings; strict in what it takes."""

import tomllib
from pathlib import Path

import pytest
import tomli_w

from sparsecore.engine.schedules import Cosine, Piecewise, Schedule
from sparsecore.errors import InputError
from sparsecore.experiment.assembly import assemble
from sparsecore.experiment.experiment import Experiment
from sparsecore.learning.optimizers import Adam, AdamW, Sgd
from sparsecore.plugins.discovery import installed


def experiment(*settings: str, stack: tuple[str, ...] = (), file: Path | None = None, **options: str) -> Experiment:
    return Experiment.of(
        assemble(file, {name.replace("__", "."): value for name, value in options.items()}, stack, settings)
    )


def test_without_arguments_the_experiment_is_the_demo() -> None:
    demo = experiment()
    assert (demo.model.name, demo.dataset.name) == ("wrn-28-2", "digits")
    assert [strategy.name for strategy in demo.strategies] == ["dpr"]
    assert (demo.sparsity, demo.seed) == (0.9, 0)


def test_the_backend_is_the_fastest_that_is_installed_and_has_the_settings() -> None:
    there = {entry.name for entry in installed("backend")}
    assert experiment().backend.name == ("cpu" if "cpu" in there else "numpy")
    assert experiment(backend__dtype="float64").backend.name == "numpy"
    assert experiment(backend__name="torch").backend.name == "torch"


def test_without_its_distribution_the_cpu_backend_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    others = tuple(entry for entry in installed("backend") if entry.name != "cpu")
    monkeypatch.setattr("sparsecore.experiment.assembly.installed", lambda _: others)
    assert experiment().backend.name == "numpy"


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


@pytest.mark.parametrize(("model", "data"), [("wrn-28-2", "digits"), ("lenet-300-100", "mnist"), ("wrn-28-2", "npz")])
@pytest.mark.parametrize("strategy", ["deepr", "soft-deepr"])
def test_deepr_has_neither_momentum_nor_weight_decay(model: str, data: str, strategy: str) -> None:
    chosen = experiment(model__name=model, data__name=data, stack=(strategy,)).optimizer
    assert chosen == Sgd(momentum=0.0, nesterov=False, weight_decay=0.0)


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


def test_the_authors_settings_are_the_preset_for_lenet_on_mnist() -> None:
    tables = experiment(model__name="lenet-300-100", data__name="mnist", stack=("dpr",)).tables()
    training = {name: tables["training"][name] for name in ("epochs", "batch_size", "weight_decay", "momentum")}
    assert training == {"epochs": 100, "batch_size": 100, "weight_decay": 1e-4, "momentum": 0.9}
    assert tables["training"]["nesterov"]
    assert tables["training"]["learning_rate"] == {"0": 0.1, "25": 0.02, "50": 0.004, "75": 0.0008}
    (dpr,) = tables["strategy"]
    assert (dpr["target"], dpr["tolerance"], dpr["initial_threshold"]) == (600, 0.1, 1e-3)
    assert dpr["schedule"] == {"steps": {"0": 100, "25": 200, "50": 400, "75": 800}}
    smaller = experiment(model__name="lenet-30-10", data__name="mnist", stack=("dpr",)).tables()
    assert smaller["training"] == tables["training"]
    assert smaller["strategy"] == [{**dpr, "target": "14%"}]


def test_a_setting_reaches_inside_a_default() -> None:
    assert experiment("strategy.schedule.epochs=2", stack=("set",), data__name="mnist").tables()["strategy"] == [
        {"name": "set", "drop_fraction": 0.3, "ranking": "signed", "start": "er", "schedule": {"epochs": 2}}
    ]


def test_the_name_of_the_only_strategy_may_be_omitted() -> None:
    assert experiment("strategy.tolerance=0.2").strategies[0].plugin.tolerance == 0.2


def test_learning_rates_may_be_cosines() -> None:
    cosine = experiment("training.learning_rate={start = 0.2, until = 0.5}").training.learning_rate
    assert cosine == Cosine(0.2, 0.0, 0.5)


@pytest.mark.parametrize("stack", [("dpr",), ("set",), ("deepr",), ("static",), ("set", "dpr")])
def test_the_written_tables_read_back_as_the_same_experiment(tmp_path: Path, stack: tuple[str, ...]) -> None:
    tables = experiment(stack=stack).tables()
    file = tmp_path / "experiment.toml"
    file.write_text(tomli_w.dumps({"presets": False, **tables}))
    assert experiment(file=file).tables() == tables
    assert tomllib.loads(file.read_text())["sparsity"] == 0.9


def test_a_complete_file_takes_nothing_from_presets(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('presets = false\n[data]\nname = "cifar10"\n')
    assert experiment(file=file).training.epochs == 10


def test_assembling_an_experiment_does_not_change_the_defaults() -> None:
    experiment("strategy.dpr.tolerance=0.5", "model.depth=16")
    assert experiment().strategies[0].plugin.tolerance == 0.1
    assert experiment().model.plugin.depth == 28


def test_options_of_the_data_set_combine_with_settings(tmp_path: Path) -> None:
    mine = experiment(f"data.file={tmp_path}/mine.npz", "data.flip=true", data__name="npz")
    assert mine.dataset.plugin.file == f"{tmp_path}/mine.npz"
    assert mine.data.flip


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("training.nesterov=1", "training.nesterov: true or false was expected, given 1"),
        ("data.dir=3", "data.dir: a text was expected, given 3"),
        ("model.depth=wide", "model.wrn-28-2.depth: a whole number was expected, given 'wide'"),
        ("strategy.dpr.schedule=3", "a table of steps, epochs, until_epoch, until, times was expected, given 3"),
        ("strategy.dpr.schedule.steps=0", "steps between updates must be"),
        ("speed=3", "a setting is written section.key=value, sparsity=value or seed=value; given 'speed'"),
    ],
)
def test_a_wrong_setting_raises_one_error_sentence(setting: str, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        experiment(setting)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize(
    ("model", "data", "rate"),
    [
        ("wrn-28-2", "digits", Cosine(5e-3, 0.0, 1.0)),
        ("lenet-300-100", "mnist", Piecewise({0: 1e-3, 25: 2e-4, 50: 4e-5, 75: 8e-6})),
        ("wrn-28-2", "cifar10", Piecewise({0: 1e-3, 60: 2e-4, 120: 4e-5, 160: 8e-6})),
        ("lenet-300-100", "digits", Piecewise({0: 1e-3})),
    ],
)
def test_another_optimizer_has_a_learning_rate_of_its_own(name: str, model: str, data: str, rate: Schedule) -> None:
    other = experiment(f"training.optimizer={name}", model__name=model, data__name=data)
    assert other.training.learning_rate == rate
    mine = experiment(f"training.optimizer={name}", "training.learning_rate=0.5", model__name=model, data__name=data)
    assert mine.training.learning_rate == Piecewise({0: 0.5})


def test_the_optimizer_s_settings_are_its_own() -> None:
    adam = experiment("training.optimizer=adam", "training.betas=[0.8, 0.99]", "training.weight_decay=1e-4")
    assert adam.optimizer == Adam(betas=(0.8, 0.99), epsilon=1e-8, weight_decay=1e-4)
    assert experiment("training.optimizer=adamw").optimizer == AdamW(weight_decay=1e-2)
    assert experiment("training.nesterov=false").optimizer == Sgd(nesterov=False, weight_decay=5e-4)


@pytest.mark.parametrize("stack", [("dpr",), ("deepr",)])
@pytest.mark.parametrize("data", ["digits", "cifar10"])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_the_written_tables_contain_the_optimizer(tmp_path: Path, name: str, data: str, stack: tuple[str, ...]) -> None:
    begun = experiment(f"training.optimizer={name}", data__name=data, stack=stack)
    file = tmp_path / "experiment.toml"
    file.write_text(tomli_w.dumps({"presets": False, **begun.tables()}))
    again = experiment(file=file)
    assert again.optimizer == begun.optimizer
    assert again.tables() == begun.tables()
    assert again.tables()["training"]["optimizer"] == name


def test_a_file_without_an_optimizer_means_gradient_descent(tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text("presets = false\n[training]\nlearning_rate = 0.2\nmomentum = 0.8\nnesterov = false\n")
    old = experiment(file=file)
    assert old.optimizer == Sgd(momentum=0.8, nesterov=False, weight_decay=5e-4)
    assert old.training.learning_rate == Piecewise({0: 0.2})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["training.optimizer=lion"], "training.optimizer: one of 'sgd', 'adam', 'adamw' was expected, given 'lion'"),
        (["training.optimizer=1"], "training.optimizer: one of 'sgd', 'adam', 'adamw' was expected, given 1"),
        (
            ["training.optimizer=adam", "training.momentum=0.5"],
            "no key named 'momentum' with the optimizer adam; known:",
        ),
        (["training.betas=[0.9, 0.99]"], "no key named 'betas' with the optimizer sgd; known: optimizer, epochs"),
        (["training.optimizer=adam", "training.betas=[0.9]"], "training.betas"),
        (["training.optimizer=adam", "training.betas=[0.9, 1.0]"], "betas are two numbers in [0, 1); given (0.9, 1.0)"),
        (["training.optimizer=adam", "training.epsilon=0"], "'epsilon' must be > 0"),
        (["training.optimizer=adamw", "training.weight_decay=-1"], "'weight_decay' must be >= 0"),
    ],
)
def test_a_wrong_optimizer_raises_one_error_sentence(settings: list[str], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        experiment(*settings)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("model", ["wrn-28-2", "thin-wrn-28-2"])
def test_the_run_that_another_starts_from_has_the_sparsity_and_no_preset_or_default(model: str) -> None:
    started = experiment("start.run=runs/dense", "start.values=original", model__name=model)
    assert started.sparsity is None
    assert "sparsity" not in started.tables()
    assert started.tables()["start"] == {"run": str(Path("runs/dense").resolve()), "values": "original", "prune": 0.0}
    assert experiment("start.run=runs/dense", "start.values=trained", sparsity="0.5").sparsity == 0.5


def test_an_experiment_without_a_source_run_has_no_start_table() -> None:
    assert not {"start", "keep"} & experiment().tables().keys()
    assert experiment("keep.epochs=[1, 3]").tables()["keep"] == {"epochs": [1, 3]}


@pytest.mark.parametrize(("model", "strategy"), [("thin-wrn-28-2", "static"), ("wrn-28-2", "dpr")])
def test_a_preset_may_give_the_strategy_of_a_model_when_none_is_requested(model, strategy):
    def stack(*chosen, settings=()):
        tables = assemble(None, {"model.name": model, "sparsity": "0"}, chosen, settings)
        return [table["name"] for table in tables["strategy"]]

    assert stack() == [strategy]
    assert stack("set") == ["set"]
