"""The published results of the authors, and which results of a study are compared with them."""

import json
from importlib.resources import files
from statistics import fmean

import attrs
import numpy as np
import pytest
from in_process import no_waiting_for_the_disk
from study_examples import written_study

from sparsecore.cli.command_line import commands
from sparsecore.study.comparison import compare_cells, finished_results
from sparsecore.study.definition import load_study
from sparsecore.study.deviations import Deviation
from sparsecore.study.folder import StudyFolder
from sparsecore.study.images import StudyImages
from sparsecore.study.published_results import published_results_of

WRN = {"name": "wrn-28-2", "depth": 28, "width": 2}
LENET = "lenet-300-100"
ARMS = ("dpr", "set", "deepr", "rigl", "static", "dense", "pruned-dense", "thin-dense")
CIFAR = StudyImages("CIFAR-10", published=True)
OUR_TRIALS = [93.5, 93.6, 93.9, 93.4, 93.7]


@pytest.fixture(autouse=True, scope="module")
def hurry():
    with no_waiting_for_the_disk():
        yield


def beside(folder, images=CIFAR, arms=("dpr", "set", "dense", "pruned-dense"), trials=2, **options):
    """The rows of a study of WRN-28-2 on CIFAR-10."""
    options = {"model.name": "wrn-28-2", "data.name": "cifar10", **options}
    place = written_study(folder, lambda trial: OUR_TRIALS[trial.number], arms, trials, **options)
    study = place.read()
    return compare_cells(study, place, images, finished_results(study, place))


def test_the_published_means_agree_with_the_paper_and_the_file():
    dpr = published_results_of(WRN, "cifar10").accuracies("dpr", 0.9)
    assert fmean(dpr) == pytest.approx(93.588)  # 93.6 in arXiv 1902.05967
    facts = json.loads((files("sparsecore.study") / "authors.json").read_text())["experiments"][0]
    for name in ("dpr", "set"):
        for sparsity, trials in facts["trials"][name].items():
            assert published_results_of(WRN, "cifar10").accuracies(name, float(sparsity)) == tuple(trials)
    assert published_results_of(WRN, "cifar10").accuracies("dense", None) == (94.7,)


def test_published_results_exist_for_no_other_network_data_set_arm_or_sparsity():
    assert published_results_of({**WRN, "name": "wrn-28-4"}, "cifar10") is None
    assert published_results_of({**WRN, "width": 4}, "cifar10") is None
    assert published_results_of(WRN, "cifar100") is None
    authors = published_results_of(WRN, "cifar10")
    assert authors.accuracies("dpr", 0.95) == ()
    assert authors.accuracies("mine", 0.9) == ()


def test_a_study_of_the_published_setting_is_compared_arm_by_arm(tmp_path):
    rows = beside(tmp_path, arms=ARMS, trials=5)
    found = {row.cell.arm.name: row for row in rows}
    theirs = np.array([93.74, 93.63, 93.68, 93.29, 93.6])
    dpr = found["dpr"]
    assert dpr.published == tuple(theirs)
    assert dpr.difference.of_means == pytest.approx(np.mean(OUR_TRIALS) - theirs.mean())
    error = np.sqrt((np.var(OUR_TRIALS, ddof=1) + np.var(theirs, ddof=1)) / 5)
    assert dpr.difference.in_standard_errors == pytest.approx((np.mean(OUR_TRIALS) - theirs.mean()) / error)
    assert {name for name, row in found.items() if row.published} == set(ARMS) - {"rigl", "thin-dense"}
    assert (found["dense"].difference, found["dense"].remark) == (None, "the authors report one trial")
    # none of the preset's arms is another algorithm than theirs
    assert not any(row.deviations for row in rows)
    judged = {name: row.remark for name, row in found.items() if row.difference}
    doubt = "their released scripts train it for 400 epochs"
    assert judged == {"dpr": "", "set": "", "deepr": "", "pruned-dense": "", "static": doubt}


@pytest.mark.parametrize(
    ("options", "remark"),
    [
        ({"training.epochs": 20}, "shortened: 20 of 200 epochs"),
        ({"training.epochs": 400}, "lengthened: 400 of 200 epochs"),
        ({"data.limit": 2000}, "shortened: 2,000 training images"),
        ({"data.held_out": 5000}, "shortened: 5,000 held-out training images for a test"),
    ],
)
def test_a_shorter_or_longer_study_is_marked_and_not_compared(tmp_path, options, remark):
    rows = beside(tmp_path, **options)
    published = {(row.difference, row.remark, row.deviations) for row in rows if row.published}
    assert published == {(None, remark, ())}


def test_of_lenet_on_mnist_it_is_said_that_its_schedules_are_not_released(tmp_path):
    mnist = StudyImages("MNIST", published=True)
    rows = beside(tmp_path, images=mnist, arms=ARMS, **{"data.name": "mnist", "model.name": LENET})
    found = {row.cell.arm.name: row for row in rows if row.published}
    assert found["dpr"].published == (98.35, 98.53, 98.51, 98.32, 98.51)
    assert set(found) == {"dpr", "static", "pruned-dense"}
    assert all(row.difference and "not released" in row.remark for row in found.values())


@pytest.mark.parametrize(
    ("options", "differing"),
    [
        ({"strategy.set.drop_fraction": 0.3}, {"set": [("strategy.set.drop_fraction", 0.3, 20000)]}),
        (
            {"strategy.set.ranking": "signed", "strategy.set.start": "er", "strategy.dpr.schedule.until_epoch": 150},
            {
                "set": [("strategy.set.ranking", "signed", "magnitude"), ("strategy.set.start", "er", "uniform")],
                "dpr": [("strategy.dpr.schedule.until_epoch", 150, 190)],
            },
        ),
        (
            {"strategy.iterative-pruning.prunings": 10, "reallocation.regrow_pruned": True},
            {
                **{name: [("reallocation.regrow_pruned", True, False)] for name in ("dpr", "set", "dense")},
                "pruned-dense": [
                    ("strategy.iterative-pruning.prunings", 10, 20),
                    ("reallocation.regrow_pruned", True, False),
                    ("dense: reallocation.regrow_pruned", True, False),
                ],
            },
        ),
        ({"data.flip": False}, None),
        ({"training.weight_decay": 1e-4}, None),
        ({"training.optimizer": "adam"}, None),
        ({"training.learning_rate": 0.1}, None),
    ],
)
def test_an_arm_with_other_settings_is_not_judged_and_the_row_says_which_they_are(tmp_path, options, differing):
    rows = {row.cell.arm.name: row for row in beside(tmp_path, **options) if row.published}
    assert set(rows) == {"dpr", "set", "dense", "pruned-dense"}
    for name, row in rows.items():
        found = [(one.setting, one.ours, one.authors) for one in row.deviations]
        assert found == differing.get(name, []) if differing else found
        if found:
            assert row.difference is None
            assert all(f"{setting} is " in row.remark for setting, _, _ in found)
        elif name != "dense":
            assert row.difference is not None


def test_an_arm_of_the_same_name_with_another_strategy_or_start_is_not_judged(tmp_path):
    preset = load_study("sparsities")
    arms = [
        attrs.evolve(preset.arm("deepr"), strategy=("deepr",)),
        attrs.evolve(preset.arm("dpr"), strategy=("set", "dpr")),
        attrs.evolve(preset.arm("static"), after="dpr", settings={"start.values": "fresh"}),
        attrs.evolve(preset.arm("pruned-dense"), after=None, settings={}, length=0.225),
    ]
    options = {"model.name": "wrn-28-2", "data.name": "cifar10"}
    study = attrs.evolve(preset, sparsities=(0.9,), trials=1, options=options, arms=arms, hypotheses=())
    place = StudyFolder(tmp_path / "study")
    place.create(study)
    rows = {row.cell.arm.name: row for row in compare_cells(study, place, CIFAR, {})}
    settings = {name: [one.setting for one in row.deviations] for name, row in rows.items()}
    assert (rows["deepr"].deviations[0].ours, rows["deepr"].deviations[0].authors) == ("deepr", "gradient-deepr")
    assert rows["dpr"].deviations[0].ours == "set + dpr"
    assert settings["static"] == ["start.values", "start.prune"]
    assert {"training.epochs", "training.learning_rate", "start.values"} <= set(settings["pruned-dense"])


def test_in_a_shortened_study_schedules_are_those_of_the_authors_as_long_as_they_are_stretched_alike(tmp_path):
    options = {"training.epochs": 20, "strategy.set.drop_fraction": 0.3}
    rows = {row.cell.arm.name: row for row in beside(tmp_path, **options) if row.published}
    assert rows["set"].remark.startswith("shortened: 20 of 200 epochs; other settings than the authors': strategy.set")
    assert {name for name, row in rows.items() if row.deviations} == {"set"}


def test_results_on_other_images_are_never_compared_with_published_ones(tmp_path):
    rows = beside(tmp_path, images=StudyImages("CIFAR-10 (JPEG copy)"))
    assert not any(row.published or row.difference or row.remark for row in rows)


def test_show_has_columns_of_published_results_only_for_the_same_setting(tmp_path, capsys):
    ours = {"model.name": "wrn-28-2", "data.name": "cifar10"}
    same = written_study(tmp_path / "same", lambda trial: OUR_TRIALS[trial.number], **ours)
    commands(["study", "show", str(same.path)], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "93.59 ± 0.17" in shown
    assert "the authors', %" in shown
    commands(["study", "show", str(same.path), "--json"], standalone_mode=False)
    (dpr,) = json.loads(capsys.readouterr().out)["cells"]
    assert dpr["authors"]["difference"] == pytest.approx(93.62 - 93.588)
    assert dpr["authors"]["deviations"] == []

    changed = written_study(
        tmp_path / "changed", lambda trial: OUR_TRIALS[trial.number], **ours, **{"strategy.dpr.target": 500}
    )
    commands(["study", "show", str(changed.path)], standalone_mode=False)
    table, _, note = capsys.readouterr().out.partition("note 1: ")
    assert "note 1" in table
    assert max(map(len, table.splitlines())) < 120
    assert note.startswith("other settings than the authors': strategy.dpr.target is 500, not 20000\n")
    commands(["study", "show", str(changed.path), "--json"], standalone_mode=False)
    (dpr,) = json.loads(capsys.readouterr().out)["cells"]
    assert dpr["authors"]["difference"] is None
    assert dpr["authors"]["remark"] == "other settings than the authors': strategy.dpr.target is 500, not 20000"
    assert dpr["authors"]["deviations"] == [{"setting": "strategy.dpr.target", "ours": 500, "authors": 20000}]

    other = written_study(tmp_path / "other", lambda _: 93.0, **ours, **{"data.dir": str(tmp_path / "gone")})
    commands(["study", "show", str(other.path)], standalone_mode=False)
    assert "authors" not in capsys.readouterr().out


def test_settings_that_only_one_side_has_are_told_in_plain_words():
    sentences = [Deviation("start.prune", *values).sentence for values in ((0.3, None), (None, 0.3), (0.3, 0.5))]
    assert sentences == [
        "start.prune is 0.3, and the authors do not set it",
        "start.prune is not set, and the authors have 0.3",
        "start.prune is 0.3, not 0.5",
    ]
